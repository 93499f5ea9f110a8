"""Decoding by insertion: every pass puts tokens into the slots of texts, until nothing more is to be inserted.

Stern et al. 2019, https://arxiv.org/abs/1902.03249, section 5. Of a model it knows the log-probabilities of contents
and slots alone, so that every model that inserts shares it. Several texts may grow together, each on its own canvas, as
both sides of KERMIT's pairs do (Chan et al. 2019, https://arxiv.org/abs/1906.01604).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nat.nn.rng import RowRandom
from nat.ops.editing import NEW, deletion, gaps, rearrange
from nat.ops.selection import lowest
from nat.rows import Rows
from nat.search.canvas import Canvas, Fate
from nat.search.editing import GIVEN
from nat.search.refine import Refined, refine


class Finalisation(Enum):
    """What ends a sequence: each slot says that nothing belongs there, or one insertion is the end of all."""

    SLOT = "slot"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class Texts(Rows):
    """What grows together. canvases: the texts, each on its own. end_scores, num_ends: (B,) summed log-probability and
    number of the ends that the last pass chose. cut: (B,) True where it would have inserted more than the limits allow.
    """

    canvases: tuple[Canvas, ...]
    end_scores: Float[Tensor, " B"]
    num_ends: Int[Tensor, " B"]
    cut: Bool[Tensor, " B"]

    @classmethod
    def of(cls, *canvases: Canvas) -> Texts:
        """Before the first pass."""
        none = torch.zeros_like(canvases[0].lengths)
        return cls(canvases, none.float(), none, none.bool())

    def means(self, number: int) -> Float[Tensor, " B"]:
        """Mean log-probability of tokens and ends where one text alone is written. (The mean over tokens alone would
        prefer a canvas that nothing was inserted into.)"""
        canvas = self.canvases[number]
        return (canvas.scores.sum(dim=1) + self.end_scores) / (canvas.lengths + self.num_ends).clamp(min=1)

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Tokens of all texts."""
        return torch.stack([canvas.lengths for canvas in self.canvases]).sum(dim=0)

    def in_a_row(self, values: Sequence[Tensor]) -> Shaped[Tensor, "B A ..."]:
        """Values of the gaps of each text, (B, G, ...), as values of all A gaps: those of a row's texts one after the
        other, without padding between them, so that a gap's column does not depend on the batch."""
        if len(values) == 1:
            return values[0]
        origin, real = deletion(torch.cat([gaps(canvas.valid) for canvas in self.canvases], dim=1))
        return rearrange(torch.cat(list(values), dim=1), origin.masked_fill(~real, NEW))

    @property
    def slots(self) -> Bool[Tensor, "B A"]:
        """All gaps that each row has."""
        return self.in_a_row([gaps(canvas.valid) for canvas in self.canvases])

    @property
    def open_gaps(self) -> Bool[Tensor, "B A"]:
        return self.in_a_row([canvas.open_gaps for canvas in self.canvases])


@dataclass(frozen=True)
class Choice(Rows):
    """What each slot chose, (B, A). tokens: its content, or the end. scores: log p(c | l) of it. ranks: log p(c, l).
    insert: where it is to be inserted. ends: slots that chose the end."""

    tokens: Int[Tensor, "B A"]
    scores: Float[Tensor, "B A"]
    ranks: Float[Tensor, "B A"]
    insert: Bool[Tensor, "B A"]
    ends: Bool[Tensor, "B A"]

    def at(self, columns: Int[Tensor, "B G"], real: Bool[Tensor, "B G"]) -> Choice:
        """What these slots chose; nothing where they are not real."""
        columns = columns.clamp(max=self.tokens.size(1) - 1)
        chosen = self.map(lambda values: values.gather(1, columns))
        return replace(chosen, insert=chosen.insert & real, ends=chosen.ends & real)


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

    def choose(self, log_probs: Float[Tensor, "B A V"], texts: Texts, random: RowRandom | None) -> Choice:
        """log_probs: of contents and slots, log p(c, l). Nothing is chosen in closed gaps."""
        allowed = texts.open_gaps
        log_probs = log_probs.masked_fill(~texts.slots[:, :, None], 0.0)  # not -inf, of which nothing can be subtracted
        where = log_probs.logsumexp(dim=2)  # (B, A) log p(l)
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
        allowed: Bool[Tensor, "B A"],
        ranks: Float[Tensor, "B A"],
        where: Float[Tensor, "B A"],
        random: RowRandom | None,
    ) -> Bool[Tensor, "B A"]:
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
LogProbs = Callable[[Texts, M], Tensor]  # texts, memory -> log p(c, l), (B, A, V), see `Texts.in_a_row`


@dataclass(frozen=True)
class Work(Rows, Generic[M]):
    """What the passes read beside the texts. limits: (B, N) the most tokens of each text."""

    memory: M
    random: RowRandom | None
    limits: Int[Tensor, "B N"]


def grown(canvas: Canvas, choice: Choice) -> Canvas:
    """The canvas with what was chosen for its gaps."""
    after = canvas.inserted(choice.insert.long(), token=0)
    is_new = after.fate == Fate.INSERTED
    is_old = (after.valid & ~is_new).long()
    slot = is_old.cumsum(dim=1) - is_old  # what is inserted into slot g stands after g old positions
    return replace(
        after,
        tokens=choice.tokens.gather(1, slot).where(is_new, after.tokens),
        scores=choice.scores.gather(1, slot).where(is_new, after.scores.to(choice.scores)),
    )


def all_grown(texts: Texts, choice: Choice, limits: Int[Tensor, "B N"]) -> Texts:
    """The texts with what was chosen; where that is more than a text has room for, with the most probable of it."""
    canvases, cut = [], torch.zeros_like(texts.cut)
    begin = torch.zeros_like(texts.num_ends)[:, None]
    for canvas, limit in zip(texts.canvases, limits.unbind(1), strict=True):
        real = gaps(canvas.valid)
        wanted = choice.at(begin + torch.arange(real.size(1), device=real.device), real)
        room = (limit - canvas.lengths).clamp(min=0)
        insert = lowest(-wanted.ranks, room, wanted.insert)
        canvases.append(grown(canvas, replace(wanted, insert=insert)))
        cut = cut | (wanted.insert & ~insert).any(dim=1)
        begin = begin + real.sum(dim=1, keepdim=True)
    end_scores, num_ends = choice.scores.where(choice.ends, 0.0).sum(dim=1), choice.ends.sum(dim=1)
    return Texts(tuple(canvases), end_scores, num_ends, cut)


def complete(before: Texts, after: Texts) -> Bool[Tensor, " B"]:
    """A pass that inserted nothing, or filled a text up to its limit."""
    return (after.lengths == before.lengths) | after.cut


def insert_until_complete(
    log_probs: LogProbs[M],
    texts: Texts,
    memory: M,
    *,
    scorer: LogProbs[M],
    rule: InsertionRule,
    limits: Int[Tensor, "B N"],
    random: RowRandom | None,
    max_passes: int,
    history: bool = False,
) -> Refined[Texts]:
    """Passes over texts until nothing more is inserted, and scores of what was given. limits: tokens that each may
    have; one that begins longer stays so. random: the rows' own numbers, for samples. scorer: as log_probs, for what
    was given, which may be what is not to be inserted."""

    def step(texts: Texts, work: Work[M], number: int) -> tuple[Texts, int]:
        numbers = None if work.random is None else work.random.fork(number)
        return all_grown(texts, rule.choose(log_probs(texts, work.memory), texts, numbers), work.limits), 1

    work = Work(memory, random, limits)
    refined = refine(step, texts, work, max_passes=max_passes, finished=complete, history=history)
    scored, calls = score_given(scorer, refined.canvas, memory)
    return replace(refined, canvas=scored, calls=refined.calls + calls)


@torch.no_grad()
def score_given(scorer: LogProbs[M], texts: Texts, memory: M) -> tuple[Texts, Int[Tensor, " B"]]:
    """With scores of the tokens that were given: log p(c | l) of each in its slot, while it and every other one of them
    are taken out, the even positions in one call, the odd ones in another. Also returns each row's calls."""
    given = [canvas.positions[GIVEN] for canvas in texts.canvases]
    calls = 2 * torch.stack([of_text.any(dim=1) for of_text in given]).any(dim=0)
    canvases = list(texts.canvases)
    for parity in (0, 1) if bool(calls.any()) else ():
        hidden = [of_text & (torch.arange(of_text.size(1), device=texts.device) % 2 == parity) for of_text in given]
        left = tuple(opened(canvas.without(out)) for canvas, out in zip(texts.canvases, hidden, strict=True))
        contents = scorer(replace(texts, canvases=left), memory)
        where, begin = contents.logsumexp(dim=2), torch.zeros_like(calls)[:, None]
        for number, (canvas, out) in enumerate(zip(canvases, hidden, strict=True)):
            slot = begin + (canvas.valid & ~out).cumsum(dim=1)
            chosen = contents.flatten(1).gather(1, slot * contents.size(2) + canvas.tokens) - where.gather(1, slot)
            canvases[number] = replace(canvas, scores=chosen.where(out, canvas.scores.to(chosen)))
            begin = begin + left[number].lengths[:, None] + 1
    return replace(texts, canvases=tuple(canvases)), calls


def opened(canvas: Canvas) -> Canvas:
    """With all its gaps open."""
    return replace(canvas, joined=torch.zeros_like(canvas.joined), sealed=torch.zeros_like(canvas.sealed))
