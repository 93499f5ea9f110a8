"""The one driver of decoding in several passes: a canvas goes in, a canvas comes out.

A method gives the step; the driver gives it the rows that are not finished, takes finished ones out of the batch
(canvas and memory), stops at the limit, counts decoder calls for each row, and keeps the history on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.rows import Rows


class Fate(IntEnum):
    """What a pass did to a position of the canvas."""

    NONE = 0  # not a position of this row
    KEPT = 1  # as it was before
    WRITTEN = 2  # predicted in this pass
    MASKED = 3  # predicted in this pass or before, and to be predicted again
    INSERTED = 4  # a new position
    DELETED = 5  # taken out in this pass: in a history alone, beside what is left


@dataclass(frozen=True)
class Canvas(Rows):
    """The target being worked on. A method that needs more extends it with tensors of (B,) or (B, L, ...).

    tokens: (B, L) ids, PAD where not valid. valid: (B, L). scores: (B, L) log-probability of each token when it was
    written, 0 before. fate: (B, L) what the last pass did, values of `Fate`.
    """

    tokens: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    scores: Float[Tensor, "B L"]
    fate: Int[Tensor, "B L"]

    @classmethod
    def start(cls, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], **more: Any) -> Any:
        scores = torch.zeros(tokens.shape, device=tokens.device)
        return cls(tokens, valid, scores, torch.zeros_like(tokens), **more)

    def widened(self, width: int) -> Any:
        """With columns of nothing on the right, up to `width`."""

        def widen(tensor: Tensor) -> Tensor:
            if tensor.dim() < 2:
                return tensor
            return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, width - tensor.size(1)))

        return self.map(widen)


@dataclass(frozen=True)
class History(Rows):
    """Every pass of every row. tokens, confidence, fate: (B, P, L), P the passes of the longest row; a row that
    finished earlier has fate NONE after its end. confidence: log-probability of each token."""

    tokens: Int[Tensor, "B P L"]
    confidence: Float[Tensor, "B P L"]
    fate: Int[Tensor, "B P L"]

    @classmethod
    def of_one_pass(
        cls, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], confidence: Float[Tensor, "B L"]
    ) -> Self:
        """Of rows that were written all at once."""
        fate = torch.where(valid, int(Fate.WRITTEN), int(Fate.NONE))
        values = tokens.masked_fill(~valid, 0), confidence.masked_fill(~valid, 0.0), fate
        return cls(*(value[:, None] for value in values))


C = TypeVar("C", bound=Canvas)
M = TypeVar("M", bound=Rows)
Step = Callable[[C, M, int], C]  # canvas, memory, number of this pass (from 1) -> canvas
Finished = Callable[[C, C], Tensor]  # canvas before and after a pass -> (B,) bool
Picture = Callable[[C, C], Canvas]  # canvas before and after a pass -> what the history keeps of it


@dataclass(frozen=True)
class Refined(Generic[C]):
    """canvas: of all rows, as their last pass left it. passes: (B,) decoder calls. finished: (B,) False where the
    limit ended the work. history: if asked for."""

    canvas: C
    passes: Int[Tensor, " B"]
    finished: Bool[Tensor, " B"]
    history: History | None = None


def unchanged(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """The fixpoint: a pass that changed nothing."""
    if before.tokens.shape != after.tokens.shape:
        width = max(before.tokens.size(1), after.tokens.size(1))
        before, after = before.widened(width), after.widened(width)
    same = (before.tokens == after.tokens) | ~(before.valid | after.valid)
    return (same & (before.valid == after.valid)).all(dim=1)


def as_it_is(before: Canvas, after: Canvas) -> Canvas:
    """The canvas that a pass left."""
    return after


@torch.no_grad()
def refine(
    step: Step[C, M],
    canvas: C,
    memory: M,
    *,
    max_passes: int,
    finished: Finished[C] = unchanged,
    history: bool = False,
    picture: Picture[C] = as_it_is,
) -> Refined[C]:
    """Apply `step` until a row is `finished`, at most `max_passes` times (10 means ten decoder calls). history: keep
    every pass, as `picture` shows it."""
    assert max_passes >= 1
    num_rows, device = len(canvas), canvas.tokens.device
    rows = torch.arange(num_rows, device=device)
    passes = torch.zeros(num_rows, dtype=torch.long, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
    done: list[tuple[Tensor, C]] = []
    kept: list[tuple[Tensor, Canvas]] = []
    for number in range(1, max_passes + 1):
        after = step(canvas, memory, number)
        passes[rows] = number
        if history:
            kept.append((rows, picture(canvas, after)))
        stop = finished(canvas, after)
        ended[rows] = stop
        if number == max_passes:
            stop = torch.ones_like(stop)
        if bool(stop.any()):  # leaving costs a copy of the rest, so that only a pass that ends a row pays for it
            done.append((rows[stop], after.select(stop)))
            rows, after, memory = rows[~stop], after.select(~stop), memory.select(~stop)
        canvas = after
        if not len(rows):
            break
    return Refined(_gathered(done), passes, ended, _history(kept, num_rows) if history else None)


def _gathered(parts: list[tuple[Tensor, C]]) -> C:
    """The canvases of all rows, in the order of the rows."""
    width = max(canvas.tokens.size(1) for _, canvas in parts)
    order = torch.cat([rows for rows, _ in parts]).argsort()
    widened = [canvas.widened(width) for _, canvas in parts]
    first = widened[0]
    changes = {}
    for field in fields(first):
        values = [getattr(canvas, field.name) for canvas in widened]
        if isinstance(values[0], Tensor):
            changes[field.name] = torch.cat(values)[order]
    return replace(first, **changes)


def _history(passes: Sequence[tuple[Tensor, Canvas]], num_rows: int) -> History:
    width = max(canvas.tokens.size(1) for _, canvas in passes)
    device = passes[0][0].device

    def table(name: str, kind: torch.dtype) -> Tensor:
        found = torch.zeros((num_rows, len(passes), width), dtype=kind, device=device)
        for number, (rows, canvas) in enumerate(passes):
            found[rows, number] = getattr(canvas.widened(width), name).to(kind)
        return found

    return History(table("tokens", torch.long), table("scores", torch.float32), table("fate", torch.long))
