"""nat-report, as a user runs it, on tiny trained runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nat.cli.decode import main as decode
from nat.cli.report import main
from nat.decoding.history import read_history
from nat.errors import ConfigError
from nat.evaluation import opening as work
from nat.evaluation.opening import SystemOptions, parse_entry

SHORT = ("data.max_words=3", "speed_sentences=3", "device=cpu")
QUICK = (*SHORT, "plots=false")


def run(*arguments: str, command: Any = main) -> int:
    with pytest.raises(SystemExit) as stop:
        command([*arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def teacher(tiny_runs: dict[str, Path]) -> Path:
    return tiny_runs["autoregressive"]


@pytest.fixture
def student(tiny_runs: dict[str, Path]) -> Path:
    return tiny_runs["ctc"]


def test_two_runs_side_by_side(
    teacher: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "report"
    systems = f"run_dirs=[{teacher}?beam_size=2&num_candidates=2&name=beam 2|x,{student},{teacher}?batch_size=7]"
    assert run(systems, f"output={out}", "samples=4", *QUICK) == 0
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = ["beam 2|x", student.name, f"{teacher.name} batch_size=7"]
    assert [row["name"] for row in rows] == names
    assert [row["model"] for row in rows] == ["Autoregressive", "CTC", "Autoregressive"]
    assert rows[0]["decoding"]["beam_size"] == rows[0]["decoding"]["num_candidates"] == 2
    assert [row["batch_size"] for row in rows] == [64, 64, 7]
    assert rows[0]["speedup"] == 1.0
    for row in rows:
        assert row["speedup"] == rows[0]["ms_per_sentence_p50"] / row["ms_per_sentence_p50"]
        assert row["sentences_per_second"] > 0
        assert row["num_sentences"] == rows[0]["num_sentences"] > 20
    summary = json.loads((student / "run.json").read_text(encoding="utf-8"))
    assert rows[1]["training_updates"] == summary["update"]
    assert rows[1]["training_minutes"] == summary["seconds"] / 60
    assert rows[1]["num_parameters"] == summary["num_parameters"]
    check_texts(out, names, rows, capsys.readouterr().out)


def check_texts(out: Path, names: list[str], rows: list[dict[str, Any]], shown: str) -> None:
    """table.md, samples.txt, and both on standard output."""
    table, samples = (out / "table.md").read_text(encoding="utf-8"), (out / "samples.txt").read_text(encoding="utf-8")
    assert shown == f"{table}\n{samples}"
    lines = table.split("\n")
    cells = [line.replace("\\|", "").count("|") for line in lines[: 2 + len(rows)]]
    assert len(set(cells)) == 1
    assert "beam 2\\|x" in lines[2]
    assert f"| {rows[1]['bleu']:.2f} |" in lines[3]
    assert rows[0]["bleu_signature"] in table
    assert rows[0]["chrf_signature"] in table
    blocks = [block.split("\n") for block in samples.rstrip("\n").split("\n\n")]
    assert len(blocks) == 4
    for block in blocks:
        for line, name in zip(block, ["source", "reference", *names], strict=True):
            assert line.startswith(name)


def test_candidates_and_their_choice(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beam = f"{student}?beam_size=4&num_candidates=4"
    entries = [
        str(student),
        f"{beam}&teacher={teacher}&name=rescored",
        f"{beam}&choose=mbr_chrf&name=mbr",
        str(teacher),
    ]
    opened: list[str] = []
    real = work.load
    monkeypatch.setattr(work, "load", lambda path, **options: opened.append(path) or real(path, **options))
    assert run(f"run_dirs=[{','.join(entries)}]", f"output={tmp_path}/out", "samples=2", *QUICK) == 0
    assert opened == [str(student), str(teacher)]  # each once
    rows = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["choice"] for row in rows] == ["first", "teacher", "mbr_chrf", "first"]
    assert [row["num_candidates"] > 1 for row in rows] == [False, True, True, False]
    assert rows[1]["teacher"] == str(teacher)
    assert rows[1]["oracle_bleu"] == rows[2]["oracle_bleu"] >= rows[1]["bleu"]
    assert rows[1]["num_choice_differs"] > 0
    lines = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").split("\n")
    assert lines[0].endswith("| candidates | other chosen | oracle BLEU |")
    assert lines[2].endswith("| 1.00 | 0 | - |")
    assert lines[3].endswith(f"| {rows[1]['num_choice_differs']} | {rows[1]['oracle_bleu']:.2f} |")
    options = ("decoding.beam_size=4", "decoding.num_candidates=4", f"teacher={teacher}", "speed=false", *SHORT)
    assert run(f"run_dir={student}", f"output={tmp_path}/out.txt", *options, command=decode) == 0
    alone = json.loads((tmp_path / "out.txt.json").read_text(encoding="utf-8"))
    for name in ("bleu", "teacher", "teacher_score", "num_choice_differs", "oracle_bleu", "oracle_chrf", "choice"):
        assert rows[1][name] == alone[name]


def test_scores_are_those_of_nat_decode(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert run(f"run_dirs=[{student}]", f"output={out}", "decoding.beam_size=3", *QUICK) == 0
    options = ("decoding.beam_size=3", "speed=false", *SHORT)
    assert run(f"run_dir={student}", f"output={tmp_path}/out.txt", *options, command=decode) == 0
    (row,) = json.loads((out / "results.json").read_text(encoding="utf-8"))
    alone = json.loads((tmp_path / "out.txt.json").read_text(encoding="utf-8"))
    for name in (
        "bleu",
        "bleu_signature",
        "chrf",
        "length_ratio",
        "exact_match",
        "repetition_rate",
        "passes",
        "num_sentences",
    ):
        assert row[name] == alone[name]
    first = (out / "samples.txt").read_text(encoding="utf-8").split("\n")[2]
    assert first.endswith((tmp_path / "out.txt").read_text(encoding="utf-8").split("\n")[0])


def test_ctranslate2_beside_our_own_search(teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    fast_one = f"{teacher}?engine=ctranslate2"
    systems = f"run_dirs=[{teacher}?name=own,{fast_one},{fast_one}&beam_size=2,{fast_one}&precision=int8]"
    assert run(systems, f"output={tmp_path}", "samples=4", *QUICK) == 0
    own, fast, beam, int8 = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["precision"] for row in (own, fast, beam, int8)] == ["fp32", "fp32", "fp32", "int8"]
    assert fast["name"] == f"{teacher.name} engine=ctranslate2"
    assert [row["engine"] for row in (own, fast, beam)] == ["torch", "ctranslate2", "ctranslate2"]
    for name in ("bleu", "chrf", "passes", "num_truncated", "unknown_rate", "num_parameters"):
        assert own[name] == fast[name]
    assert (fast["decoding"]["beam_size"], beam["decoding"]["beam_size"]) == (1, 2)
    assert "ctranslate2" in fast["versions"]
    assert "ctranslate2" not in own["versions"]
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").split("\n")
    assert "| Autoregressive |" in lines[2]
    assert "| Autoregressive (ctranslate2) |" in lines[3]
    assert "| Autoregressive (ctranslate2 int8) |" in lines[5]
    for block in (tmp_path / "samples.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n"):
        _, _, first, second, *_ = block.split("\n")
        assert second.removeprefix(fast["name"]).strip() == first.removeprefix("own").strip()


def test_ctranslate2_is_missing(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert run(f"run_dirs=[{teacher}?engine=ctranslate2]", f"output={tmp_path}/out", *QUICK) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"run_dirs, {teacher}?engine=ctranslate2: engine=ctranslate2: it cannot be imported" in err
    assert err.endswith("; pip install 'nat-translation[ctranslate2]'\n")
    assert not (tmp_path / "out").exists()


REFUSALS = {
    "no runs": (["run_dirs=[]"], ["run_dirs=[]", "at least one"]),
    "not given": (["samples=1"], ["run_dirs", "a value is needed"]),
    "no run": (["run_dirs=[nowhere]"], ["nowhere", "not a run folder"]),
    "no list": (["run_dirs=nowhere"], ["run_dirs=nowhere", "a list is needed"]),
    "no value": (["run_dirs=[STUDENT?beam_size]"], ["'beam_size' is not option=value"]),
    "unknown option": (
        ["run_dirs=[STUDENT?max_passes=3]"],
        ["STUDENT?max_passes=3", "decoding.max_passes=3", "beam_size"],
    ),
    "of the wrong type": (["run_dirs=[STUDENT?beam_size=x]"], ["STUDENT?beam_size=x", "decoding.beam_size=x"]),
    "unknown engine": (["run_dirs=[STUDENT?engine=marian]"], ["STUDENT?engine=marian", "allowed are torch, "]),
    "engine of another method": (["run_dirs=[STUDENT?engine=ctranslate2]"], ["engine=ctranslate2: "]),
    "choice": (["run_dirs=[STUDENT?choose=best]"], ["STUDENT?choose=best: choose=best: allowed are first, own"]),
    "choice of one": (["run_dirs=[STUDENT?choose=own]"], ["STUDENT?choose=own: choose=own", "num_candidates=1"]),
    "no teacher": (
        ["run_dirs=[STUDENT?beam_size=2&num_candidates=2&choose=teacher]"],
        [": choose=teacher: needs a model"],
    ),
    "teacher": (["run_dirs=[STUDENT?teacher=nowhere]"], ["nowhere", "not a run folder"]),
    "same name": (["run_dirs=[STUDENT,STUDENT]"], ["two systems are called", "?name=LABEL"]),
    "split": (["run_dirs=[STUDENT]", "split=tset"], ["split=tset"]),
    "tokenizer": (["run_dirs=[STUDENT]", "data.tokenizer.kind=bpe"], ["data.tokenizer.kind=bpe"]),
    "output below a file": (["run_dirs=[STUDENT]", "output=FILE"], ["FILE", "not a folder"]),
}


@pytest.mark.parametrize("case", REFUSALS, ids=REFUSALS.keys())
def test_refusals(case: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")

    def filled(words: list[str]) -> list[str]:
        return [word.replace("STUDENT", str(student)).replace("FILE", str(file)) for word in words]

    arguments, parts = REFUSALS[case]
    assert run(f"output={tmp_path}/out", *filled(arguments), "device=cpu") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nat-report: ")
    for part in filled(parts):
        assert part in err
    assert list(tmp_path.iterdir()) == [file]


def test_entries() -> None:
    assert parse_entry("runs/a", {"beam_size": 2}) == SystemOptions("runs/a", "a", decoding={"beam_size": 2})
    assert parse_entry("runs/a/?beam_size=4&length_penalty=0.5", {"beam_size": 2}) == SystemOptions(
        "runs/a/", "a beam_size=4 length_penalty=0.5", decoding={"beam_size": 4, "length_penalty": 0.5}
    )
    assert parse_entry("a?name=best of 4&num_candidates=4", {}) == SystemOptions(
        "a", "best of 4", decoding={"num_candidates": 4}
    )
    assert parse_entry("a?name=7&teacher=1.50&weights=2", {}) == SystemOptions("a", "7", "2", teacher="1.50")
    assert parse_entry("a?x=null&y=true", {}) == SystemOptions("a", "a x=null y=true", decoding={"x": None, "y": True})
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_entry("a?x=[", {})


def test_passes_against_length_are_in_the_rows(teacher: Path, student: Path, tmp_path: Path) -> None:
    assert run(f"run_dirs=[{teacher}?name=step by step,{student}]", f"output={tmp_path}", *QUICK) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for row in rows:
        groups = row["passes_by_length"]
        total = sum(group["sentences"] for group in groups)
        assert total == row["num_sentences"] - row["num_empty"]
        assert sum(group["sentences"] * group["passes"] for group in groups) / total == pytest.approx(row["passes"])
        assert [group["length"] for group in groups] == sorted({group["length"] for group in groups})
    assert all(group["passes"] == 1 for group in rows[1]["passes_by_length"])
    charts = {chart["name"]: chart for chart in json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))}
    (points, _) = [series["points"] for series in charts["passes_by_length"]["series"]]
    assert points == [[group["length"], group["passes"]] for group in rows[0]["passes_by_length"]]
    assert not (tmp_path / "figures").exists()  # plots=false
    assert "no figures were drawn" in (tmp_path / "index.html").read_text(encoding="utf-8").lower()


def test_some_of_the_sentences(student: Path, tmp_path: Path) -> None:
    assert run(f"run_dirs=[{student}]", f"output={tmp_path}", "max_sentences=4", "samples=3", *QUICK) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert row["num_sentences"] == 4
    assert row["text"].startswith("split test, 4 of ")
    assert len((tmp_path / "outputs" / "source.txt").read_text(encoding="utf-8").splitlines()) == 4
    found = read_history(tmp_path / "histories" / f"{student.name}.jsonl")
    assert [item.index for item in found] == [0, 1, 2]
    assert run(f"run_dirs=[{student}]", f"output={tmp_path}", "max_sentences=0", *QUICK) == 2


def test_names_that_differ_in_signs_have_files_of_their_own(teacher: Path, student: Path, tmp_path: Path) -> None:
    names = ["a b", "a/b", "A|b", "reference", "Source", "x" * 300]
    entries = [f"{student if i % 2 else teacher}?name={name}" for i, name in enumerate(names)]
    assert run(f"run_dirs=[{','.join(entries)}]", f"output={tmp_path}", "max_sentences=3", "samples=2", *QUICK) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == names
    files = [tmp_path / row["output"] for row in rows]
    written = {path.name.lower() for path in (tmp_path / "outputs").iterdir()}
    assert written == {"source.txt", "reference.txt", *(path.name.lower() for path in files)}
    assert len(written) == 2 + len(names)
    blocks = (tmp_path / "samples.txt").read_text(encoding="utf-8").split("\n\n")
    for name, path in zip(names, files, strict=True):
        lines = path.read_text(encoding="utf-8").splitlines()
        histories = read_history(tmp_path / "histories" / f"{path.stem}.jsonl")
        assert [item.translation.text for item in histories] == [lines[item.index] for item in histories]
        assert f"\n{name} ".replace("reference ", "reference  ") in blocks[0]
    assert files[0].read_bytes() != files[1].read_bytes()  # of other runs


def test_plots_without_their_package(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nat.drawing.style.PACKAGE", "no_such_package")
    quick = [word for word in QUICK if not word.startswith("plots")]
    assert run(f"run_dirs=[{teacher}]", f"output={tmp_path}/out", *quick) == 0  # the page says what is missing
    assert "pip install" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert run(f"run_dirs=[{teacher}]", f"output={tmp_path}", "plots=true", *quick) == 2
    told = capsys.readouterr().err
    assert told == "nat-report: plots=true: no_such_package is missing; pip install 'nat-translation[plot]'\n"
