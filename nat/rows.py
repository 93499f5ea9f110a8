"""Rows: frozen records of tensors that all have the batch as their first dimension."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Rows):
        return value.map(function)
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)
    return value


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Rows):
        return next((t for f in fields(value) if (t := _first_tensor(getattr(value, f.name))) is not None), None)
    if isinstance(value, tuple):
        return next((t for item in value if (t := _first_tensor(item)) is not None), None)
    return None


@dataclass(frozen=True)
class Rows:
    """Base of all batch-first records. Fields are tensors, Rows, tuples of these, or plain values that
    do not depend on the row; the methods below reach every tensor, however deeply nested."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{f.name: _map(getattr(self, f.name), function) for f in fields(self)})

    def __len__(self) -> int:
        """Number of rows B."""
        tensor = _first_tensor(self)
        return 0 if tensor is None else tensor.size(0)

    @property
    def device(self) -> torch.device:
        tensor = _first_tensor(self)
        return torch.device("cpu") if tensor is None else tensor.device

    def select(self, rows: Tensor) -> Self:
        """The given rows, in the given order: `rows` is (N,) integer indices or a (B,) mask."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(-1)
        return self.map(lambda t: t.index_select(0, rows))

    def repeat_rows(self, n: int) -> Self:
        """Every row n times, copies of a row side by side: (B, ...) -> (B * n, ...)."""
        return self.map(lambda t: t.repeat_interleave(n, dim=0))

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda t: t.to(device, non_blocking=True))
