"""Rows: frozen records of tensors that all have the batch as their first dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor


def _map(value: Any, function: Callable[[Tensor], Tensor], of_rows: Callable[[Rows], Rows]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Rows):
        return of_rows(value)
    if isinstance(value, tuple):
        return tuple(_map(item, function, of_rows) for item in value)
    if isinstance(value, dict):
        return {name: _map(item, function, of_rows) for name, item in value.items()}
    return value


def _concatenated(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        width = max(value.size(1) for value in values) if first.dim() > 1 else 0
        return torch.cat([_widened(value, width) for value in values])
    if isinstance(first, Rows):
        return first.concatenated(values)
    if isinstance(first, tuple):
        return tuple(_concatenated(items) for items in zip(*values, strict=True))
    if isinstance(first, dict):
        return {name: _concatenated([value[name] for value in values]) for name in first}
    return first


def _widened(tensor: Tensor, width: int) -> Tensor:
    if tensor.dim() < 2 or tensor.size(1) == width:
        return tensor
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, width - tensor.size(1)))


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    items: Iterable[Any] = ()
    if isinstance(value, Rows):
        items = (getattr(value, f.name) for f in fields(value))
    elif isinstance(value, tuple | dict):
        items = value.values() if isinstance(value, dict) else value
    return next((t for item in items if (t := _first_tensor(item)) is not None), None)


def parted(where: Bool[Tensor, " B"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """The rows where it is False, and those where it is True, both ascending. The host waits once, for their number."""
    order = where.to(torch.uint8).argsort(stable=True)
    count = len(where) - int(where.sum())
    return order[:count], order[count:]


@dataclass(frozen=True)
class Rows:
    """Base of all batch-first records. Fields are tensors, Rows, tuples or dicts of these, or plain values
    that do not depend on the row; the methods below reach every tensor, however deeply nested."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._each(function, lambda rows: rows.map(function))

    def _each(self, function: Callable[[Tensor], Tensor], of_rows: Callable[[Rows], Rows]) -> Self:
        """`function` of the tensors of this record, `of_rows` of the records in it, which may know better."""
        return replace(self, **{f.name: _map(getattr(self, f.name), function, of_rows) for f in fields(self)})

    def __len__(self) -> int:
        """Number of rows B."""
        tensor = _first_tensor(self)
        return 0 if tensor is None else tensor.size(0)

    @property
    def device(self) -> torch.device:
        tensor = _first_tensor(self)
        return torch.device("cpu") if tensor is None else tensor.device

    def select(self, rows: Tensor) -> Self:
        """The given rows, in the given order: `rows` is (N,) integer indices or a (B,) mask, whose rows the host
        waits for."""
        if rows.dtype == torch.bool:
            rows = parted(rows)[1]
        return self._each(lambda t: t.index_select(0, rows), lambda inner: inner.select(rows))

    def repeat_rows(self, n: int) -> Self:
        """Every row n times, copies of a row side by side: (B, ...) -> (B * n, ...)."""
        if n == 1:
            return self
        return self._each(lambda t: t.repeat_interleave(n, dim=0), lambda inner: inner.repeat_rows(n))

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, which have the same fields. A tensor (B, L, ...) that is narrower than another part's
        gets columns of 0 on the right."""
        values = {f.name: _concatenated([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
        return replace(parts[0], **values)

    def to(self, device: torch.device | str) -> Self:
        """What comes from a GPU to the CPU comes together, and is there: the host waits once for all tensors."""
        origin = self.device
        moved = self.map(lambda t: t.to(device, non_blocking=True))
        if origin.type == "cuda" and torch.device(device).type == "cpu":
            torch.cuda.current_stream(origin).synchronize()
        return moved


class Padded(Rows):
    """Base of records that are padded to a rectangle. valid: (B, L), True where something stands. full: that is known
    to be everywhere, by the host, which made the rows; False: it may be, and nobody waits for a device to say so."""

    valid: Bool[Tensor, "B L"]
    full: bool

    @property
    def mask(self) -> Bool[Tensor, "B L"] | None:
        """`valid` for attention, which is quicker without: None where it is known to hide nothing. A compiled loss is
        not compiled once more for that."""
        return None if not torch.compiler.is_compiling() and self.full else self.valid

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        return self.valid.sum(dim=1)

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        return replace(super().concatenated(parts), full=False)  # type: ignore[call-arg]  # rows may have been widened
