"""The models that come with nat: taken like run folders, small, and of no machine but their own folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import command

import nat
from nat.config import load_yaml
from nat.data.corpus import DataConfig, embedded_directory, read_corpus
from nat.errors import ConfigError
from nat.runs.folder import run_summary
from nat.runs.locations import MODELS, run_folder
from nat.scoring.scores import corpus_bleu

FOLDERS = sorted(path for path in (embedded_directory() / MODELS).iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_translates_like_a_run(folder: Path) -> None:
    """Every tenth test sentence of its own text, into each of its languages."""
    translator = nat.load(f"embedded:{folder.name}")
    names = translator.tags.languages if translator.tags is not None else ("de",)
    for name in names:
        sources, references = tenth(translator.data_option("test", ""), name)
        written = translator if translator.tags is None else translator.to_language(name)
        assert corpus_bleu(written.translate(sources), references)[0] > (20 if translator.tags is None else 15)


def tenth(location: str, language: str) -> tuple[list[str], list[str]]:
    columns = None if "lohelp4" in location else ["en", "de"]
    rows = read_corpus(DataConfig(target=language, test=location, columns=columns), "test")[::10]
    return rows["source"], rows["target"]


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
    assert "embedded:en-fr: no such model comes with nat, did you mean 'en-de-fr-es'?" in capsys.readouterr().err


def test_other_names_are_paths() -> None:
    assert run_folder("runs/ctc") == Path("runs/ctc")
    with pytest.raises(ConfigError, match="known: en-de, en-de-fr-es, en-de-teacher"):
        run_folder("embedded:../lohelp")
