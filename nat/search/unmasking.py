"""Masks become tokens, pass by pass: which positions are still masked after each.

Remasking is the loop of Mask-Predict (Ghazvininejad et al. 2019, section 3.3, https://arxiv.org/abs/1904.09324), which
Zheng et al. 2023 (https://arxiv.org/abs/2302.05737) read as a sampler of masked diffusion; ancestral sampling is that
of Austin et al. 2021 (https://arxiv.org/abs/2107.03006); the cosine schedule is that of Chang et al. 2022
(https://arxiv.org/abs/2202.04200).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.nn.head import Head
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Conditions
from nat.nn.transformer import Memory
from nat.ops.selection import dense_ranks, lowest
from nat.search.canvas import Canvas, Fate
from nat.search.masks import MASK, TOTAL
from nat.search.refine import Refined, Step, refine

TURN = "turn"  # of `Canvas.positions`: the pass that writes it, from 1; 0 where nothing is masked
States = Callable[[Tensor, Tensor, Memory], Tensor]  # tokens (B, L), valid (B, L), memory -> (B, L, D)
Choose = Callable[..., tuple[Tensor, Tensor]]  # as `DecodingOptions.choose`


class Sampler(Enum):
    """ancestral: each mask is written at a time of its own, at random. confidence: the surest masks are written, and
    stay. remasking: all masks are written, then the least sure of all tokens are masked again, those of earlier passes
    too, by what each had when it was written: the model says nothing of a token that it sees."""

    ANCESTRAL = "ancestral"
    CONFIDENCE = "confidence"
    REMASKING = "remasking"


class MaskSchedule(Enum):
    """The share of masks left after pass n of N: 1 - n / N, or cos(pi n / 2 N)."""

    LINEAR = "linear"
    COSINE = "cosine"

    def left(self, total: Int[Tensor, " B"], number: int, limit: int) -> Int[Tensor, " B"]:
        """Of so many masks, how many are left after pass `number` of `limit`."""
        if self is MaskSchedule.LINEAR:
            return total * (limit - number) // limit
        return (total.double() * _cosine(number, limit)).long()

    def passes(self, total: int, limit: int) -> int:
        """The first pass, of `limit`, after which nothing of so many masks is left."""
        if self is MaskSchedule.LINEAR:
            return limit - -(-limit // total) + 1 if total else 1
        return 1 + bisect.bisect_left(range(1, limit), True, key=lambda n: int(total * _cosine(n, limit)) == 0)

    def turns(self, drawn: Float[Tensor, "B L"], limit: int) -> Int[Tensor, "B L"]:
        """The pass that writes a mask, from 1 to `limit`: with numbers uniform in (0, 1), a mask of pass n - 1 is left
        after pass n with probability share(n) / share(n - 1)."""
        done = drawn.double()
        if self is MaskSchedule.COSINE:
            done = torch.acos(done) * 2 / math.pi
        return (done * limit).ceil().long().clamp(1, limit)


def _cosine(number: int, limit: int) -> float:
    return math.cos(math.pi / 2 * number / limit)


@dataclass(frozen=True)
class Unmasking:
    """A way from masks to tokens in at most `limit` passes."""

    sampler: Sampler
    schedule: MaskSchedule
    limit: int

    def prepared(self, canvas: Canvas, random: RowRandom | None) -> Canvas:
        """The first canvas with the turns of its masks, where these are drawn beforehand. Passes in which a row would
        write nothing are not made: what the model says depends on the canvas alone."""
        if self.sampler is not Sampler.ANCESTRAL:
            return canvas
        assert random is not None
        turns = self.schedule.turns(random.fork(0).uniform(canvas.tokens.size(1)), self.limit)
        return replace(canvas, positions={TURN: dense_ranks(turns, canvas.fate == Fate.MASKED)})

    def masked(self, canvas: Canvas, hidden: Bool[Tensor, "B L"], number: int) -> Bool[Tensor, "B L"]:
        """After pass `number`, of which `hidden` was masked before it."""
        if self.sampler is Sampler.ANCESTRAL:
            return hidden & (canvas.positions[TURN] > number)
        left = self.schedule.left(canvas.rows[TOTAL], number, self.limit)
        if self.sampler is Sampler.REMASKING:
            return lowest(canvas.scores, left, canvas.valid & ~canvas.fixed)
        left = left.minimum(canvas.rows[TOTAL] - number)  # a pass that writes nothing would change nothing
        return lowest(canvas.scores, left, hidden)

    def least_passes(self, canvas: Canvas) -> int:
        """What the row with the fewest takes. The host waits for it once."""
        if self.sampler is Sampler.ANCESTRAL:
            return max(1, int(canvas.positions[TURN].amax(dim=1).min()))
        total = int(canvas.rows[TOTAL].min())
        if self.sampler is Sampler.CONFIDENCE:
            return min(self.limit, max(1, total))
        return self.schedule.passes(total, self.limit)


def unmask(
    canvas: Canvas,
    conditions: Conditions,
    unmasking: Unmasking,
    *,
    states: States,
    head: Callable[[Memory], Head],
    choose: Choose,
    history: bool,
) -> Refined[Canvas]:
    """All passes over a canvas of `first_masks`. states, head, choose: of the model and its decoding options."""
    canvas = unmasking.prepared(canvas, conditions.random)
    return refine(
        stepper(unmasking, states, head, choose),
        canvas,
        conditions,
        max_passes=unmasking.limit,
        finished=nothing_masked,
        least_passes=unmasking.least_passes(canvas),
        history=history,
    )


def stepper(
    unmasking: Unmasking, states: States, head: Callable[[Memory], Head], choose: Choose
) -> Step[Canvas, Conditions]:
    """Predict what is masked, then mask what is to be predicted again. A position that is predicted again takes its new
    probability, the others keep theirs."""

    def step(canvas: Canvas, conditions: Conditions, number: int) -> tuple[Canvas, int]:
        hidden, memory = canvas.fate == Fate.MASKED, conditions.memory
        found = states(canvas.tokens.masked_fill(hidden, MASK), canvas.valid, memory)
        random = None if conditions.random is None else conditions.random.fork(number)
        written, scores = choose(head(memory), found, random, where=hidden)
        fate = torch.where(hidden, int(Fate.WRITTEN), int(Fate.KEPT)).masked_fill(~canvas.valid, int(Fate.NONE))
        tokens, scores = written.where(hidden, canvas.tokens), scores.where(hidden, canvas.scores)
        after = replace(canvas, tokens=tokens, scores=scores, fate=fate)
        return replace(after, fate=fate.masked_fill(unmasking.masked(after, hidden, number), int(Fate.MASKED))), 1

    return step


def nothing_masked(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """True where later passes would change nothing: a short sentence needs fewer than the limit."""
    return ~(after.fate == Fate.MASKED).any(dim=1)
