"""Drafts, known words and constraints, as users give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import command

import nat
from nat.cli.decode import main
from nat.cli.edit import main as edit
from nat.errors import ConfigError, DataError

pytestmark = pytest.mark.timeout(300)
SENTENCES = ["Click OK.", "Opens the dialog.", "", "Choose the menu item to insert a new table."]
TERMS = ["Klicken\tOK", "Dialog", "", "eine neue Tabelle\tMenü"]
DRAFTS = ["Klicken Sie auf OK.", "", "", "Wählen Sie den Befehl."]
EDITORS = ["insertion", "kermit", "levenshtein", "edit_flow", "mask_predict", "diffusion"]


@pytest.fixture(scope="module")
def runs(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each method that edits, hardly trained: what is asked must be kept all the same."""
    folder = tmp_path_factory.mktemp("editors")
    for model in [*EDITORS, "ctc"]:
        assert command(*small, f"model={model}", f"run_dir={folder / model}", "trainer.max_updates=2") == 0
    return {model: folder / model for model in [*EDITORS, "ctc"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lines in (("source", SENTENCES), ("terms", TERMS), ("draft", DRAFTS)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def decode(run: Path, folder: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([f"run_dir={run}", "speed=false", "device=cpu", f"source={folder / 'source'}", *arguments])
    return int(stop.value.code or 0)


def results_of(folder: Path) -> tuple[list[str], dict[str, Any]]:
    report = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return (folder / "out").read_text(encoding="utf-8").splitlines(), report


@pytest.mark.parametrize("model", EDITORS)
def test_constraints_are_kept_and_counted(
    model: str, runs: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode(runs[model], folder, f"constraints={folder / 'terms'}", f"output={folder / 'out'}") == 0
    lines, report = results_of(folder)
    assert [line == "" for line in lines] == [False, False, True, False]
    for line, terms in zip(lines, TERMS, strict=True):
        assert all(term in line for term in terms.split("\t"))
    assert (report["num_constraints"], report["num_constraints_kept"]) == (5, 5)
    assert "constraints kept: 100 % (5 of 5)" in capsys.readouterr().out


@pytest.mark.parametrize("model", EDITORS)
def test_a_draft_is_where_decoding_starts(model: str, runs: dict[str, Path], folder: Path) -> None:
    reference = folder / "reference"
    reference.write_text("\n".join(DRAFTS) + "\n", encoding="utf-8")
    given = [f"draft={folder / 'draft'}", f"reference={reference}", f"output={folder / 'out'}"]
    assert decode(runs[model], folder, *given) == 0
    lines, report = results_of(folder)
    assert (report["num_drafts"], report["draft_bleu"], report["draft_chrf"]) == (2, pytest.approx(100), 100)
    assert report["num_drafts_changed"] == sum(line != draft for line, draft in zip(lines, DRAFTS, strict=True))
    assert decode(runs[model], folder, f"output={folder / 'out'}") == 0
    assert results_of(folder)[0] != lines
    assert results_of(folder)[0][1:3] == lines[1:3]  # nothing was asked of them


@pytest.mark.parametrize("model", EDITORS)
def test_from_python_as_from_files(model: str, runs: dict[str, Path], folder: Path) -> None:
    translator = nat.load(runs[model], device="cpu")
    requests = [
        nat.Request(source, draft=draft, constraints=tuple(filter(None, terms.split("\t"))))
        for source, draft, terms in zip(SENTENCES, DRAFTS, TERMS, strict=True)
    ]
    given = [f"draft={folder / 'draft'}", f"constraints={folder / 'terms'}", f"output={folder / 'out'}"]
    assert decode(runs[model], folder, *given) == 0
    assert translator.translate(requests) == results_of(folder)[0]
    assert translator.translate(["Click OK.", nat.Request("Click OK.")]) == translator.translate(["Click OK."]) * 2


REFUSED = {
    "ctc": ([], "draft: a CTC checkpoint"),
    "lines": ([], "has 3 lines but"),
    "unknown": ([], "line 2: the constraint '漢字' has characters that the run's vocabulary does not know"),
    "missing": (["draft=nowhere"], "nowhere"),
    "overwritten": ([], "this is an input, choose another file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, runs: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, line = REFUSED[case]
    (folder / "lines").write_text("a\nb\nc\n", encoding="utf-8")
    (folder / "unknown").write_text("\n漢字\n\n\n", encoding="utf-8")
    given = {
        "ctc": [f"draft={folder / 'draft'}"],
        "lines": [f"draft={folder / 'lines'}"],
        "unknown": [f"constraints={folder / 'unknown'}"],
        "overwritten": [f"draft={folder / 'draft'}", f"output={folder / 'draft'}"],
    }.get(case, options)
    run = runs["ctc" if case == "ctc" else "mask_predict"]
    assert decode(run, folder, f"output={folder / 'out'}", *given) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("nat-decode: ")
    assert line in told
    assert not (folder / "out").exists()


def test_known_words_are_refused_where_the_length_is_fixed(runs: dict[str, Path]) -> None:
    translator = nat.load(runs["mask_predict"], device="cpu")
    with pytest.raises(ConfigError, match=r"known: a MaskPredict checkpoint .* it heeds constraints, draft"):
        translator.translate([nat.Request("Click OK.", known="Klicken Sie auf ___.")])


def test_a_constraint_of_nothing_is_refused(runs: dict[str, Path]) -> None:
    translator = nat.load(runs["mask_predict"], device="cpu")
    with pytest.raises(DataError, match="the input, line 1: the constraint ' ' is empty"):
        translator.translate([nat.Request("Click OK.", constraints=(" ",))])


def test_what_the_positions_do_not_hold_is_refused(small: list[str], tmp_path: Path) -> None:
    learned = ["model.positions={kind: learned, max_length: 40}", "trainer.max_updates=1"]
    assert command(*small, "model=mask_predict", f"run_dir={tmp_path}", *learned) == 0
    translator = nat.load(tmp_path, device="cpu")
    with pytest.raises(DataError, match=r"line 1: draft, known words and constraints have .* writes at most 40"):
        translator.translate([nat.Request("Click OK.", draft="Klicken Sie auf OK. " * 20)])


# --- nat-edit ---------------------------------------------------------------------------------------


def study(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        edit([*arguments, "device=cpu"])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("model", EDITORS)
def test_a_run_is_examined_as_an_editor(
    model: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"run_dir={runs[model]}", f"teacher={runs['ctc']}", f"output={tmp_path / 'x.json'}", "data.max_words=4"]
    assert study(*given, "num_cases=20", "data.limit=40") == 0
    figures = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert figures["num_cases_kept"] == figures["num_cases"] == 20
    assert 20 <= figures["num_constraints_kept"] == figures["num_constraints"] <= 60
    assert 0 <= figures["constrained_bleu"] <= 100
    assert figures["draft_bleu"] != figures["teacher_bleu"]  # an untrained one
    told = capsys.readouterr().out
    assert "random constraints: kept 100 %" in told
    assert f"spoiled {figures['draft_bleu']:.2f}, edited {figures['edited_bleu']:.2f}" in told


def test_a_run_that_cannot_edit_is_refused(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert study(f"run_dir={runs['ctc']}", f"teacher={runs['ctc']}") == 2
    assert capsys.readouterr().err.endswith("a CTC checkpoint cannot edit\n")


@pytest.mark.parametrize("model", ["insertion", "kermit", "levenshtein", "edit_flow"])
def test_known_words_stay_and_only_gaps_are_filled(
    model: str, runs: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["Klicken Sie auf ___.", "___ das Dialogfeld ___", "", "___"]
    (folder / "known").write_text("\n".join(known) + "\n", encoding="utf-8")
    assert decode(runs[model], folder, f"known={folder / 'known'}", f"output={folder / 'out'}") == 0
    lines, report = results_of(folder)
    assert lines[0].startswith("Klicken Sie auf")
    assert lines[0].endswith(".")
    assert "das Dialogfeld" in lines[1]
    assert (report["num_known"], report["num_known_kept"]) == (3, 3)
    assert "known words kept: 100 % (3 of 3)" in capsys.readouterr().out
