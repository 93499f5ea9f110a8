"""The one driver of decoding in several passes: a canvas goes in, a canvas comes out.

A method gives the step; the driver gives it the rows that are not finished, takes finished ones out of the batch
(canvas and memory), stops at the limit, counts decoder calls for each row, and keeps every pass on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.rows import Rows, parted
from nat.search.canvas import Canvas, Fate


@dataclass(frozen=True)
class Links(Rows):
    """The K strongest steps of a graph, from the begin (row 0) and from each position of a canvas: goals are positions
    from 0, or L, the end; log_probs of the steps."""

    goals: Int[Tensor, "B L1 K"]
    log_probs: Float[Tensor, "B L1 K"]

    @classmethod
    def of(cls, transitions: Float[Tensor, "B L1 L1"], number: int) -> Self:
        """transitions: see nat/ops/dag.py."""
        strongest = transitions.topk(min(number, transitions.size(2)), dim=2)
        return cls(strongest.indices, strongest.values)


@dataclass(frozen=True)
class History(Rows):
    """Every pass of every row. tokens, confidence, fate: (B, P, L), P the passes of the longest row; a row that
    finished earlier has fate NONE after its end. confidence: log-probability of each token. links: of a canvas that is
    a graph."""

    tokens: Int[Tensor, "B P L"]
    confidence: Float[Tensor, "B P L"]
    fate: Int[Tensor, "B P L"]
    links: Links | None = None

    @classmethod
    def of_one_pass(
        cls,
        tokens: Int[Tensor, "B L"],
        valid: Bool[Tensor, "B L"],
        confidence: Float[Tensor, "B L"],
        *,
        left: Bool[Tensor, "B L"] | None = None,
        links: Links | None = None,
    ) -> Self:
        """Of rows that were written all at once. left: what of it was not taken out again; None: all."""
        fate = torch.where(valid, int(Fate.WRITTEN), int(Fate.NONE))
        if left is not None:
            fate = fate.masked_fill(valid & ~left, int(Fate.DELETED))
        tokens, confidence = tokens.masked_fill(~valid, 0), confidence.masked_fill(~valid, 0.0)
        return cls(tokens[:, None], confidence[:, None], fate[:, None], links)

    @classmethod
    def of_passes(cls, passes: Sequence[tuple[Tensor, Canvas]], *, num_rows: int) -> Self:
        """passes: (N,) rows that were still worked on, and what is to be seen of their canvases."""
        device, width = passes[0][0].device, max(canvas.tokens.size(1) for _, canvas in passes)
        shape = (num_rows, len(passes), width)
        tokens, fate = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(2))
        confidence = torch.zeros(shape, device=device)
        for number, (rows, canvas) in enumerate(passes):
            here = slice(canvas.tokens.size(1))
            tokens[rows, number, here] = canvas.tokens
            confidence[rows, number, here] = canvas.scores.to(confidence.dtype)
            fate[rows, number, here] = canvas.fate
        return cls(tokens, confidence, fate)


C = TypeVar("C", bound=Rows)
M = TypeVar("M", bound=Rows)
Calls = int | Int[Tensor, " B"]  # decoder calls of all rows, or of each one
Step = Callable[[C, M, int], tuple[C, Calls]]  # canvas, memory, number of this pass (from 1) -> canvas, what it took
Finished = Callable[[C, C], Tensor]  # canvas before and after a pass -> (B,) bool


@dataclass(frozen=True)
class Refined(Generic[C]):
    """canvas: of all rows, as their last pass left it. calls: (B,) decoder calls. finished: (B,) False where the limit
    ended the work. passes: rows, canvas before and canvas after each pass, if asked for."""

    canvas: C
    calls: Int[Tensor, " B"]
    finished: Bool[Tensor, " B"]
    passes: Sequence[tuple[Tensor, C, C]] = ()

    def history(self, picture: Callable[[C, C], Canvas]) -> History | None:
        """What `picture` shows of every pass, given the canvas before and after it; None where passes were not kept."""
        if not self.passes:
            return None
        shown = [(rows, picture(before, after)) for rows, before, after in self.passes]
        return History.of_passes(shown, num_rows=len(self.calls))


def unchanged(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """The fixpoint: a pass that changed nothing."""
    width = min(before.tokens.size(1), after.tokens.size(1))
    differs = (before.tokens[:, :width] != after.tokens[:, :width]) & after.valid[:, :width]
    return (before.lengths == after.lengths) & ~differs.any(dim=1)


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
    finished: Finished[C],
    least_passes: int = 1,
    history: bool = False,
) -> Refined[C]:
    """Apply `step` until a row is `finished`, at most `max_passes` times. least_passes: what every row takes, as the
    caller knows; before that no device is asked whether one has ended. history: keep every pass."""
    assert 1 <= least_passes <= max_passes
    num_rows, device = len(canvas), canvas.device
    rows = torch.arange(num_rows, device=device)
    calls = torch.zeros(num_rows, dtype=torch.long, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
    done: list[tuple[Tensor, C]] = []
    passes: list[tuple[Tensor, C, C]] = []
    for number in range(1, max_passes + 1):
        after, spent = step(canvas, memory, number)
        calls[rows] += spent
        if history:
            passes.append((rows, canvas, after))
        before, canvas = canvas, after
        if number < least_passes:
            continue
        stop = finished(before, after)
        ended[rows] = stop
        if number == max_passes:
            done.append((rows, after))
            break
        going, stopped = parted(stop)
        if len(stopped):  # leaving costs a copy of the rest, so that only a pass that ends a row pays for it
            done.append((rows[stopped], after.select(stopped)))
            rows, canvas, memory = rows[going], after.select(going), memory.select(going)
            if not len(rows):
                break
    return Refined(_in_order(done), calls, ended, passes)


def _in_order(done: Sequence[tuple[Tensor, C]]) -> C:
    """All rows, from the parts that ended one after the other, with the numbers of their rows."""
    numbers, parts = zip(*done, strict=True)
    if len(parts) == 1:
        return parts[0]
    return type(parts[0]).concatenated(parts).select(torch.cat(numbers).argsort())
