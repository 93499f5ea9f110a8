"""Tensors that ranks have in parts, as safetensors of torch.distributed.checkpoint: a file for each rank.

torch's own format keeps a pickle beside the tensors; this one, which it calls that of Hugging Face, does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor

from nat.errors import DataError

UNREADABLE = (dcp.CheckpointException, SafetensorError, OSError, ValueError, KeyError, RuntimeError, AssertionError)


def start_writing(
    parts: Mapping[str, Mapping[str, Tensor]], folder: Path, group: dist.ProcessGroup
) -> Callable[[], None]:
    """All ranks begin to write into `folder`, from copies. What is given back waits for the end of all of them; it
    raises OSError where one of them could not."""
    tensors = {f"{file}/{name}": tensor.detach() for file, part in parts.items() for name, tensor in part.items()}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    future = dcp.async_save(tensors, storage_writer=writer, process_group=group)

    def wait() -> None:
        try:
            future.result()  # type: ignore[union-attr]
        except dcp.CheckpointException as error:
            first, _ = next(iter(error.failures.values()))
            raise OSError(str(first).splitlines()[0]) from None

    return wait


def stored(path: Path) -> dict[str, Tensor]:
    """FILE/NAME of each tensor, and its shape and type as a tensor without content. Raises DataError where a part of
    one is missing."""
    try:
        found: dict[str, Any] = dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except UNREADABLE as error:
        raise DataError(f"{path}: damaged or truncated ({reason(error)})") from None
    for name, about in found.items():
        if sum(math.prod(chunk.sizes) for chunk in about.chunks) != math.prod(about.size):
            raise DataError(f"{path}: damaged: a part of {name} is missing")
    return {name: torch.empty(x.size, dtype=x.properties.dtype, device="meta") for name, x in found.items()}


def read(path: Path, targets: dict[str, Tensor]) -> None:
    """Fill tensors, whole or this rank's parts, by FILE/NAME; as many ranks as there may be now, each for itself.
    Raises DataError where the files are damaged, or not of these tensors."""
    found = stored(path)
    for name in sorted(found.keys() ^ targets.keys()):
        where = "there is" if name in targets else "the model has"
        raise DataError(f"{path}: does not fit this model: {where} no tensor {name}")
    for name, target in targets.items():
        if target.shape != found[name].shape:
            needed = f"{name} is {tuple(found[name].shape)}, the model needs {tuple(target.shape)}"
            raise DataError(f"{path}: does not fit this model: {needed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "assuming the intent is to load in a single process": it is
            dcp.load(targets, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    except UNREADABLE as error:
        raise DataError(f"{path}: damaged or truncated ({reason(error)})") from None


def reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
