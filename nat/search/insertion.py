"""Decoding by insertion: every pass puts tokens into the slots of a canvas, until nothing more is to be inserted.

Stern et al. 2019, https://arxiv.org/abs/1902.03249, section 5. Of a model it knows the log-probabilities of contents
and slots alone, so that every model that inserts shares it. A canvas may hold several texts, with a SEPARATOR
between two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.vocabulary import Symbol
from nat.nn.rng import RowRandom
from nat.ops.editing import gaps
from nat.ops.selection import lowest
from nat.rows import Rows
from nat.search.editing import EditCanvas
from nat.search.refine import Fate, Refined, refine

SEPARATOR = int(Symbol.EOS)  # a position like others on a canvas of several texts; no text holds it


class Finalisation(Enum):
    """What ends a sequence: each slot says that nothing belongs there, or one insertion is the end of all."""

    SLOT = "slot"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class InsertionCanvas(EditCanvas):
    """num_given: (B,) tokens that it began with. end_scores, num_ends: (B,) summed log-probability and number of the
    ends that the last pass chose. cut: (B,) True where the last pass would have inserted more than the limit allows."""

    num_given: Int[Tensor, " B"]
    end_scores: Float[Tensor, " B"]
    num_ends: Int[Tensor, " B"]
    cut: Bool[Tensor, " B"]

    @classmethod
    def of(cls, canvas: EditCanvas) -> InsertionCanvas:
        """Before the first pass."""
        none = torch.zeros_like(canvas.lengths)
        inherited = {name: getattr(canvas, name) for name in EditCanvas.__dataclass_fields__}
        return cls(**inherited, num_given=canvas.lengths, end_scores=none.float(), num_ends=none, cut=none.bool())

    @property
    def mean_score(self) -> Float[Tensor, " B"]:
        """Mean log-probability of all that was decided: tokens inserted and ends chosen. (The mean over tokens alone
        would prefer a canvas that nothing was inserted into.)"""
        decisions = self.lengths - self.num_given + self.num_ends
        return (self.scores.sum(dim=1) + self.end_scores) / decisions.clamp(min=1)


@dataclass(frozen=True)
class Choice:
    """What each slot chose, (B, G). tokens: its content, or the end. scores: log p(c | l) of it. ranks: log p(c, l).
    insert: where it is to be inserted. ends: slots that chose the end."""

    tokens: Int[Tensor, "B G"]
    scores: Float[Tensor, "B G"]
    ranks: Float[Tensor, "B G"]
    insert: Bool[Tensor, "B G"]
    ends: Bool[Tensor, "B G"]


@dataclass(frozen=True)
class InsertionRule:
    """How a pass chooses among contents and slots.

    parallel: all slots at once (section 5.2), or one insertion at a time (section 5.1); parallel decoding needs slot
    finalisation. end: the content that ends a slot or the sequence. end_penalty: subtracted from its log-probability.
    temperature: choices are samples; None: the most probable ones.
    """

    parallel: bool
    finalisation: Finalisation
    end: int
    end_penalty: float = 0.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        assert not (self.parallel and self.finalisation is Finalisation.SEQUENCE)

    def choose(self, log_probs: Float[Tensor, "B G V"], canvas: EditCanvas, random: RowRandom | None) -> Choice:
        """log_probs: of contents and slots, log p(c, l). Nothing is chosen in closed gaps."""
        slots, allowed = gaps(canvas.valid), canvas.open_gaps
        log_probs = log_probs.masked_fill(~slots[:, :, None], 0.0)  # not -inf, of which nothing can be subtracted
        where = log_probs.logsumexp(dim=2)  # (B, G) log p(l)
        contents = log_probs - where[:, :, None]
        contents[:, :, self.end] -= self.end_penalty
        tokens = self._pick(contents, random)
        is_end = tokens == self.end
        penalised = contents.gather(2, tokens[:, :, None]).squeeze(2)
        scores = penalised + self.end_penalty * is_end
        ranks = penalised + where
        chosen = allowed & ~is_end
        if self.finalisation is Finalisation.SEQUENCE:
            chosen = self._one_of(allowed, ranks, where, random)
            return Choice(tokens, scores, ranks, chosen & ~is_end, chosen & is_end)
        ends = allowed & is_end
        if not self.parallel:  # slots that would rather end are left aside (section 5.1)
            chosen = self._one_of(chosen, ranks, where, random)
        return Choice(tokens, scores, ranks, chosen, ends)

    def _one_of(
        self,
        allowed: Bool[Tensor, "B G"],
        ranks: Float[Tensor, "B G"],
        where: Float[Tensor, "B G"],
        random: RowRandom | None,
    ) -> Bool[Tensor, "B G"]:
        """One of the allowed slots, if there is any: of the most probable choice, or drawn by its p(l)."""
        keys = (ranks if random is None else where).masked_fill(~allowed, -torch.inf)
        keys = keys.where(allowed.any(dim=1, keepdim=True), 0.0)  # no probabilities without one
        place = self._pick(keys, None if random is None else random.fork(0))
        return allowed & torch.zeros_like(allowed).scatter(1, place[:, None], True)

    def _pick(self, log_probs: Float[Tensor, "*L V"], random: RowRandom | None) -> Int[Tensor, "*L"]:
        if random is None or self.temperature is None:
            return log_probs.argmax(dim=-1)
        return random.sample(log_probs / self.temperature)


M = TypeVar("M", bound=Rows)
LogProbs = Callable[[InsertionCanvas, M], Tensor]  # canvas (B, L), memory -> log p(c, l), (B, G, V)


@dataclass(frozen=True)
class Work(Rows, Generic[M]):
    """What the passes read beside the canvas. limits: (B, N) the most tokens of each text."""

    memory: M
    random: RowRandom | None
    limits: Int[Tensor, "B N"]


def within(canvas: InsertionCanvas, choice: Choice, limits: Int[Tensor, "B N"]) -> Bool[Tensor, "B G"]:
    """Of what was chosen for each text, the most probable that it has room for."""
    text = F.pad((canvas.tokens == SEPARATOR).long().cumsum(dim=1), (1, 0))  # (B, G)
    found = torch.zeros_like(choice.insert)
    for number in range(limits.size(1)):
        here = gaps(canvas.valid) & (text == number)
        room = (limits[:, number] + 1 - here.sum(dim=1)).clamp(min=0)  # a text has a gap more than tokens
        found = found | lowest(-choice.ranks, room, choice.insert & here)
    return found


def grown(canvas: InsertionCanvas, choice: Choice, limits: Int[Tensor, "B N"]) -> InsertionCanvas:
    """The canvas with what was chosen; where that is more than the limits allow, with the most probable of it."""
    insert = within(canvas, choice, limits)
    after = canvas.inserted(insert.long(), token=0)
    is_new = after.fate == Fate.INSERTED
    is_old = (after.valid & ~is_new).long()
    slot = is_old.cumsum(dim=1) - is_old  # what is inserted into slot g stands after g old positions
    return replace(
        after,
        tokens=choice.tokens.gather(1, slot).where(is_new, after.tokens),
        scores=choice.scores.gather(1, slot).where(is_new, after.scores.to(choice.scores)),
        end_scores=choice.scores.where(choice.ends, 0.0).sum(dim=1),
        num_ends=choice.ends.sum(dim=1),
        cut=(choice.insert & ~insert).any(dim=1),
    )


def complete(before: InsertionCanvas, after: InsertionCanvas) -> Bool[Tensor, " B"]:
    """A pass that inserted nothing, or filled the canvas up to its limit."""
    return (after.lengths == before.lengths) | after.cut


def insert_until_complete(
    log_probs: LogProbs[M],
    canvas: EditCanvas,
    memory: M,
    *,
    rule: InsertionRule,
    limits: Int[Tensor, "B *N"],
    random: RowRandom | None,
    max_passes: int,
    history: bool = False,
) -> Refined[InsertionCanvas]:
    """Passes over canvases until nothing more is inserted. limits: (B,) tokens that a canvas may have, (B, N) that
    each of its N texts may have; one that begins longer stays so. random: the rows' own numbers, for samples."""

    def step(canvas: InsertionCanvas, work: Work[M], number: int) -> InsertionCanvas:
        numbers = None if work.random is None else work.random.fork(number)
        return grown(canvas, rule.choose(log_probs(canvas, work.memory), canvas, numbers), work.limits)

    return refine(
        step,
        InsertionCanvas.of(canvas),
        Work(memory, random, limits.view(len(limits), -1)),
        max_passes=max_passes,
        finished=complete,
        history=history,
    )


def best_first(refined: Refined[InsertionCanvas], *, copies: int) -> Refined[InsertionCanvas]:
    """The `copies` canvases of each sentence, side by side, in the order of their mean scores."""
    order = refined.canvas.mean_score.unflatten(0, (-1, copies)).argsort(dim=1, descending=True, stable=True)
    rows = (order + torch.arange(len(order), device=order.device)[:, None] * copies).flatten()
    return Refined(
        refined.canvas.select(rows),
        refined.passes[rows],
        refined.finished[rows],
        None if refined.history is None else refined.history.select(rows),
    )
