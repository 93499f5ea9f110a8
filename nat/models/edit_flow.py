"""Edit Flows: insertions, substitutions and deletions at rates, a Levenshtein Transformer with a likelihood.

Havasi et al. 2025, https://arxiv.org/abs/2506.09018. Its translations are this toolkit's own: the paper has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Draft, Source, Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, EditOptions
from nat.nn.copying import Copying
from nat.nn.edit_rates import EditRates, log_softplus
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom, evenly_spread
from nat.nn.roll_in import DraftConfig, either, kept
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.alignment import align
from nat.ops.edit_flow import OnTheWay, Rates, hazard, time_of
from nat.ops.editing import rearrange
from nat.search.canvas import Canvas
from nat.search.edit_flow import Edits, allowed, edited
from nat.search.editing import CUT, Work, start, traced, with_deleted, with_given_scores, within_limits
from nat.search.refine import Step, refine, unchanged

PLH = int(Symbol.PLH)  # hides what is given, while it is scored
THRESHOLD = 0.15  # on 200 validation sentences of lohelp 0.1 and 0.15 were best, of 0.03 to 0.5


class EditFlow(TranslationModel):
    """One decoder call says of every place of a canvas which edits are left: how many, and of which tokens.

    Trained on canvases between an initial sequence (nothing, a draft or the source) and the target, at a random time.
    Decoded greedily, or with a temperature by Euler steps of the process, which are samples.
    """

    unlearnable = "an empty side, or a canvas longer than {limit}"
    num_ends = 2  # BOS and EOS around the canvas
    edits = frozenset({"draft", "known", "constraints"})

    @dataclass(frozen=True, kw_only=True)
    class Config(DraftConfig, ParallelConfig):
        sources: float = option(
            0.0,
            "training: share of pairs whose initial sequence is the source; needs one vocabulary for both sides",
            minimum=0,
            maximum=1,
        )
        states: int = option(
            2, "training: canvases of each pair in an update, from little done to nearly all", minimum=1, maximum=1000
        )
        max_weight: float = option(
            20.0, "training: the most that an edit weighs; 1 / (1 - kappa) has no limit near t = 1", minimum=1
        )
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.drafts + self.sources > 1:
                raise ConfigError(f"drafts={self.drafts}, sources={self.sources}: must be at most 1 together")

    @dataclass(frozen=True)
    class Decoding(EditOptions):
        max_passes: int = option(
            10,
            "passes at most, or steps with a temperature; without one a sentence in which nothing changes needs fewer",
            minimum=1,
            maximum=100_000,
        )
        threshold: float | None = option(
            None,
            f"edits that must be expected at a place, for one to be made; more of it: shorter; null: {THRESHOLD}",
            above=0,
            maximum=1000,
        )
        from_source: bool = option(False, "begin with the source's tokens where there is no draft")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.threshold is not None and self.temperature is not None:
                raise ConfigError(f"threshold={self.threshold}: has no effect with temperature, which samples")

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        if config.sources > 0 and not vocabularies.shared:
            raise ConfigError(
                f"sources={config.sources}: needs one vocabulary for source and target, data.tokenizer.joint=true"
            )
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK,),
            decoder=config.attentions(),
            copying=config.copying,
        )
        self.rates = EditRates(config.size)

    # --- training ---------------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """rates and token are together the paper's loss, sum of all rates - kappa' / (1 - kappa) sum of log u(edit),
        but for what no parameter changes: log(kappa' / (1 - kappa)) is taken off each log u(edit), and 1 added. So
        the mean over times bounds -log p(y | x, y^0), but for the largest weights, label smoothing, and a word that
        one gap misses twice.

        Departs from the paper: times are drawn with density kappa' and not evenly, and weigh as much less. The mean is
        the same, and fewer canvases weigh next to nothing.
        """
        batch = batch.compact()
        number, count = self.config.states, batch.num_target_tokens
        random = RowRandom.of_pairs(batch, seed=update)
        memory = self.net.encode(batch.source).shared(number)
        share = self.shares(batch, update)
        way = self.on_the_way(batch.repeat_rows(number), share, random.copies(number))
        sequence = kept(Tokens(way.tokens, way.present), way.present)
        states = self.rates.states(self.net, sequence.tokens, sequence.valid, time_of(share), memory)
        weight = (1 / (1 - share)).clamp(max=self.config.max_weight).to(states.dtype) / number
        rates = self.rate_losses(states, sequence.valid, way)
        tokens, nll = self.token_losses(states, way, memory)
        return {
            "rates": LossTerm((weight * rates).sum(), count),
            "token": LossTerm((weight * tokens).sum(), count),
            "nll": LossTerm((weight * nll).sum().detach(), count, weight=0.0),
        }

    def shares(self, batch: Batch, update: int) -> Float[Tensor, " N"]:
        """kappa_t of the canvases of each pair, side by side: each uniform in (0, 1), together spread evenly, as are
        those of all pairs of an update."""
        steps = torch.arange(self.config.states, device=batch.target.tokens.device)
        return ((steps + evenly_spread(batch, seed=update)[:, None]) / self.config.states).flatten()

    def on_the_way(self, batch: Batch, share: Float[Tensor, " B"], random: RowRandom) -> OnTheWay:
        """From y^0, nothing, a draft or the source, to the target, when each edit has happened with this probability:
        what is there, and what is left."""
        target, config = batch.target, self.config
        initial = config.initial(target, random.fork(0), num_tokens=self.vocabularies.target_size)
        if config.sources > 0:
            number = random.fork(0).uniform()  # below `drafts` it is a draft
            copied = (number >= config.drafts) & (number < config.drafts + config.sources)
            initial = either(copied, batch.source, initial)
        alignment = align(initial.tokens, initial.valid, target.tokens, target.valid)
        done = random.fork(1).uniform(alignment.old.size(1)) < share[:, None]
        return OnTheWay.of(initial.tokens, target.tokens, alignment, done)

    def rate_losses(
        self, states: Float[Tensor, "B G D"], valid: Bool[Tensor, "B L"], way: OnTheWay
    ) -> Float[Tensor, " B"]:
        """Of how many edits there are: the sum of all that are expected, and -1 - log of it for each that is left."""
        logits = self.rates.logits(states)
        left = torch.stack((way.inserted, way.substituted, way.deleted), dim=2)
        own = (1 + log_softplus(rearrange(logits, way.place))).masked_fill(~left, 0.0)
        return Rates.of(F.softplus(logits), valid).total - own.sum(dim=(1, 2))

    def token_losses(
        self, states: Float[Tensor, "B G D"], way: OnTheWay, memory: Memory
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Of the tokens that are left to write: the sum of their losses, smoothed, and of -log Q."""
        asked = self.rates.token_states(rearrange(states, way.place), way.inserted)
        losses, nll = self.net.head(memory).token_losses(
            asked, way.wanted, way.inserted | way.substituted, label_smoothing=self.config.label_smoothing
        )
        return losses.sum(dim=1), nll.sum(dim=1)

    # --- decoding ---------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, EditFlow.Decoding)
        source = self.begun(source.compact(), decoding)
        copies = decoding.num_copies(source)
        limits = decoding.limits(source, positions=self.max_target_length)
        memory = self.net.decoder.project(self.net.encode(source))
        memory = replace(memory, banned=decoding.banned).shared(copies)
        refined = refine(
            self.greedy(decoding) if decoding.temperature is None else self.euler(decoding),
            start(source, copies=copies),
            Work(memory, limits.repeat_interleave(copies), decoding.random(source)),
            max_passes=decoding.max_passes,
            finished=unchanged,
            least_passes=1 if decoding.temperature is None else decoding.max_passes,
            history=decoding.history,
        )
        canvas, scoring = self.score_given(refined.canvas, memory)
        return Translation.best_of(
            canvas,
            decoding,
            copies=copies,
            calls=refined.calls + scoring,
            truncated=canvas.rows[CUT],
            history=refined.history(with_deleted),
        )

    def begun(self, source: Source, decoding: Decoding) -> Source:
        """With the source as a draft, where that is asked for."""
        if not decoding.from_source or source.draft is not None:
            return source
        if not self.vocabularies.shared:
            raise ConfigError("from_source=true: needs a model with one vocabulary for source and target")
        free = torch.zeros_like(source.valid)
        return replace(source, draft=Draft(source.tokens, source.valid, fixed=free, closed=F.pad(free, (0, 1))))

    def greedy(self, decoding: Decoding) -> Step[Canvas, Work]:
        """In pass k of T the share 1 / (T - k + 1) of the edits that are expected, the likeliest of them, so that all
        are done in the last one. Departs from the paper, which samples."""
        last = decoding.max_passes
        threshold = THRESHOLD if decoding.threshold is None else decoding.threshold

        def step(canvas: Canvas, work: Work, number: int) -> tuple[Canvas, int]:
            states, counts = self.left(canvas, work, time=time_of((number - 0.5) / last))
            edits = Edits.expected(counts, threshold=threshold).of_words(canvas)
            tokens, scores = self.written(states, edits, work.memory, decoding)
            edits = edits.likeliest(counts, scores, 1 / (last - number + 1))
            return self.applied(canvas, edits, tokens, scores, work), 1

        return step

    def euler(self, decoding: Decoding) -> Step[Canvas, Work]:
        """T steps of size h = min(1 / T, (1 - kappa) / kappa') (section 4)."""
        steps = decoding.max_passes

        def step(canvas: Canvas, work: Work, number: int) -> tuple[Canvas, int]:
            assert work.random is not None
            random, time = work.random.fork(number), (number - 1) / steps
            states, counts = self.left(canvas, work, time=time)
            edits = Edits.drawn(counts, min(hazard(time) / steps, 1.0), random.fork(0))
            tokens, scores = self.written(states, edits, work.memory, decoding, random.fork(1))
            return self.applied(canvas, edits, tokens, scores, work), 1

        return step

    def left(self, canvas: Canvas, work: Work, *, time: float) -> tuple[Float[Tensor, "B G D"], Rates]:
        """States of all places, and how many edits are left there, of those that are allowed."""
        times = torch.full((len(canvas),), time, device=canvas.device)
        states = self.rates.states(self.net, canvas.tokens, canvas.valid, times, work.memory)
        return states, allowed(Rates.of(F.softplus(self.rates.logits(states)), canvas.valid), canvas)

    def written(
        self,
        states: Float[Tensor, "B G D"],
        edits: Edits,
        memory: Memory,
        decoding: Decoding,
        random: RowRandom | None = None,
    ) -> tuple[Int[Tensor, "B G 2"], Float[Tensor, "B G 2"]]:
        """Tokens behind each place and in it, with log-probabilities; they mean nothing where none is wanted."""
        both = states.repeat_interleave(2, dim=1)  # side by side, so that padding moves none of them
        behind = torch.arange(both.size(1), device=both.device) % 2 == 0
        token_states = self.rates.token_states(both, behind.expand(both.shape[:2]))
        where = edits.written.flatten(1)
        tokens, scores = decoding.choose(self.net.head(memory), token_states, random, where=where)
        return tokens.unflatten(1, (-1, 2)), scores.unflatten(1, (-1, 2))

    def applied(
        self, canvas: Canvas, edits: Edits, tokens: Int[Tensor, "B G 2"], scores: Float[Tensor, "B G 2"], work: Work
    ) -> Canvas:
        """The canvas after these edits, of those insertions that there is room for."""
        canvas, counts = within_limits(traced(canvas), edits.inserted.long(), work.limits)
        return edited(canvas, edits, counts, tokens, scores)

    def score_given(self, canvas: Canvas, memory: Memory) -> tuple[Canvas, Int[Tensor, " B"]]:
        """With scores of the tokens that were given, as insertions into what is left without them; and each row's
        decoder calls."""
        memory = replace(memory, banned=())  # what is given may be anything

        def log_probs(tokens: Tensor) -> Tensor:
            seen = canvas.valid & (tokens != PLH)
            visible = kept(Tokens(tokens, seen), seen)
            share = visible.lengths / canvas.lengths.clamp(min=1)
            states = self.rates.states(self.net, visible.tokens, visible.valid, time_of(share), memory)
            behind = rearrange(states, seen.cumsum(dim=1))
            inserted = self.rates.token_states(behind, torch.ones_like(seen))
            return self.net.head(memory).of(inserted, canvas.tokens)

        return with_given_scores(canvas, log_probs, symbol=PLH)

    # --- lengths ----------------------------------------------------------------------------------------

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits.of(self.net, ends=self.num_ends)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        sources, targets = batch.source.lengths, batch.target.lengths
        # all of the initial sequence that is not deleted yet, and all of the target beside it
        canvas = targets * (2 if self.config.drafts > 0 else 1)
        if self.config.sources > 0:
            canvas = torch.maximum(canvas, sources + targets)
        return (sources >= 1) & (targets >= 1) & self.fits(sources, canvas)
