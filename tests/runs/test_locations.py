"""The models that come with nat: taken like run folders, small, and of no machine but their own folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import command

import nat
from nat.config import load_yaml
from nat.data.lines import read_lines
from nat.data.readers import embedded_directory
from nat.errors import ConfigError
from nat.runs.folder import run_summary
from nat.runs.locations import MODELS, run_folder
from nat.scoring.scores import corpus_bleu

FOLDERS = sorted(path for path in (embedded_directory() / MODELS).iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def text() -> tuple[list[str], list[str]]:
    """Every tenth test sentence, and its reference."""
    pairs = (line.split("\t") for line in list(read_lines(embedded_directory() / "lohelp" / "test.tsv.gz"))[::10])
    sources, references = zip(*pairs, strict=True)
    return list(sources), list(references)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_translates_like_a_run(folder: Path, text: tuple[list[str], list[str]]) -> None:
    sources, references = text
    translated = nat.load(f"embedded:{folder.name}").translate(sources)
    assert corpus_bleu(translated, references)[0] > 20


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_is_small_and_names_no_path_of_the_machine_that_trained_it(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8_000_000
    config = load_yaml(folder / "config.yaml")
    assert config["run_dir"] == f"embedded:{folder.name}"
    assert not [value for value in named_files(config) if not value.startswith("embedded:")]
    assert run_summary(folder)["finished"]


def named_files(options: object) -> list[str]:
    """Values that hold a slash."""
    if isinstance(options, dict):
        return [name for value in options.values() for name in named_files(value)]
    if isinstance(options, list):
        return [name for value in options for name in named_files(value)]
    return [options] if isinstance(options, str) and "/" in options else []


def test_a_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.en").write_text("Save your spreadsheet.\n", encoding="utf-8")
    options = [f"source={tmp_path}/in.en", f"output={tmp_path}/out.de"]
    assert command("run_dir=embedded:en-de", *options, name="decode") == 0
    assert (tmp_path / "out.de").read_text(encoding="utf-8") == "Speichern Sie das Tabellendokument.\n"
    assert command("run_dir=embedded:en-fr", *options, name="decode") == 2
    assert "embedded:en-fr: no such model comes with nat, did you mean 'en-de'?" in capsys.readouterr().err


def test_other_names_are_paths() -> None:
    assert run_folder("runs/ctc") == Path("runs/ctc")
    with pytest.raises(ConfigError, match="known: en-de, en-de-teacher"):
        run_folder("embedded:../lohelp")
