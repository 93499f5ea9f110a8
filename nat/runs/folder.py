"""The run folder: everything that a run writes, all of it plain data, every write atomic.

RUN_DIR/config.yaml         the resolved configuration
        tokenizer/          SentencePiece models and their description
        model.safetensors   the weights that decode: the best so far, in the end perhaps an average of the best
        run.json            which weights those are, their scores, counts, versions
        metrics.jsonl       one JSON object a line: training curves, validation scores with signatures
        best/update-N/      the k best weights by the validation metric
        checkpoints/update-N/   the last training states, to resume from
        samples.json        translations of the first sentences, of the last validation
        tensorboard/        the same for TensorBoard
        lock                while a command trains: its host and process, see `nat.runs.lock`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nat.config import Component, load_yaml, parse
from nat.data.tokenizer import Tokenizers
from nat.errors import ConfigError, DataError
from nat.files import check_kinds, read_object
from nat.models.contract import TranslationModel
from nat.runs.memory import Allowance
from nat.runs.weights import WEIGHTS, check_tokenizer, load_weights

COUNTS = ("update", "tokens", "seconds", "skipped", "memory_splits", "seed")  # of run.json


def read_component(folder: Path) -> Component[TranslationModel]:
    """The model of a run folder, not built. Raises DataError if the folder is not a run or describes no model."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: not a run folder (there is no config.yaml in it)")
    config = load_yaml(folder / "config.yaml")
    try:
        return parse(Component[TranslationModel], config.get("model"), "model")
    except ConfigError as error:  # the user typed none of it: the file is to blame
        raise DataError(f"{folder}/config.yaml: {'; '.join(str(error).splitlines())}") from None


def load_model(
    folder: Path, device: torch.device, *, weights: Path | None = None
) -> tuple[TranslationModel, Tokenizers]:
    """The trained model of a run folder, ready to decode, and its tokenizers.

    weights: a safetensors file of the run other than the chosen one. Raises DataError if the folder is not a run, or
    its weights or tokenizer are missing, damaged or do not fit.
    """
    component = read_component(folder)
    tokenizers = Tokenizers.load(folder / "tokenizer")
    with Allowance(copies=1):
        model: TranslationModel = component.build(vocabularies=tokenizers.vocabularies)
    path = weights or folder / WEIGHTS
    check_tokenizer(path, tokenizers.fingerprint)
    load_weights(model, path, device)
    return model.to(device).eval(), tokenizers


def saved_states(folder: Path) -> list[Path]:
    """The complete training states of a run folder, the newest last."""
    return sorted((folder / "checkpoints").glob("update-*"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete training state of a run folder."""
    return next(reversed(saved_states(folder)), None)


def run_summary(folder: Path) -> dict[str, Any]:
    """run.json; {} where there is none, as for weights given by hand. Raises DataError if it is damaged."""
    path = folder / "run.json"
    summary = read_object(path) if path.exists() else {}
    check_kinds(summary, dict.fromkeys(COUNTS, float), path)
    return summary
