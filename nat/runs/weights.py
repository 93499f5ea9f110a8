"""Weights as safetensors: written whole or not at all, and checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nat.errors import DataError
from nat.files import write_atomically

WEIGHTS = "model.safetensors"


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically."""
    ready = {name: on_cpu(tensor) for name, tensor in tensors.items()}
    write_atomically(path, lambda part: write_tensors(ready, part, metadata))


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, not atomically. Raises OSError, whatever is wrong with the disk."""
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


def load_fitting(path: Path, expected: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Tensors of the names and shapes of `expected`. Raises DataError naming the first one that does not fit."""
    weights = load_tensors(path, device)
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            where = "this file" if name not in weights else "the model"
            raise DataError(f"{path}: does not fit this model: {where} has no tensor {name}")
        if weights[name].shape != expected[name].shape:
            raise DataError(
                f"{path}: does not fit this model: {name} is {tuple(weights[name].shape)}, "
                f"the model needs {tuple(expected[name].shape)}"
            )
    return weights


def load_weights(model: torch.nn.Module, path: Path, device: torch.device | str = "cpu") -> None:
    """Raises DataError naming the first tensor that does not fit."""
    model.load_state_dict(load_fitting(path, model.state_dict(), device))


def on_cpu(tensor: Tensor) -> Tensor:
    """What can be written."""
    return tensor.detach().contiguous().cpu()
