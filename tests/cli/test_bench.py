"""nat-bench, as a user runs it, at tiny sizes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from nat.bench.alignments import AlignmentProblem, AlignmentSizes
from nat.bench.benchmark import BENCHMARKS, BenchmarkConfig
from nat.bench.edits import EditSizes, random_pairs
from nat.bench.turns import Contender, compare
from nat.cli.bench import main
from nat.config import parse
from nat.data.vocabulary import NUM_SYMBOLS
from nat.ops.ctc import ctc_loss

TINY = [f"alignments.{size}" for size in ("batch_size=2", "source_length=3", "target_length=4", "vocabulary_size=9")]

TODAY = [(datetime.now(UTC) + timedelta(days)).date() for days in (0, 1)]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def test_alignments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    output = tmp_path / "new" / "figures.json"
    assert run("alignments", *TINY, "alignments.upsampling=2", "repeats=3", f"output={output}") == 0
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert figures["benchmark"] == "alignments"
    assert figures["sizes"] == {
        "batch_size": 2, "source_length": 3, "target_length": 4, "upsampling": 2, "vocabulary_size": 9,
    }  # fmt: skip
    assert (figures["repeats"], figures["num_threads"], figures["device"]) == (3, 1, "cpu")
    assert figures["machine"] and datetime.fromisoformat(figures["date"]).date() in TODAY
    rows = figures["results"]
    assert [row["limit"] for row in rows] == [None, 3.0, 1.0]
    lines = capsys.readouterr().out.split("\n")
    for row, line in zip(rows, lines[2:5], strict=True):
        assert row["milliseconds"] > 0
        assert row["ratio"] == row["milliseconds"] / rows[0]["milliseconds"]
        assert line.startswith(f"| {row['name']} | {row['milliseconds']:.1f} | {row['ratio']:.3f} |")
    assert "medians of 3" in lines[6] and "vocabulary_size=9" in lines[6]
    assert torch.get_num_threads() == threads


def test_edits(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [f"edits.{size}" for size in ("batch_size=2", "source_length=3", "target_length=4", "vocabulary_size=9")]
    assert run("edits", *sizes, "repeats=1") == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[2].startswith("| training step of small/levenshtein") and "| 1.000 |" in lines[2]
    assert lines[3].startswith("| best_edits") and lines[3].endswith("| 0.05 |")
    assert "target_length=4, vocabulary_size=9" in lines[5]


def test_dag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "dag.json"
    small = ("batch_size=2", "source_length=3", "target_length=4", "vocabulary_size=300", "dim=8", "num_heads=2")
    more = ("ffn_dim=8", "num_layers=1", "upsampling=[2,4]", "target_lengths=[3,9]")
    assert run("dag", *(f"dag.{size}" for size in (*small, *more)), "repeats=1", f"output={output}") == 0
    rows = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert [row["name"] for row in rows[:6]] == [
        f"{name}, {number} a token, training step{more}"
        for more in ("", " with glancing")
        for name, number in (("ctc", 2), ("dag", 2), ("dag", 4))
    ]
    assert [row["name"] for row in rows[-2:]] == [
        f"{name}, T=9, 12 vertices" for name in ("marginal_loss, forward and backward", "best_path")
    ]
    assert [row["limit"] for row in rows] == [None, None, 2.0, *[None] * 11]
    assert all(row["milliseconds"] > 0 and row["peak_megabytes"] > 0 for row in rows)
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "| | ms | ratio | at most | peak MB |"
    assert lines[2].startswith("| ctc, 2 a token, training step |") and "| 1.000 |" in lines[2]
    assert lines[-2] == "milliseconds of CPU time"
    assert run("dag", "dag.upsampling=[]") == 2
    assert "dag.upsampling=[]: at least one number is needed" in capsys.readouterr().err
    assert run("dag", "dag.target_lengths=[3,0]") == 2
    assert "target_lengths[1]=0: must be at least 1" in capsys.readouterr().err


SHORT = [f"attention.{size}" for size in ("kinds=[full]", "lengths=[16,32]", "fit_from=16", "dim=8", "num_heads=2")]


def test_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "attention.json"
    assert run("attention", *SHORT, "repeats=2", "attention.cpu_time=true", f"output={output}") == 0
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert (figures["benchmark"], figures["repeats"], figures["sizes"]["dim"]) == ("attention", 2, 8)
    (row,) = figures["results"]
    assert (row["name"], row["family"], row["parameters"]) == ("full", "full", 4 * 8 * 8 + 4 * 8)
    assert [point["length"] for point in row["points"]] == [16, 32]
    out = capsys.readouterr().out
    assert out.startswith("| milliseconds | exponent | N=16 | N=32 |") and "in CPU time" in out


def test_the_picture_from_figures_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "attention.json", tmp_path / "new" / "kinds.svg"
    assert run("attention", *SHORT, "repeats=1", f"output={output}") == 0
    (tmp_path / "full.json").write_text(json.dumps({"exact_match": 0.875, "bleu": 33.3}))
    measured = output.read_bytes()
    given = [f"attention.{name}={tmp_path}/KIND.json" for name in ("accuracy", "bleu")]
    capsys.readouterr()
    assert run("attention", f"attention.figures={output}", f"attention.picture={picture}", *given) == 0
    assert output.read_bytes() == measured
    shown = picture.read_text(encoding="utf-8")
    assert shown.count('<g id="full, exact match, % (') == shown.count('<g id="full, BLEU (') == 1
    out = capsys.readouterr().out
    assert (
        "| kind | exact match, % | BLEU |\n|:--|--:|--:|\n| full | 87.5 | 33.3 |\n" in out
        and f"picture: {picture}" in out
    )


@pytest.mark.parametrize("rows", [1, 7])
def test_the_pairs_of_edits_are_ordinary_tokens(rows: int) -> None:
    sizes = EditSizes(batch_size=rows, source_length=2, target_length=9, vocabulary_size=NUM_SYMBOLS + 2)
    batch = random_pairs(sizes)
    assert (batch.source.tokens.shape, batch.target.tokens.shape) == ((rows, 2), (rows, 9))
    assert set(batch.target.tokens.flatten().tolist()) == {NUM_SYMBOLS, NUM_SYMBOLS + 1}
    assert batch.target.valid.all()


def test_contenders_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], []
    monkeypatch.setattr("nat.bench.turns.time.perf_counter", lambda: clock[0])
    seconds = {"a": iter([90, 90, 1, 2, 30]), "b": iter([0, 0, 6, 6, 6])}  # two rounds of warm-up first

    def contender(name: str) -> Contender:
        def work() -> None:
            log.append(name)
            clock[0] += next(seconds[name])

        return Contender(name, work, limit=4.0)

    first, second = compare([contender("a"), contender("b")], repeats=3, device=torch.device("cpu"))
    assert log == ["a", "b"] * 5
    assert (first.milliseconds, first.ratio) == (2000.0, 1.0)
    assert (second.milliseconds, second.ratio, second.limit) == (6000.0, 3.0, 4.0)


@pytest.mark.parametrize("slots", [3, 4])
def test_every_row_of_the_problem_can_be_aligned(slots: int) -> None:
    sizes = AlignmentSizes(batch_size=50, source_length=slots, target_length=3, upsampling=1, vocabulary_size=3)
    problem = AlignmentProblem.random(sizes, torch.device("cpu"))
    assert problem.log_probs.shape == (50, slots, 3) and problem.log_probs.dtype == torch.float32
    assert ((problem.targets >= 1) & (problem.targets <= 2)).all()
    assert ctc_loss(problem.log_probs, *problem.rest, blank=0)[1].all()


KNOWN = f"known: {', '.join(BENCHMARKS)}"
REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    "no name": ([], ["no benchmark", KNOWN]),
    "no name but options": (
        ["repeats=2"],
        ["no benchmark", KNOWN],
    ),
    "unknown name": (
        ["alignment"],
        ["alignment: ", KNOWN],
    ),
    "unknown option": (["alignments", "alignments.size=2"], ["alignments.size", "no such option"]),
    "too long": (
        ["alignments", "alignments.target_length=91"],
        ["alignments.target_length=91", "upsampling * source_length=90"],
    ),
    "out of range": (["alignments", "repeats=0"], ["repeats=0", "at least 1"]),
    "unknown kind": (["attention", "attention.kinds=[fulll]"], ["attention.kinds=fulll", "did you mean 'full'"]),
    "options of an unknown kind": (["attention", "attention.options.fulll.x=1"], ["options.fulll", "'full'"]),
    "no options": (["attention", "attention.options.full=1"], ["options.full=1", "a mapping"]),
    "no length": (["attention", "attention.lengths=[]"], ["attention.lengths=[]", "at least one"]),
    "impossible length": (["attention", "attention.lengths=[0]"], ["attention.lengths[0]=0", "at least 1"]),
    "heads": (["attention", *SHORT, "attention.num_heads=3"], ["attention.kinds=full", "num_heads=3"]),
    "picture without scores": (["attention", "attention.picture=x.svg"], ["attention.picture", "accuracy or bleu"]),
    "scores without picture": (["attention", "attention.bleu=KIND.json"], ["attention.picture", "accuracy or bleu"]),
    "one file for all": (
        ["attention", "attention.bleu=x.json", "attention.picture=x.svg"],
        ["attention.bleu=x.json", "KIND"],
    ),
    "no scores": (
        ["attention", "attention.bleu=NOWHERE/KIND.json", "attention.picture=x.svg"],
        ["bleu=NOWHERE/KIND.json", "no such file"],
    ),
    "figures and output": (["attention", "attention.figures=x", "output=y"], ["output=y", "attention.figures"]),
    "no figures": (["attention", "attention.figures=NOWHERE"], ["NOWHERE", "no such file"]),
    "CPU time of threads": (
        ["attention", "attention.cpu_time=true", "num_threads=2"],
        ["cpu_time=true", "num_threads=1"],
    ),
    "unknown system": (["training", "training.contenders=[ctcc]"], ["training.contenders=ctcc", "did you mean 'ctc'"]),
    "no system": (["training", "training.contenders=[]"], ["contenders=[]", "at least one"]),
    "no checkout": (["training", "training.baseline=FILE"], ["training.baseline=FILE", "no checkout of nat"]),
    "output": (["alignments", "output=FILE/figures.json"], ["FILE", "not a folder"]),
}


@pytest.mark.parametrize("case", REFUSALS, ids=REFUSALS.keys())
def test_refusals(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    words, parts = REFUSALS[case]
    assert run(*(word.replace("FILE", str(file)) for word in words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nat-bench: ")
    for part in parts:
        assert part.replace("FILE", str(file)) in err


def test_the_picture_without_its_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nat.drawing.style.PACKAGE", "no_such_package")
    assert run("attention", "attention.picture=x.svg", "attention.bleu=KIND.json") == 2
    assert "attention.picture: no_such_package is missing; pip install" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("alignments", "device=cuda") == 2
    assert "device=cuda: torch sees no GPU here" in capsys.readouterr().err


def test_help_and_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "nat-bench alignments" in shown and "vocabulary_size: 8000" in shown and "choices:" not in shown
    from nat.composition import compose
    from nat.config import to_plain

    plain: dict[str, Any] = compose("bench", [])
    assert plain == to_plain(BenchmarkConfig()) == to_plain(parse(BenchmarkConfig, plain))


@pytest.mark.slow
def test_alignments_cost_what_they_may() -> None:
    from nat.bench.benchmark import run_benchmark

    figures, _ = run_benchmark("alignments", BenchmarkConfig(repeats=5))
    assert all(row["limit"] is None or row["ratio"] <= row["limit"] for row in figures["results"])


@pytest.mark.slow
def test_the_expert_costs_what_it_may() -> None:
    from nat.bench.benchmark import run_benchmark

    figures, _ = run_benchmark("edits", BenchmarkConfig(repeats=5))
    assert figures["results"][1]["ratio"] <= 0.05
