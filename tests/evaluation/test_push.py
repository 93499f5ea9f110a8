"""nat-push writes what nat takes again, without paths of this machine; a hub's folder runs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import MODELS, command, make_run, vocabularies_of
from hub import COMMIT, Hub
from safetensors.torch import load_file, save_file

import nat
from nat.data.tokenizer import Tokenizers
from nat.errors import DataError
from nat.runs.locations import embedded_model, hub_model
from nat.runs.portable import write_portable

SENTENCE = "Save your spreadsheet."
REPORT = {
    "bleu": 28.18, "bleu_signature": "nrefs:1", "chrf": 57.95, "chrf_signature": "nc:6", "num_sentences": 1088,
    "text": "split test", "date": "2026-11-28", "ms_per_sentence_p50": 4.6, "sentences_per_second": 466.4,
    "machine": "a machine", "num_threads": 1, "device": "cpu", "engine": "torch", "precision": "fp32", "batch_size": 64,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose configuration names files of this machine."""
    folder = tmp_path / "secret" / "run"
    shutil.copytree(embedded_model("en-de"), folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["train"], config["init_from"] = f"{tmp_path}/secret/train.jsonl", f"{tmp_path}/secret/teacher"
    config["data"]["tokenizer"]["path"] = f"{tmp_path}/secret/tokenizer"
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "checkpoints").mkdir()
    return folder


def written(tmp_path: Path, run: Path, *words: str) -> Path:
    output = tmp_path / "pushed"
    assert command(f"run_dir={run}", "repo=me/fast", f"output={output}", *words, name="push") == 0
    return output


def names_no_folder(folder: Path) -> bool:
    texts = [path.read_bytes() for path in folder.rglob("*") if path.suffix in (".yaml", ".json", ".md")]
    return not any(b"secret" in text for text in texts)


def test_a_run_is_pushed_without_what_is_of_this_machine(tmp_path: Path, run: Path) -> None:
    folder = written(tmp_path, run)
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.yaml", "model.safetensors", "run.json", "tokenizer",
    }  # fmt: skip
    assert names_no_folder(folder)
    assert "train: `train.jsonl`" in (folder / "README.md").read_text(encoding="utf-8")
    assert nat.load(folder).translate([SENTENCE]) == nat.load(run).translate([SENTENCE])


@pytest.mark.parametrize("name", [name for name in MODELS if not vocabularies_of(name).points])
def test_weights_are_read_once_and_held_against_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = Tokenizers.load(embedded_model("en-de") / "tokenizer")
    run = make_run(tmp_path / "run", name, {}, tokenizers)
    read: list[Path] = []

    def noted(path: Path, **options: Any) -> dict[str, torch.Tensor]:
        read.append(path)
        return load_file(path, **options)

    monkeypatch.setattr("nat.runs.weights.load_file", noted)
    write_portable(run, tmp_path / "portable", name="x")
    assert read == [run / "model.safetensors"]
    written, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "portable", run))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())
    save_file(expected | {"more": torch.zeros(1)}, run / "model.safetensors")
    with pytest.raises(DataError, match="does not fit this model: the model has no tensor more"):
        write_portable(run, tmp_path / "again", name="x")
    assert not (tmp_path / "again").exists()


def test_an_export_too(tmp_path: Path, run: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    export = tmp_path / "secret" / "export"
    assert command(f"run_dir={run}", f"output={export}", "precision=fp32", "max_sentences=0", name="export") == 0
    folder = written(tmp_path, export)
    assert names_no_folder(folder)
    assert nat.load(folder).translate([SENTENCE]) == nat.load(export).translate([SENTENCE])
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError, match=r"model\.onnx: was changed or cut short"):
        nat.load(folder)


def test_the_card_shows_what_was_measured(tmp_path: Path, run: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    words = [f"report={tmp_path}/report.json", "languages=[en,de]", "licence=apache-2.0"]
    text = (written(tmp_path, run, *words) / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["language"] == ["en", "de"]
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("apache-2.0", "nat", "translation")
    for line in (
        "- BLEU 28.18 (`nrefs:1`)",
        "- a sentence alone 4.6 ms (median), 466 sentences/s in batches of 64; torch fp32, a machine, 1 threads, cpu",
        'print(nat.load("hub:me/fast").translate(["..."]))',
    ):
        assert line in text


def test_the_hub_gets_the_folder(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo: str, **options: Any) -> None:
            calls.append((repo, options))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            calls.append((repo_id, {"files": sorted(p.name for p in folder_path.iterdir()), "message": commit_message}))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert command(f"run_dir={run}", "repo=me/fast", "private=true", "message=New", name="push") == 0
    assert calls[0] == ("me/fast", {"private": True, "exist_ok": True})
    assert calls[1][0] == "me/fast"
    assert calls[1][1]["message"] == "New"
    assert "README.md" in calls[1][1]["files"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["repo=fast"], "repo=fast: USER/NAME is needed"),
        (["repo=me/fast", "languages=[en]"], "languages=['en']: a source and a target language are needed"),
        (["repo=me/fast", "report={run}/run.json"], "no report of nat-decode"),
        (["repo=me/fast", "run_dir={run}/tokenizer"], "not a run folder"),
        (["repo=me/fast", "output={run}"], "is there already, choose another folder"),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"run_dir={run}", *(word.format(run=run) for word in words), name="push") == 2
    assert message in capsys.readouterr().err


# --- from the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """With the fast student as me/fast, and files beside it that are no part of a model."""
    folder = tmp_path / "repository"
    shutil.copytree(embedded_model("en-de"), folder)
    for name in ("pytorch_model.bin", "setup.py", "extra.pkl"):
        (folder / name).write_bytes(b"not wanted")
    hub = Hub("me/fast", folder)
    yield hub
    hub.close()


def test_a_model_of_the_hub_translates_and_nothing_else_is_copied(hub: Hub, tmp_path: Path) -> None:
    expected = nat.load("embedded:en-de").translate([SENTENCE])
    for name in ("hub:me/fast", f"hub:me/fast@{COMMIT}"):
        done = hub.decode(name, SENTENCE, home=tmp_path / "home")
        assert done.stdout.splitlines() == expected, done.stderr
    copied = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert copied == {"config.yaml", "model.safetensors", "run.json", "source.model", "tokenizer.json"}
    hub.close()
    assert (
        hub.decode(f"hub:me/fast@{COMMIT}", SENTENCE, home=tmp_path / "home").stdout.splitlines() == expected
    )  # it is there already


def test_a_model_that_the_hub_has_not_is_told_in_a_line(hub: Hub, tmp_path: Path) -> None:
    done = hub.decode("hub:me/other", SENTENCE, home=tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr.startswith("nat-decode: hub:me/other: the hub does not give this model (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "told"),
    [("os.system", "os.system"), ("hostile.Model", "hostile.Model"), ("nat.errors.DataError", "nat.errors.DataError")],
)
def test_a_hostile_configuration_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, told: str
) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(embedded_model("en-de"), folder)
    (folder / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["model"]["_target_"], config["run_dir"] = target, "${oc.env:HOME}"
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(DataError, match=told):
        nat.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--me--fast" / "snapshots" / COMMIT
    shutil.copytree(embedded_model("en-de"), folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert hub_model("me/fast", None) == folder
    (tmp_path / "outside").write_bytes(b"")
    (folder / "metrics.jsonl").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"hub:me/fast: metrics\.jsonl lies outside of it"):
        hub_model("me/fast", None)
