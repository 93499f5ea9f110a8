"""A run written as a folder that an engine computes, see `nat.engines.manifest`."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nat
from nat.config import save_yaml
from nat.data.lines import file_digest
from nat.decoding.translator import Translator
from nat.engines.base import ComputeType
from nat.engines.choice import Engine, Tool
from nat.engines.onnx import MODEL, collapses
from nat.runs.folder import run_summary
from nat.runs.weights import WEIGHTS


def write_export(translator: Translator, folder: Path, engine: Engine, tool: Tool, kind: ComputeType) -> dict[str, Any]:
    """All files but the manifest, and what that says of them. engine: that computes the folder. tool: writes it, and
    its `check` takes the run."""
    save_yaml(translator.config, folder / "config.yaml")
    translator.tokenizers.save(folder / "tokenizer")
    tool.write(translator, folder, kind)
    if (folder / MODEL).exists():
        shutil.copyfile(Path(__file__).with_name("translate.py"), folder / "translate.py")
    return {
        "engine": engine.value,
        "precision": kind.value,
        "model": type(translator.model).__name__,
        "num_parameters": translator.num_parameters,
        "max_source_tokens": tool.longest_source(translator.model),
        "collapse": collapses(translator.model),
        "targets": [] if translator.tags is None else list(translator.tags.languages),
        "run": describe_run(translator),
        "versions": versions("nat", "torch", "sentencepiece", *tool.PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_run(translator: Translator) -> dict[str, Any]:
    """Where the weights come from, and what they are."""
    weights = Path(translator.weights) if translator.weights else translator.folder / WEIGHTS
    return {
        "folder": str(translator.folder),
        "weights": translator.weights or run_summary(translator.folder).get("weights"),
        "weights_sha256": file_digest(weights),
        "config_sha256": file_digest(translator.folder / "config.yaml"),
        "tokenizer": translator.tokenizers.fingerprint,
    }


def versions(*packages: str) -> dict[str, str]:
    return {name: nat.__version__ if name == "nat" else version(name) for name in packages}
