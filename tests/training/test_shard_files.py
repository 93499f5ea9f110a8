"""Tensors in parts: as many files as there were ranks, read whole by another number of them, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nat.errors import DataError
from nat.training import shard_files

NAME = "model.safetensors/a"
WHOLE = torch.arange(15.0).view(5, 3)


def write_part(folder: Path, number: int, rows: slice) -> Path:
    path = folder / f"shard-{number:05d}-model-00001-of-00001.safetensors"
    place = {NAME: {"saved_offsets": [rows.start, 0]}}
    save_file({NAME: WHOLE[rows].clone()}, path, {"format": "pt", "DCP_SHARDING_INFO": json.dumps(place)})
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """As two ranks write them."""
    return [write_part(tmp_path, 1, slice(0, 3)), write_part(tmp_path, 2, slice(3, 5))]


def targets(*shape: int, name: str = NAME) -> dict[str, Tensor]:
    return {name: torch.zeros(shape)}


def test_parts_are_read_whole(parts: list[Path], tmp_path: Path) -> None:
    found = targets(5, 3)
    shard_files.read(tmp_path, found)
    assert torch.equal(found[NAME], WHOLE)


@pytest.mark.parametrize(
    ("damage", "given", "message"),
    [
        (lambda parts: parts[0].unlink(), targets(5, 3), f"damaged: a part of {NAME} is missing"),
        (lambda parts: parts[1].unlink(), targets(5, 3), f"does not fit this model: {NAME} is (3, 3), the model needs"),
        (lambda parts: parts[1].write_bytes(parts[1].read_bytes()[:90]), targets(5, 3), "damaged or truncated ("),
        (lambda parts: None, targets(5, 4), f"does not fit this model: {NAME} is (5, 3), the model needs (5, 4)"),
        (lambda parts: None, targets(5, 3, name="b"), "does not fit this model: there is no tensor b"),
    ],
)
def test_what_is_damaged_is_one_line(
    parts: list[Path], tmp_path: Path, damage: Callable[[list[Path]], object], given: dict[str, Tensor], message: str
) -> None:
    damage(parts)
    with pytest.raises(DataError) as error:
        shard_files.read(tmp_path, given)
    assert str(error.value).startswith(f"{tmp_path}: {message}")
    assert "\n" not in str(error.value)
