"""Mask-Predict: a conditional masked language model, decoded in a constant number of passes.

Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Phrases, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms, forgiving_terms
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.nn.copying import Copying
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Conditions, ParallelConfig, Seq2Seq
from nat.nn.token_losses import EPS, TokenLoss, TokenLossConfig, forgiving_loss
from nat.nn.transformer import Memory
from nat.ops.placement import best_placement, window_sums
from nat.ops.selection import lowest
from nat.search.canvas import Canvas, Fate
from nat.search.editing import held_out, num_orders, reordered
from nat.search.length_beam import LengthBeam
from nat.search.refine import Step, as_it_is, refine

MASK, PAD = int(Symbol.MASK), int(Symbol.PAD)
TOTAL = "total"  # of `Canvas.rows`: positions that are masked at first, N of the schedule
STAYS = 1e4  # worth of leaving a phrase where a draft has it: above all log-probabilities


class MaskPredict(TranslationModel):
    """p(y_masked | y_observed, x): training hides a random part of the target; decoding starts with everything
    hidden and hides again what it is least sure of."""

    edits = frozenset({"draft", "constraints"})
    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(TokenLossConfig, ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=lambda: LengthPredictor.Config(weight=1.0))
        copying: Copying = field(default_factory=Copying)

    @dataclass(frozen=True)
    class Decoding(LengthBeamOptions):
        usual_beam: ClassVar[int] = 5
        max_passes: int = option(4, "decoder calls", minimum=1, maximum=100_000)
        remask: float = option(0.3, "with a draft: share of it that the first pass predicts anew", minimum=0, maximum=1)
        orders: int = option(24, "several constraints: orders of them that are tried", minimum=1, maximum=10_000)

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=config.symbols,
            decoder=config.attentions(),
            copying=config.copying,
        )
        self.length = LengthPredictor(config.length, dim=config.size.dim)

    def log_probs(
        self, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"], memory: Memory
    ) -> Float[Tensor, "B T V"]:
        """Of a target some of whose tokens are MASK."""
        return self.net.head(memory).full(self.states(tokens, valid, memory))

    def states(self, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"], memory: Memory) -> Float[Tensor, "B T D"]:
        return self.net.states(self.net.place(self.net.embed(tokens)), valid, memory)

    def hidden(self, batch: Batch, update: int) -> Bool[Tensor, "B T"]:
        """The positions to predict: of each row a number uniform in 1..T, anywhere (section 3.2)."""
        target = batch.target
        random = RowRandom.of_pairs(batch, seed=update)
        counts = (random.uniform() * target.lengths).long() + 1
        noise = random.fork(1).uniform(target.valid.size(1))
        return lowest(noise, counts.clamp(max=target.lengths), target.valid)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        length = LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight)
        return self.token_terms(batch, memory, update=update) | {"length": length}

    def token_terms(self, batch: Batch, memory: Memory, *, update: int) -> dict[str, LossTerm]:
        target, hidden, config = batch.target, self.hidden(batch, update), self.config
        states, head = self.states(target.tokens.masked_fill(hidden, MASK), target.valid, memory), self.net.head(memory)
        if config.loss is not TokenLoss.CROSS_ENTROPY:
            loss = forgiving_loss(config, head, states, target, hidden, update=update)
            return forgiving_terms(loss, name=config.loss.value)
        entropy = head.cross_entropy(states, target.tokens, hidden, label_smoothing=config.label_smoothing)
        return cross_entropy_terms(entropy)

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, MaskPredict.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        canvas, beam, calls = self.start(beam, decoding)
        refined = refine(
            self.stepper(decoding),
            canvas,
            Conditions(beam.memory, decoding.random(source)),
            max_passes=decoding.max_passes,
            finished=nothing_masked,
            least_passes=passes_of(int(canvas.rows[TOTAL].min()), limit=decoding.max_passes),
            history=decoding.history,
        )
        translation = Translation.best_of(
            refined.canvas,
            decoding,
            copies=beam.copies,
            extra_scores=beam.scores,
            calls=refined.calls + calls,
            history=refined.history(as_it_is),
        )
        return translation.without(EPS) if EPS in self.config.symbols else translation

    def start(self, beam: LengthBeam, decoding: Decoding) -> tuple[Canvas, LengthBeam, Int[Tensor, " N"]]:
        """Nothing but masks; or a draft, and phrases where they cost least. Returns the canvas, the beam with the
        lengths of the canvas, and the decoder calls that it took: 0, or 2."""
        source, calls = beam.source, torch.zeros_like(beam.lengths)
        if source.draft is None and source.phrases is None:
            return masked_canvas(beam.lengths), beam, calls
        canvas, drafted = first_canvas(source, beam.lengths)
        asked, valid = drafted, canvas.valid
        memory = replace(beam.memory, banned=())  # what is given may be anything
        log_probs = held_out(lambda tokens: self.log_probs(tokens, valid, memory), canvas, valid, symbol=MASK)
        if source.phrases is not None:
            canvas = with_phrases(canvas, source.phrases, log_probs, orders=decoding.orders)
            asked = asked | canvas.fixed.any(dim=1)
        scores = log_probs.gather(2, canvas.tokens[:, :, None]).squeeze(2)
        free = canvas.valid & ~canvas.fixed
        share = torch.where(drafted, decoding.remask, 1.0)
        unknown = canvas.tokens == MASK
        total = torch.maximum((free.sum(dim=1) * share).ceil().long(), (unknown & free).sum(dim=1))
        hidden = lowest(scores.masked_fill(unknown, -torch.inf), total, free)
        fate = torch.where(hidden, int(Fate.MASKED), int(Fate.KEPT)).masked_fill(~canvas.valid, int(Fate.NONE))
        scores = scores.masked_fill(hidden | ~canvas.valid, 0.0)
        canvas = replace(canvas, scores=scores, fate=fate, rows={TOTAL: total})
        return canvas, beam.resized(self.length, canvas.lengths), calls + 2 * asked

    def stepper(self, decoding: Decoding) -> Step[Canvas, Conditions]:
        """Predict what is masked; then mask the n_t = N (T - t) / T least confident of all N positions (section 3.3,
        equation 2). A position that is predicted again takes its new probability, the others keep theirs."""

        def step(canvas: Canvas, conditions: Conditions, number: int) -> tuple[Canvas, int]:
            hidden = canvas.fate == Fate.MASKED
            memory = conditions.memory
            states = self.states(canvas.tokens.masked_fill(hidden, MASK), canvas.valid, memory)
            random = None if conditions.random is None else conditions.random.fork(number)
            written, scores = decoding.choose(self.net.head(memory), states, random, where=hidden)
            tokens, scores = written.where(hidden, canvas.tokens), scores.where(hidden, canvas.scores)
            left = canvas.rows[TOTAL] * (decoding.max_passes - number) // decoding.max_passes
            fate = torch.where(hidden, int(Fate.WRITTEN), int(Fate.KEPT)).masked_fill(~canvas.valid, int(Fate.NONE))
            fate = fate.masked_fill(lowest(scores, left, canvas.valid & ~canvas.fixed), int(Fate.MASKED))
            return replace(canvas, tokens=tokens, scores=scores, fate=fate), 1

        return step

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)


def masked_canvas(lengths: Int[Tensor, " B"]) -> Canvas:
    """Nothing but masks."""
    valid = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    tokens = torch.full(valid.shape, MASK, device=lengths.device).masked_fill(~valid, PAD)
    fate = torch.where(valid, int(Fate.MASKED), int(Fate.NONE))
    return replace(Canvas.start(tokens, valid), fate=fate, rows={TOTAL: lengths})


def first_canvas(source: Source, lengths: Int[Tensor, " B"]) -> tuple[Canvas, Bool[Tensor, " B"]]:
    """The drafts, or as many masks as the length says, with masks added where the phrases need more room; and which
    rows have a draft."""
    draft, phrases = source.draft, source.phrases
    room = torch.zeros_like(lengths) if phrases is None else phrases.valid.sum(dim=(1, 2))
    drafted = torch.zeros_like(lengths, dtype=torch.bool) if draft is None else draft.lengths > 0
    if draft is not None:
        lengths = draft.lengths.where(drafted, lengths)
    canvas = masked_canvas(torch.maximum(lengths, room))
    if draft is None:
        return canvas, drafted
    width = min(draft.tokens.size(1), canvas.tokens.size(1))
    tokens = canvas.tokens.clone()
    tokens[:, :width] = draft.tokens[:, :width].where(draft.valid[:, :width], tokens[:, :width])
    return replace(canvas, tokens=tokens), drafted


def with_phrases(canvas: Canvas, phrases: Phrases, log_probs: Float[Tensor, "B L V"], *, orders: int) -> Canvas:
    """The phrases written where they cost least, without overlap, in the best of several orders, and fixed."""
    copies = num_orders(phrases, limit=orders)
    tried = reordered(phrases, copies)  # (B * K, C, N)
    worth = phrase_worth(canvas.repeat_rows(copies), tried, log_probs.repeat_interleave(copies, dim=0))
    starts, total = best_placement(worth, tried.valid.sum(dim=2))
    best = total.view(-1, copies).argmax(dim=1) + torch.arange(len(canvas), device=total.device) * copies
    chosen, starts, length = tried.select(best), starts[best], canvas.tokens.size(1)
    place = starts[:, :, None] + torch.arange(chosen.tokens.size(2), device=starts.device)  # (B, C, N)
    place = place.where(chosen.valid, length).flatten(1)  # what is no token goes to a column that is cut off
    tokens = F.pad(canvas.tokens, (0, 1)).scatter(1, place, chosen.tokens.flatten(1))[:, :length]
    fixed = F.pad(canvas.fixed, (0, 1)).scatter(1, place, True)[:, :length]
    return replace(canvas, tokens=tokens, fixed=fixed)


def phrase_worth(canvas: Canvas, phrases: Phrases, log_probs: Float[Tensor, "B L V"]) -> Float[Tensor, "B C L"]:
    """Of each phrase that begins at each position: the log-probability that it adds to what it replaces (the draft, or
    what the model would write at a mask); STAYS where the canvas holds it already."""
    shape = phrases.tokens.shape[1:]
    wanted = phrases.tokens.flatten(1)[:, None].expand(-1, canvas.tokens.size(1), -1)  # (B, L, C N)
    likely = log_probs.masked_fill(~canvas.valid[:, :, None], -torch.inf)
    drafted = likely.gather(2, canvas.tokens[:, :, None]).squeeze(2)
    replaced = likely.amax(dim=2).where(canvas.tokens == MASK, drafted).masked_fill(~canvas.valid, 0.0)
    gain = likely.gather(2, wanted) - replaced[:, :, None]
    differs = (canvas.tokens[:, :, None] != wanted).to(gain.dtype)
    worth = window_sums(gain.unflatten(2, shape), phrases.valid)
    absent = window_sums(differs.unflatten(2, shape), phrases.valid) != 0
    return worth.where(absent, STAYS)


def passes_of(total: int, *, limit: int) -> int:
    """The passes after which nothing of so many masks is left: a short sentence needs fewer than the limit."""
    return limit - -(-limit // total) + 1 if total else 1


def nothing_masked(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """True where later passes would change nothing: a short sentence needs fewer than max_passes."""
    return ~(after.fate == Fate.MASKED).any(dim=1)
