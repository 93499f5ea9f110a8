"""Where a model lies that a run folder's name means: a folder, a model that comes with nat, or one of the hub.

embedded:NAME               data/models/NAME
hub:USER/NAME[@REVISION]    of the Hugging Face hub, or of the server that HF_ENDPOINT names; copied once to its cache

Of a hub's repository only files are copied that a run or an export has. They are data: classes come from nat alone,
weights are safetensors, and nothing in them is resolved or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nat.config import nearest
from nat.errors import ConfigError, DataError

EMBEDDED, HUB, MODELS = "embedded:", "hub:", "models"
FILES = (  # of a run or an export, as they are looked for in a repository
    "config.yaml", "run.json", "metrics.jsonl", "model.safetensors", "tokenizer/*.model", "tokenizer/tokenizer.json",
    "manifest.json", "model.onnx", "translate.py", "encoder.onnx", "decoder.onnx", "output.onnx", "weights.safetensors",
    "ctranslate2/*.json", "ctranslate2/*.bin", "ctranslate2/*.txt",
    "index.html", "model.json", "page/*", "runtime/*", "tokenizer/source.json", "tokenizer/target.json",
)  # fmt: skip


def run_folder(name: str | Path) -> Path:
    """The folder that the name of a run means. Raises ConfigError where no such model comes with nat, DataError where
    the hub does not give one."""
    text = str(name)
    if text.startswith(EMBEDDED):
        return embedded_model(text.removeprefix(EMBEDDED))
    if text.startswith(HUB):
        repository, _, revision = text.removeprefix(HUB).partition("@")
        return hub_model(repository, revision or None)
    return Path(name)


def embedded_model(name: str) -> Path:
    from nat.data.readers import embedded_directory  # and with it what reads tables, 50 MB that a server need not hold

    folder = embedded_directory() / MODELS
    known = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if name not in known:
        raise ConfigError(f"{EMBEDDED}{name}: no such model comes with nat, {nearest(name, known)}")
    return folder / name


def hub_model(repository: str, revision: str | None) -> Path:
    """The files of a repository, at a revision (a branch, a tag or a commit; None: the newest)."""
    name = f"{HUB}{repository}" + (f"@{revision}" if revision else "")
    folder = download(name, repository, FILES, revision=revision)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{name}: is no model of nat (there is no config.yaml in it)")
    home = folder.resolve().parent.parent  # of the repository, whose files lie beside its snapshots
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(home):
            raise DataError(f"{name}: {path.relative_to(folder)} lies outside of it")
    return folder


def download(name: str, repository: str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """The files of a repository whose names fit these patterns, in the hub's own cache. name: of the model, for
    messages. Raises DataError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # of many kinds, those of the network among them
        raise DataError(f"{name}: the hub does not give this model ({reason_of(error)})") from None


def reason_of(error: Exception) -> str:
    """What a library says of its failure, in a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
