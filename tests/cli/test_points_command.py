"""Points from the command line: training, decoding of more points than training had, scores, pictures, refusals."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import command

from nat.decoding.translator import load

QUICK = [
    "experiment=tiny",
    "data=convex_hull",
    "data.max_words=null",
    "data.train=task:convex_hull?points=5-8&pairs=300&seed=1",
    "data.valid=task:convex_hull?points=5-8&pairs=20&seed=2",
    "data.test=task:convex_hull?points=5-8&pairs=20&seed=3",
    "model.size={dim: 16, num_heads: 2, ffn_dim: 32, dropout: 0.0}",
    "trainer={max_updates: 12, tokens_per_update: 300, log_every: 4, save_every: 12, device: cpu}",
    "validation={every: 6, max_sentences: 10, keep_best: 2, metric: accuracy}",
]
FIFTY = "data.test=task:convex_hull?points=50&pairs=6&seed=4"
Decode = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name in ("pointer", "pointer_parallel", "autoregressive"):
        found[name] = tmp_path_factory.mktemp("points") / name
        assert command(*QUICK, f"model={name}", f"run_dir={found[name]}") == 0
    return found


@pytest.fixture
def nat_decode() -> Decode:
    return functools.partial(command, name="decode")


@pytest.mark.parametrize("name", ["pointer", "pointer_parallel"])
def test_pointers_answer_for_more_points_than_training_had(
    name: str, runs: dict[str, Path], nat_decode: Decode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "hulls"
    pictures = tmp_path / "hulls.svg"
    assert nat_decode(f"run_dir={runs[name]}", FIFTY, f"output={output}", f"pictures={pictures}", "speed=false") == 0
    report = json.loads((tmp_path / "hulls.json").read_text())
    assert {"accuracy", "invalid", "area", "area_fails"} <= report.keys()
    assert "by_points" not in report
    lines = output.read_text().splitlines()
    assert len(lines) == 6
    assert all({int(word) for word in line.split()} <= set(range(50)) for line in lines)
    assert "all: accuracy " in capsys.readouterr().out
    text = pictures.read_text()
    assert text.startswith("<?xml")
    assert "WRONG" in text or "right" in text or text.count("<path") > 6


def test_a_split_of_several_numbers_of_points_is_scored_by_number(
    runs: dict[str, Path], nat_decode: Decode, tmp_path: Path
) -> None:
    assert nat_decode(f"run_dir={runs['pointer']}", f"output={tmp_path / 'x'}", "speed=false") == 0
    report = json.loads((tmp_path / "x.json").read_text())
    assert sum(row["sentences"] for row in report["by_points"]) == 20
    metrics = [json.loads(line) for line in (runs["pointer"] / "metrics.jsonl").read_text().splitlines()]
    assert all("accuracy" in line for line in metrics if line.get("kind") == "valid")
    summary = json.loads((runs["pointer"] / "run.json").read_text())
    assert summary["metric"] == "accuracy"


def test_a_fixed_vocabulary_is_refused_beyond_the_points_of_training(
    runs: dict[str, Path], nat_decode: Decode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["autoregressive"]
    assert nat_decode(f"run_dir={run}", f"output={tmp_path / 'eight'}", "speed=false") == 0
    capsys.readouterr()
    assert nat_decode(f"run_dir={run}", FIFTY, f"output={tmp_path / 'fifty'}") == 2
    assert capsys.readouterr().err.strip() == (
        "nat-decode: split test, line 1: 50 points, but this model has a fixed vocabulary, the indices of the 8 points "
        "that training had; model=pointer has no such limit"
    )
    assert not (tmp_path / "fifty").exists()
    changes = ["data.valid=task:convex_hull?points=9&pairs=5", f"run_dir={tmp_path / 'run'}"]
    assert command(*QUICK, "model=autoregressive", *changes) == 2
    assert "data.valid, line 1: 9 points, but this model has a fixed vocabulary" in capsys.readouterr().err
    assert command(*QUICK, "model=pointer", "trainer.max_updates=1", *changes) == 0


def test_points_from_a_file_and_from_python(
    runs: dict[str, Path], nat_decode: Decode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = tmp_path / "points", tmp_path / "truth"
    source.write_text("0,0 1,0 0,1\n\n0.5,0.5 0.1,0.9 0.2,0.2 0.9,0.1\n")
    reference.write_text("0 1 2\n\n0 1 2 3\n")
    given = [f"run_dir={runs['pointer']}", f"source={source}", f"output={tmp_path / 'out'}", "speed=false"]
    assert nat_decode(*given, f"reference={reference}") == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["by_points"]) == 2
    lines = (tmp_path / "out").read_text().splitlines()
    translator = load(runs["pointer"])
    assert translator.translate(source.read_text().splitlines()) == lines
    assert lines[1] == ""
    assert translator.score(["0,0 1,0 0,1"], ["0 1 2"])[0] < 0
    reference.write_text("0 1 2\n\n0 1 2 4\n")
    assert nat_decode(*given, f"reference={reference}") == 2
    assert f"{reference} line 3: the index 4 is none of the 4 points" in capsys.readouterr().err
    source.write_text("0,0 1,0 0,1\n0,0 house\n")
    assert nat_decode(*given) == 2
    assert f"{source}, line 2: 'house' is no point" in capsys.readouterr().err


def test_what_is_for_points_is_refused_for_text(
    small: list[str], tmp_path: Path, nat_decode: Decode, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert command(*small, "model=ctc", f"run_dir={run}", "validation.metric=accuracy") == 2
    assert "validation.metric=accuracy: is of points (data.tokenizer.kind=points)" in capsys.readouterr().err
    assert command(*small, "model=pointer", f"run_dir={run}") == 2
    assert "data.tokenizer.kind=points is needed, as in data=convex_hull" in capsys.readouterr().err
    assert command(*small, "model=ctc", f"run_dir={run}", "trainer.max_updates=1") == 0
    assert nat_decode(f"run_dir={run}", f"pictures={tmp_path / 'x.svg'}") == 2
    assert "are drawn of points (data.tokenizer.kind=points), this run has text" in capsys.readouterr().err
    assert nat_decode(f"run_dir={run}", "source=x.txt", f"pictures={tmp_path / 'x.svg'}") == 2
    assert "needs reference=FILE" in capsys.readouterr().err
