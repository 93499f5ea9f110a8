"""Decoding by insertion: every pass puts tokens into the slots of texts, until nothing more is to be inserted.

Stern et al. 2019, https://arxiv.org/abs/1902.03249, section 5. Of a model it knows what it says of contents and slots
alone, so that every model that inserts shares it. Several texts may grow together, each on its own canvas, as
both sides of KERMIT's pairs do (Chan et al. 2019, https://arxiv.org/abs/1906.01604).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Generic, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nat.nn.rng import RowRandom
from nat.ops.editing import NEW, deletion, gaps, rearrange
from nat.ops.insertion import slot_log_probs
from nat.ops.log_softmax import normalisers
from nat.ops.sampling import class_of
from nat.ops.selection import lowest, packed, unpacked
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
        there = torch.cat([gaps(canvas.valid) for canvas in self.canvases], dim=1)
        origin, real = deletion(there, most=there.size(1))
        return rearrange(torch.cat(list(values), dim=1), origin.masked_fill(~real, NEW))

    def of_each(self, values: Shaped[Tensor, "B A"]) -> list[Shaped[Tensor, "B G"]]:
        """The inverse of `in_a_row`; what stands in gaps that a row does not have means nothing."""
        parts, begin = [], torch.zeros_like(self.num_ends)[:, None]
        for canvas in self.canvases:
            columns = begin + torch.arange(canvas.valid.size(1) + 1, device=values.device)
            parts.append(values.gather(1, columns.clamp(max=values.size(1) - 1)))
            begin = begin + canvas.lengths[:, None] + 1
        return parts

    @property
    def open_gaps(self) -> Bool[Tensor, "B A"]:
        return self.in_a_row([canvas.open_gaps for canvas in self.canvases])


@dataclass(frozen=True)
class Contents:
    """What a model says of the slots of one text. asked: (B, G) the gaps that it was asked about. logits: (N, V) of the
    contents of these alone, as `ops.selection.packed` gives them. normaliser: (N,) of each. where: (B, G) log p(l), 0
    where slots do not share a probability."""

    logits: Float[Tensor, "N V"]
    asked: Bool[Tensor, "B G"]
    normaliser: Float[Tensor, " N"]
    where: Float[Tensor, "B G"]

    @classmethod
    def of(cls, logits: Float[Tensor, "N V"], asked: Bool[Tensor, "B G"]) -> Self:
        """Of slots each with a softmax of its own."""
        normaliser = normalisers(logits)
        return cls(logits, asked, normaliser, torch.zeros_like(asked, dtype=normaliser.dtype))

    def located(self, slot_logits: Float[Tensor, "B G"] | None) -> Self:
        """With a softmax over the slots of a row; None: one over all contents of all its slots (section 3.2)."""
        logits = unpacked(self.asked, self.normaliser, self.where) if slot_logits is None else slot_logits
        return replace(self, where=slot_log_probs(logits, self.asked))

    def log_probs(self, slots: Int[Tensor, "B L"], tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log p(c | l) of any tokens in slots that were asked about."""
        places = torch.arange(len(self.logits), device=tokens.device)
        row = unpacked(self.asked, places, torch.zeros_like(self.asked, dtype=torch.long)).gather(1, slots)
        return self.logits[row, tokens].to(self.normaliser) - self.normaliser[row]


@dataclass(frozen=True)
class Choice(Rows):
    """What each slot chose, (B, A). tokens: its content, or the end. scores: log p(c | l) of it. ranks: log p(c, l).
    insert: where it is to be inserted. ends: slots that chose the end."""

    tokens: Int[Tensor, "B A"]
    scores: Float[Tensor, "B A"]
    ranks: Float[Tensor, "B A"]
    insert: Bool[Tensor, "B A"]
    ends: Bool[Tensor, "B A"]

    def of_each(self, texts: Texts) -> list[Choice]:
        """What the gaps of each text chose."""
        parts = [texts.of_each(getattr(self, f.name)) for f in fields(self)]
        choices = [Choice(*of_text) for of_text in zip(*parts, strict=True)]
        real = [gaps(canvas.valid) for canvas in texts.canvases]
        return [replace(one, insert=one.insert & r, ends=one.ends & r) for one, r in zip(choices, real, strict=True)]


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

    def choose(self, contents: Sequence[Contents | None], texts: Texts, random: RowRandom | None) -> Choice:
        """contents: of each text; None of one that has no open gap. Nothing is chosen in closed gaps."""
        allowed = texts.open_gaps
        numbers = None
        if random is not None and self.temperature is not None:
            numbers = texts.of_each(random.uniform(allowed.size(1)))
        picked = [
            self._picked(of_text, canvas, None if numbers is None else numbers[number])
            for number, (of_text, canvas) in enumerate(zip(contents, texts.canvases, strict=True))
        ]
        tokens, scores, where = (texts.in_a_row(values) for values in zip(*picked, strict=True))
        is_end = tokens == self.end
        ranks = scores - self.end_penalty * is_end + where
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

    def _picked(
        self, contents: Contents | None, canvas: Canvas, drawn: Float[Tensor, "B G"] | None
    ) -> tuple[Int[Tensor, "B G"], Float[Tensor, "B G"], Float[Tensor, "B G"]]:
        """The content of each gap of a text, its log p(c | l), and log p(l). drawn: uniform in (0, 1), for samples."""
        none = torch.zeros_like(gaps(canvas.valid), dtype=torch.long)
        if contents is None:
            return none, none.float(), none.float()
        logits = contents.logits
        if self.end_penalty:
            logits = logits.clone()
            logits[:, self.end] -= self.end_penalty
        if drawn is None or self.temperature is None:
            tokens = logits.argmax(dim=-1)
        else:
            _, numbers = packed(contents.asked, drawn)
            tokens = class_of(logits / self.temperature, numbers)
        chosen = contents.logits.gather(1, tokens[:, None]).squeeze(1).to(contents.normaliser) - contents.normaliser
        scores = unpacked(contents.asked, chosen, torch.zeros_like(contents.where))
        return unpacked(contents.asked, tokens, none), scores, contents.where

    def _pick(self, log_probs: Float[Tensor, "*L V"], random: RowRandom | None) -> Int[Tensor, "*L"]:
        if random is None or self.temperature is None:
            return log_probs.argmax(dim=-1)
        return random.sample(log_probs / self.temperature)


M = TypeVar("M", bound=Rows)
Asked = Callable[[Texts, M], Sequence[Contents | None]]  # texts, memory -> what is said of each text's open gaps


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
    for canvas, wanted, limit in zip(texts.canvases, choice.of_each(texts), limits.unbind(1), strict=True):
        room = (limit - canvas.lengths).clamp(min=0)
        insert = lowest(-wanted.ranks, room, wanted.insert)
        canvases.append(grown(canvas, replace(wanted, insert=insert)))
        cut = cut | (wanted.insert & ~insert).any(dim=1)
    end_scores, num_ends = choice.scores.where(choice.ends, 0.0).sum(dim=1), choice.ends.sum(dim=1)
    return Texts(tuple(canvases), end_scores, num_ends, cut)


def complete(before: Texts, after: Texts) -> Bool[Tensor, " B"]:
    """A pass that inserted nothing, or filled a text up to its limit."""
    return (after.lengths == before.lengths) | after.cut


def insert_until_complete(
    contents: Asked[M],
    texts: Texts,
    memory: M,
    *,
    scorer: Asked[M],
    rule: InsertionRule,
    limits: Int[Tensor, "B N"],
    random: RowRandom | None,
    max_passes: int,
    history: bool = False,
) -> Refined[Texts]:
    """Passes over texts until nothing more is inserted, and scores of what was given. limits: tokens that each may
    have; one that begins longer stays so. random: the rows' own numbers, for samples. scorer: as contents, for what
    was given, which may be what is not to be inserted."""

    def step(texts: Texts, work: Work[M], number: int) -> tuple[Texts, int]:
        numbers = None if work.random is None else work.random.fork(number)
        return all_grown(texts, rule.choose(contents(texts, work.memory), texts, numbers), work.limits), 1

    work = Work(memory, random, limits)
    refined = refine(step, texts, work, max_passes=max_passes, finished=complete, history=history)
    scored, calls = score_given(scorer, refined.canvas, memory)
    return replace(refined, canvas=scored, calls=refined.calls + calls)


@torch.no_grad()
def score_given(scorer: Asked[M], texts: Texts, memory: M) -> tuple[Texts, Int[Tensor, " B"]]:
    """With scores of the tokens that were given: log p(c | l) of each in its slot, while it and every other one of them
    are taken out, the even positions in one call, the odd ones in another. Also returns each row's calls."""
    given = [canvas.positions[GIVEN] for canvas in texts.canvases]
    calls = 2 * torch.stack([of_text.any(dim=1) for of_text in given]).any(dim=0)
    canvases = list(texts.canvases)
    for parity in (0, 1) if bool(calls.any()) else ():
        hidden = [of_text & (torch.arange(of_text.size(1), device=texts.device) % 2 == parity) for of_text in given]
        left = tuple(opened(canvas.without(out)) for canvas, out in zip(texts.canvases, hidden, strict=True))
        contents = scorer(replace(texts, canvases=left), memory)
        for number, (said, canvas, out) in enumerate(zip(contents, canvases, hidden, strict=True)):
            if said is not None:
                chosen = said.log_probs((canvas.valid & ~out).cumsum(dim=1), canvas.tokens)
                canvases[number] = replace(canvas, scores=chosen.where(out, canvas.scores.to(chosen)))
    return replace(texts, canvases=tuple(canvases)), calls


def opened(canvas: Canvas) -> Canvas:
    """With all its gaps open."""
    return replace(canvas, joined=torch.zeros_like(canvas.joined), sealed=torch.zeros_like(canvas.sealed))
