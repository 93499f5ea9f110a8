"""KERMIT: one insertion model of two languages, of their pairs, and of either language given the other.

Chan et al. 2019, https://arxiv.org/abs/1906.01604. Departs from the paper: the state of a slot comes from both its
neighbours, as in the Insertion Transformer (Stern et al. 2019, https://arxiv.org/abs/1902.03249).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Draft, Source, Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, InsertionOptions
from nat.nn.joint import JointConfig, JointNet, Segment, Side
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.spans import SpanConfig
from nat.ops import insertion
from nat.ops.editing import positions_below, rearrange
from nat.ops.selection import packed, unpacked
from nat.rows import Rows
from nat.search.canvas import Canvas
from nat.search.editing import GIVEN, from_draft, start
from nat.search.insertion import Contents, Finalisation, Texts, insert_until_complete
from nat.search.refine import Refined

EOS, PAD = int(Symbol.EOS), int(Symbol.PAD)


class Task(IntEnum):
    """What a row teaches: p(x, y), p(y | x), p(x | y), p(x) or p(y)."""

    JOINT = 0
    FORWARD = 1
    BACKWARD = 2
    SOURCE = 3
    TARGET = 4


# By task and side. A side that is not written but present is given whole; one that is not present is not on the canvas.
WRITTEN = ((True, True), (False, True), (True, False), (True, False), (False, True))
PRESENT = ((True, True), (True, True), (True, True), (True, False), (False, True))


@dataclass(frozen=True)
class TaskShares:
    """How often each task is drawn, relative to the others (section 3.1)."""

    joint: float = option(1.0, "share of rows that teach p(x, y): both sides are shown in parts", minimum=0)
    forward: float = option(1.0, "of p(y | x): the source is shown whole, and nothing is learnt of it", minimum=0)
    backward: float = option(1.0, "of p(x | y): the target is shown whole, and nothing is learnt of it", minimum=0)
    source: float = option(1.0, "of p(x): there is no target", minimum=0)
    target: float = option(1.0, "of p(y): there is no source", minimum=0)

    def __post_init__(self) -> None:
        if sum(self.weights) == 0:
            names = ", ".join(f.name for f in dataclasses.fields(self))
            raise ConfigError(f"joint=0.0: at least one share must be more than 0, of {names}")

    @property
    def weights(self) -> list[float]:
        """In the order of `Task`."""
        return [self.joint, self.forward, self.backward, self.source, self.target]

    def draw(self, random: RowRandom) -> Int[Tensor, " B"]:
        """The task of each row."""
        shares = [torch.full((1,), weight, device=random.device) for weight in self.weights]  # made on the device
        log_shares = torch.cat(shares).log()
        return random.sample(log_shares.expand(len(random), 1, -1)).squeeze(1)


class Direction(Enum):
    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class Lesson(Rows):
    """What is shown of a batch's pairs, and what is learnt. shown: both sides. partials: what of each is missing.
    ends: slots that learn their end. states: (B,) how many tokens can be missing, and none: what a row counts."""

    shown: tuple[Segment, Segment]
    partials: tuple[insertion.Partial, insertion.Partial]
    ends: tuple[Bool[Tensor, "B G"], Bool[Tensor, "B H"]]
    states: Int[Tensor, " B"]


class Kermit(TranslationModel):
    """One stack over [BOS x EOS BOS y EOS]; every slot of either side learns what is missing there, or its end.

    One model gives p(x, y), p(y | x), p(x | y), p(x) and p(y). Tokens and ends of a side are of its own vocabulary, by
    its own embeddings. A slot has a distribution of its own, so that slots of a given side take no probability.
    """

    unlearnable = "longer than {limit}, which counts the end marks"
    edits: ClassVar[frozenset[str]] = frozenset({"draft", "known", "constraints"})

    @dataclass(frozen=True, kw_only=True)
    class Config(SpanConfig, JointConfig):
        tasks: TaskShares = field(default_factory=TaskShares)
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)

    @dataclass(frozen=True)
    class Decoding(InsertionOptions):
        direction: Direction = option(
            Direction.FORWARD, "forward: from the source to the target language; backward: the other way"
        )

        @property
        def reverse(self) -> bool:
            return self.direction is Direction.BACKWARD

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = JointNet(config, vocabularies=vocabularies, symbols=(Symbol.UNK, Symbol.EOS))
        self.register_buffer("is_written", torch.tensor(WRITTEN), persistent=False)
        self.register_buffer("is_present", torch.tensor(PRESENT), persistent=False)

    is_written: Tensor
    is_present: Tensor

    # --- training -------------------------------------------------------------------------------------

    def lesson(self, batch: Batch, tasks: Int[Tensor, " B"], random: RowRandom) -> Lesson:
        """Of the n tokens of all sides that a task writes k are shown, uniform in 0..n, anywhere (section 3). A given
        side is shown whole, and its slots learn nothing. batch: right-padded."""
        sides = (batch.source, batch.target)
        widths = [side.valid.size(1) for side in sides]
        present, written = self.is_present[tasks].unbind(dim=1), self.is_written[tasks].split(1, dim=1)
        valid = torch.cat([side.valid for side in sides], dim=1)  # (B, S + T)
        removable = torch.cat([side.valid & learnt for side, learnt in zip(sides, written, strict=True)], dim=1)
        noise = torch.cat([random.fork(i).uniform(width) for i, width in enumerate(widths)], dim=1)
        kept = insertion.kept_at_random(valid, random.uniform(), noise, removable=removable).split(widths, dim=1)
        first, second = (insertion.shortened(part, side.valid) for part, side in zip(kept, sides, strict=True))
        return Lesson(
            (self.part_of(batch.source, first, present[0]), self.part_of(batch.target, second, present[1])),
            (first, second),
            (
                insertion.slot_ends(first, first.slots & written[0]),
                insertion.slot_ends(second, second.slots & written[1]),
            ),
            removable.sum(dim=1) + 1,
        )

    def part_of(self, side: Tokens, partial: insertion.Partial, present: Bool[Tensor, " B"]) -> Segment:
        tokens = rearrange(side.tokens, partial.origin).masked_fill(~partial.valid, PAD)
        return Segment(tokens, partial.valid, present)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """The mean over all slots that learn, of both sides. As in the Insertion Transformer a row counts once for each
        number of tokens that can be shown, so that long pairs weigh as much as in other methods."""
        batch = batch.compact()
        source, target = batch.source, batch.target
        random = RowRandom.of_pairs(batch, seed=update)
        lesson = self.lesson(batch, self.config.tasks.draw(random.fork(0)), random.fork(1))
        slots = self.net(*lesson.shown)
        sums, counts = [], []
        sides = zip(Side, slots, (source.tokens, target.tokens), lesson.partials, lesson.ends, strict=True)
        for side, states, tokens, partial, ends in sides:
            counts.append((partial.filled | ends).sum(dim=1))
            losses = self.side_losses(self.net.logits(states, side), tokens, partial, ends)
            sums.append(torch.stack(losses) * counts[-1])
        smoothed, plain = torch.stack(sums).sum(dim=0) / torch.stack(counts).sum(dim=0) * lesson.states
        count = lesson.states.sum()
        return {
            "insertion": LossTerm(smoothed.sum(), count),
            "nll": LossTerm(plain.sum().detach(), count, weight=0.0),
        }

    def side_losses(
        self,
        logits: Float[Tensor, "B G V"],
        tokens: Int[Tensor, "B L"],
        partial: insertion.Partial,
        ends: Bool[Tensor, "B G"],
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """See `insertion_losses`."""
        smoothing = self.config.label_smoothing
        scores = insertion.SlotScores.of(
            logits, tokens, partial, end=EOS, with_mean=smoothing > 0, forbidden=self.net.forbidden
        )
        weights = self.config.weights(partial, dtype=scores.spans.dtype)
        return insertion.insertion_losses(scores, weights, partial, ends, label_smoothing=smoothing)

    # --- decoding -------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """As `fill`, with one side given whole. Backward, `source` is in the target's language and vocabulary, and the
        translation in the source's."""
        assert isinstance(decoding, Kermit.Decoding)
        source = source.compact()
        copies = decoding.num_copies(source)
        condition, written = begun(whole(source)).repeat_rows(copies), start(source, copies=copies)
        side = Side.SOURCE if decoding.reverse else Side.TARGET
        texts = Texts.of(written, condition) if side is Side.SOURCE else Texts.of(condition, written)
        limits = decoding.limits(source, positions=self.net.max_length)
        if self.max_total_length is not None:
            limits = limits.minimum(self.max_total_length - source.lengths)
        limits = limits[:, None].expand(-1, 2)
        refined = self.refined(
            texts, limits.repeat_interleave(copies, dim=0), decoding, decoding.random(source), sides=[side]
        )
        return Translation.of_insertions(refined, side, copies=copies, decoding=decoding)

    def fill(
        self, source: Draft, target: Draft, *, decoding: DecodingOptions, nonempty: bool = False
    ) -> tuple[Translation, Translation]:
        """Insert into the open gaps of both sides: pairs from nothing (two empty drafts, at a temperature, better with
        parallel=false: slots of one pass do not know of each other), answers in a gap, or texts with parts known.

        Candidate k of one side belongs to candidate k of the other; both have the score of the pair. Rows of equal
        drafts become equal pairs: more come by num_candidates. A side may have max_length_factor times the tokens of
        the longer draft and max_length_offset more. nonempty: an open gap between fixed tokens or ends gets one token
        at least. Raises ConfigError for a direction.
        """
        assert isinstance(decoding, Kermit.Decoding)
        if decoding.reverse:
            raise ConfigError("direction=backward: has no effect on fill, which writes wherever a gap is open")
        copies = decoding.num_candidates
        longer = positions_below(torch.maximum(source.lengths, target.lengths))
        limits = decoding.limits(Source(longer.long(), longer), positions=self.net.max_length)[:, None].expand(-1, 2)
        if self.max_total_length is not None:  # what is left is for both sides
            num_given = torch.stack((source.lengths, target.lengths), dim=1)
            room = (self.max_total_length - num_given.sum(dim=1, keepdim=True)).clamp(min=0)
            limits = limits.minimum(num_given + room // 2)
        random = None
        if decoding.temperature is not None:
            parts = (source.tokens, source.valid), (target.tokens, target.valid)
            random = RowRandom.of(*parts, seed=decoding.seed).copies(copies)
        texts = Texts.of(*(begun(side).repeat_rows(copies) for side in (source, target)))
        limits = limits.repeat_interleave(copies, dim=0)
        refined = self.refined(texts, limits, decoding, random, sides=list(Side), nonempty=nonempty)
        first, second = (Translation.of_insertions(refined, side, copies=copies, decoding=decoding) for side in Side)
        score = first.scores + second.scores - refined.canvas.end_scores.view_as(first.scores)  # the ends are of both
        return replace(first, scores=score), replace(second, scores=score)

    def refined(
        self,
        texts: Texts,
        limits: Int[Tensor, "B 2"],
        decoding: Decoding,
        random: RowRandom | None,
        *,
        sides: Sequence[Side],
        nonempty: bool = False,
    ) -> Refined[Texts]:
        """Passes over both sides of pairs. limits: tokens that each side may have. sides: those that are written; the
        others are whole."""
        return insert_until_complete(
            lambda texts, _: self.contents(texts, sides, nonempty=nonempty, banned=decoding.banned),
            texts,
            Rows(),
            scorer=lambda texts, _: self.contents(texts, sides),
            rule=decoding.rule(Finalisation.SLOT, end=EOS),
            limits=limits,
            random=random,
            max_passes=decoding.max_passes,
            history=decoding.history,
        )

    def contents(
        self, texts: Texts, sides: Sequence[Side], *, nonempty: bool = False, banned: tuple[int, ...] = ()
    ) -> list[Contents | None]:
        """Of what may be inserted into each open gap of these sides, in the vocabulary of its side. nonempty: gaps
        between fixed tokens have no end. banned: symbols that are not inserted."""
        present = torch.ones_like(texts.cut)
        slots = self.net(*(Segment(text.tokens, text.valid, present) for text in texts.canvases))
        said: list[Contents | None] = [None, None]
        for side in sides:
            canvas = texts.canvases[side]
            asked = canvas.open_gaps
            _, states, endless = packed(asked, slots[side], between_fixed(canvas))
            contents = Contents.of(self.net.logits(states, side, banned=banned), asked)
            said[side] = without_end(contents, endless) if nonempty else contents
        return said

    # --- lengths --------------------------------------------------------------------------------------

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return source_length + target_length + 4  # BOS and EOS of both

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.net.max_length, self.net.max_length, self.net.max_total_length)


def begun(side: Draft) -> Canvas:
    """The canvas of a side. Of one that is whole, with no open gap, nothing is scored: the other depends on it."""
    canvas = from_draft(side)
    return replace(canvas, positions={GIVEN: canvas.valid & canvas.open_gaps.any(dim=1, keepdim=True)})


def whole(side: Tokens) -> Draft:
    """A side that is given: nothing is inserted into it. side: right-padded."""
    closed = torch.ones((len(side), side.valid.size(1) + 1), dtype=torch.bool, device=side.device)
    return Draft(side.tokens, side.valid, side.valid, closed)


def gapped(rows: Sequence[Sequence[int]], open_gaps: Sequence[Collection[int]]) -> Draft:
    """Sides of which all tokens are given, and something is inserted into these gaps alone: gap g stands before token
    g, the last one after all. ([[]], [[0]]) is a side of which nothing is known."""
    side = Tokens.from_lists(rows)
    closed = torch.ones((len(side), side.valid.size(1) + 1), dtype=torch.bool)
    for row, chosen in enumerate(open_gaps):
        closed[row, list(chosen)] = False
    return Draft(side.tokens, side.valid, side.valid, closed)


def without_end(contents: Contents, endless: Bool[Tensor, " N"]) -> Contents:
    """Where it says so; log p(l) is then that of anything but the end."""
    end = torch.exp(contents.logits[:, EOS].to(contents.normaliser) - contents.normaliser)
    logits = contents.logits.clone()
    logits[:, EOS] = logits[:, EOS].masked_fill(endless, -torch.inf)
    rest = torch.log1p(-end).masked_fill(~endless, 0.0)
    return replace(Contents.of(logits, contents.asked), where=unpacked(contents.asked, rest, contents.where))


def between_fixed(canvas: Canvas) -> Bool[Tensor, "B G"]:
    """Gaps next to no token but fixed ones: nothing has been inserted there."""
    fixed = canvas.fixed | ~canvas.valid
    return F.pad(fixed, (1, 0), value=True) & F.pad(fixed, (0, 1), value=True)
