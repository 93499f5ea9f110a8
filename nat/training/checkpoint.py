"""The run folder: everything that a run writes, all of it plain data, every write atomic.

RUN_DIR/config.yaml         the resolved configuration
        tokenizer/          SentencePiece models and their description
        model.safetensors   the weights that decode: the best so far, in the end perhaps an average of the best
        run.json            which weights those are, their scores, counts, versions
        metrics.jsonl       one JSON object a line: training curves, validation scores with signatures
        best/update-N/      the k best weights by the validation metric
        checkpoints/update-N/   the training state, to resume from
        tensorboard/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nat.config import Component, load_yaml, parse
from nat.data.tokenizer import Tokenizers
from nat.errors import ConfigError, DataError
from nat.files import write_atomically, write_json
from nat.models.base import TranslationModel

WEIGHTS = "model.safetensors"


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically."""
    ready = {name: _ready(tensor) for name, tensor in tensors.items()}
    write_atomically(path, lambda part: _save_file(ready, part, metadata))


def _save_file(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    try:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)  # {} beside no tensor: unreadable
    except SafetensorError as error:  # a full disk, in its words
        raise OSError(str(error)) from None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Raises DataError if the file is missing, truncated or otherwise damaged."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such checkpoint file")
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or truncated ({_reason(error)})") from None


def check_tokenizer(path: Path, fingerprint: str) -> None:
    """Raises DataError if the weights at `path` were trained with another tokenizer than the one of `fingerprint`."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such checkpoint file")
    try:
        with safe_open(path, "pt") as file:
            trained_with = (file.metadata() or {}).get("tokenizer", fingerprint)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or truncated ({_reason(error)})") from None
    if trained_with != fingerprint:
        raise DataError(f"{path}: was trained with another tokenizer than the one in the folder tokenizer beside it")


def load_weights(model: torch.nn.Module, path: Path, device: torch.device | str = "cpu") -> None:
    """Raises DataError naming the first tensor that does not fit."""
    weights = load_tensors(path, device)
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            where = "this file" if name not in weights else "the model"
            raise DataError(f"{path}: does not fit this model: {where} has no tensor {name}")
        if weights[name].shape != expected[name].shape:
            raise DataError(
                f"{path}: does not fit this model: {name} is {tuple(weights[name].shape)}, "
                f"the model needs {tuple(expected[name].shape)}"
            )
    model.load_state_dict(weights)


# --- trained models --------------------------------------------------------------------------------


def read_component(folder: Path) -> Component:
    """The model of a run folder, not built. Raises DataError if the folder is not a run or describes no model."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: not a run folder (there is no config.yaml in it)")
    config = load_yaml(folder / "config.yaml")
    try:
        return parse(Component, config.get("model"), "model")
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
    model: TranslationModel = component.build(vocabularies=tokenizers.vocabularies).to(device)
    path = weights or folder / WEIGHTS
    check_tokenizer(path, tokenizers.fingerprint)
    load_weights(model, path, device)
    return model.eval(), tokenizers


# --- training state --------------------------------------------------------------------------------


def save_training_state(
    folder: Path,
    update: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    average: Mapping[str, Tensor] | None,
) -> None:
    """`checkpoints/update-N`, complete or not at all; older ones are removed once it stands. The tensors of an
    update are what they are: saving it again renews only its plain data."""
    tensors, numbers = flatten_optimizer(optimizer.state_dict())
    path = folder / "checkpoints" / f"update-{update:08d}"
    plain = {"optimizer": numbers, **state}
    if path.is_dir():
        write_json(path / "state.json", plain)
        return

    def write(part: Path) -> None:
        part.mkdir()
        _save_file({name: _ready(value) for name, value in model.state_dict().items()}, part / WEIGHTS)
        _save_file(tensors, part / "optimizer.safetensors")
        if average is not None:
            _save_file({name: _ready(value) for name, value in average.items()}, part / "average.safetensors")
        (part / "state.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")

    write_atomically(path, write)
    for old in (*path.parent.glob("update-*"), *path.parent.glob(".update-*.part")):
        if old != path:
            shutil.rmtree(old, ignore_errors=True)


def _ready(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().cpu()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete training state of a run folder."""
    found = sorted((folder / "checkpoints").glob("update-*"))
    return found[-1] if found else None


def flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as named tensors and plain data."""
    tensors, numbers = {}, {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().contiguous().cpu()
            else:
                numbers[f"{index}.{name}"] = value
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": numbers, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers["state"]}.items():
        index, _, slot = name.partition(".")
        state.setdefault(int(index), {})[slot] = value
    return {"state": state, "param_groups": numbers["param_groups"]}
