"""The Imputer: a partly known alignment is completed in a constant number of passes.

Chan et al. 2020, https://arxiv.org/abs/2002.08926; Saharia et al. 2020, https://arxiv.org/abs/2004.07437. The canvas,
the alignments and every weight are those of the CTC model (nat/models/ctc.py), so that a CTC run starts an Imputer
(`init_from`), which with everything masked computes what its parent does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import smoothed
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms
from nat.models.options import DecodingOptions, SampleOptions
from nat.nn.head import Head
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.slots import SlotConfig, Slots, marginal_log_prob, target_scores
from nat.nn.transformer import Memory
from nat.ops import ctc, imputer
from nat.rows import Rows
from nat.search.canvas import Canvas, Fate
from nat.search.refine import as_it_is, refine

BLANK, MASK, PAD = int(Symbol.BLANK), int(Symbol.MASK), int(Symbol.PAD)
DEFAULT_PASSES, DEFAULT_BLOCK = 4, 8


class Training(Enum):
    MARGINAL = "marginal"
    IMITATION = "imitation"


class Expert(Enum):
    BEST = "best"
    SAMPLE = "sample"


class Masking(Enum):
    UNIFORM = "uniform"
    BERNOULLI = "bernoulli"
    BLOCK = "block"


class Schedule(Enum):
    TOP_K = "top_k"
    BLOCK = "block"


@dataclass(frozen=True)
class Work(Rows):
    """What decoding reads beside its canvas. block_lengths: (B,) slots of a block. num_commits: (B,) slots that a pass
    commits in each block."""

    memory: Memory
    slots: Slots
    random: RowRandom | None
    block_lengths: Int[Tensor, " B"]
    num_commits: Int[Tensor, " B"]

    @property
    def passes(self) -> Int[Tensor, " B"]:
        """What each row takes: until its longest block is committed."""
        return -(-self.block_lengths.minimum(self.slots.lengths) // self.num_commits.clamp(min=1))


class Imputer(TranslationModel):
    """The CTC canvas plus the embeddings of what is known of the alignment; masked slots add nothing.

    Trained to complete a random part of an alignment of the target. A pair with T + repeats > s S has no alignment:
    it is counted in `unalignable` and left out of the loss.
    """

    unlearnable = "more tokens and repeats than slots, model.upsampling; or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(SlotConfig):
        training: Training = option(
            Training.MARGINAL, "learn all alignments that agree with the known slots, or imitate the one given"
        )
        alignment: Expert = option(Expert.BEST, "which alignment is partly shown: the model's best, or a sample")
        masking: Masking = option(
            Masking.UNIFORM, "masked slots: a uniform number, each by itself, or the same number in every block"
        )
        mask_probability: float | None = option(
            None, "masking=bernoulli: of each slot; null: uniform in 0..1, anew for each pair", above=0, maximum=1
        )
        mask_block: int | None = option(
            None, f"masking=block: slots of a block; null: {DEFAULT_BLOCK}", minimum=2, maximum=1_000_000
        )

        def __post_init__(self) -> None:
            if self.mask_probability is not None and self.masking is not Masking.BERNOULLI:
                raise ConfigError(f"mask_probability={self.mask_probability}: has no effect without masking=bernoulli")
            if self.mask_block is not None and self.masking is not Masking.BLOCK:
                raise ConfigError(f"mask_block={self.mask_block}: has no effect without masking=block")

    @dataclass(frozen=True)
    class Decoding(SampleOptions):
        schedule: Schedule = option(
            Schedule.TOP_K, "each pass commits an equal share of the canvas, or one slot of every block"
        )
        max_passes: int | None = option(
            None, f"schedule=top_k: decoder calls; null: {DEFAULT_PASSES}", minimum=1, maximum=100_000
        )
        block_size: int | None = option(
            None,
            f"schedule=block: slots of a block, and so decoder calls; null: {DEFAULT_BLOCK}",
            minimum=1,
            maximum=1_000_000,
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.schedule is Schedule.TOP_K and self.block_size is not None:
                raise ConfigError(f"block_size={self.block_size}: has no effect without schedule=block")
            if self.schedule is Schedule.BLOCK and self.max_passes is not None:
                raise ConfigError(
                    f"max_passes={self.max_passes}: has no effect with schedule=block, where block_size sets the passes"
                )

        @property
        def passes(self) -> int:
            """Decoder calls that suffice for any length."""
            if self.schedule is Schedule.BLOCK:
                return self.block_size or DEFAULT_BLOCK
            return self.max_passes or DEFAULT_PASSES

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net, self.split = config.parts(vocabularies)

    def states(
        self, slots: Slots, memory: Memory, tokens: Int[Tensor, "B A"], is_known: Bool[Tensor, "B A"]
    ) -> Float[Tensor, "B A D"]:
        known = self.net.embed(tokens).masked_fill(~is_known[:, :, None], 0.0)
        return self.net.states(self.net.place(slots.states + known), slots.mask, memory)

    def masked_states(self, slots: Slots, memory: Memory) -> Float[Tensor, "B A D"]:
        """Nothing known: the CTC model."""
        nothing = torch.zeros_like(slots.valid)
        return self.states(slots, memory, nothing.long(), nothing)

    # --- training -------------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        source, target = batch.source, batch.target
        memory = self.net.encode(source)
        slots = self.split(memory)
        random = RowRandom.of_pairs(batch, seed=update)
        alignable = ctc.alignable(target.tokens, target.lengths, slots.lengths)
        alignment = self.expert(slots, memory, target, random.fork(0))
        masked = self.masks(slots, random.fork(1), random.fork(2)) & alignable[:, None]
        states, head = self.states(slots, memory, alignment, slots.valid & ~masked), self.net.head(memory)
        if self.config.training is Training.MARGINAL:
            terms = self.imputation(head, states, alignment, masked, slots, target)
        else:
            terms = cross_entropy_terms(  # of the alignment itself at the masked slots (Chan et al. 2020)
                head.cross_entropy(states, alignment, masked, label_smoothing=self.config.label_smoothing),
                name="imitation",
            )
        unalignable = (~alignable).sum()
        return terms | {"unalignable": LossTerm(unalignable, unalignable.new_full((), len(batch)), weight=0.0)}

    @torch.no_grad()
    def expert(self, slots: Slots, memory: Memory, target: Target, random: RowRandom) -> Int[Tensor, "B A"]:
        """The alignment that is partly shown. Departs from the paper: it is the model's own, which begins as the CTC
        model that the paper keeps beside it, and needs no second set of weights."""
        scored, _ = target_scores(self.net.head(memory), self.masked_states(slots, memory), slots, target)
        if self.config.alignment is Expert.BEST:
            return ctc.best_path(scored)
        return imputer.sample_path(scored, random.uniform(slots.valid.size(1)))

    def masks(self, slots: Slots, share: RowRandom, places: RowRandom) -> Bool[Tensor, "B A"]:
        """The slots to predict (Chan et al. 2020)."""
        lengths, uniform = slots.lengths, places.uniform(slots.valid.size(1))
        if self.config.masking is Masking.BERNOULLI:
            probability = self.config.mask_probability
            shares = share.uniform()
            probabilities = shares if probability is None else torch.full_like(shares, probability)
            return imputer.bernoulli_mask(uniform, probabilities, lengths)
        block = self.config.mask_block or DEFAULT_BLOCK
        blocks = lengths if self.config.masking is Masking.UNIFORM else torch.full_like(lengths, block)
        return imputer.block_mask(uniform, share.uniform(), lengths, blocks)

    def imputation(
        self,
        head: Head,
        states: Float[Tensor, "B A D"],
        alignment: Int[Tensor, "B A"],
        masked: Bool[Tensor, "B A"],
        slots: Slots,
        target: Target,
    ) -> dict[str, LossTerm]:
        """Minus the log of the marginal over the alignments that agree with what is shown (Chan et al. 2020). What
        is shown has probability 1 there, whatever the network says of it: only masked slots learn."""
        smoothing = self.config.label_smoothing
        scored, mean = target_scores(head, states, slots, target, with_mean=smoothing > 0)
        nll, _ = ctc.marginal_loss(scored.certain(~masked).agreeing(alignment, ~masked), states.dtype)
        total, count = nll.sum(), masked.sum()
        imputation = LossTerm(smoothed(total, mean, masked, weight=smoothing), count)
        return {"imputation": imputation, "nll": LossTerm(total.detach(), count, weight=0.0)}

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y|x) with nothing known, the marginal over all alignments; -inf for a pair that has none."""
        batch = batch.compact()
        memory = self.net.encode(batch.source)
        slots = self.split(memory)
        return marginal_log_prob(self.net.head(memory), self.masked_states(slots, memory), slots, batch.target)

    # --- decoding -------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Imputer.Decoding)
        count = decoding.num_candidates
        work = self.prepare(source.compact(), decoding)
        tokens = torch.full_like(work.slots.valid, MASK, dtype=torch.long).masked_fill(~work.slots.valid, PAD)
        refined = refine(
            lambda canvas, work, number: (self.impute(canvas, work, number, decoding), 1),
            Canvas.start(tokens, work.slots.valid),
            work,
            max_passes=decoding.passes,
            finished=lambda before, after: ~(after.tokens == MASK).any(dim=1),
            least_passes=min(decoding.passes, max(1, int(work.passes.min()))),
            history=decoding.history,
        )
        alignments = Translation.best_of(
            refined.canvas,
            decoding,
            copies=count,
            calls=refined.calls,
            history=refined.history(as_it_is),
        )
        collapsed = ctc.collapse(refined.canvas.tokens, refined.canvas.valid, blank=BLANK, pad=PAD)
        tokens, valid = (values.unflatten(0, (-1, count)) for values in collapsed)
        return replace(alignments, tokens=tokens, valid=valid)

    def prepare(self, source: Source, decoding: Decoding) -> Work:
        """Encoder and canvas of each candidate, and how much a pass commits (Chan et al. 2020: one slot of every block;
        Saharia et al. 2020: 1/K of the canvas, here rounded up, so that K passes suffice)."""
        memory = replace(self.net.decoder.project(self.net.encode(source)), banned=decoding.banned)
        slots = self.split(memory)
        lengths = slots.lengths
        num_commits, blocks = (lengths + decoding.passes - 1) // decoding.passes, lengths.clamp(min=1)
        if decoding.schedule is Schedule.BLOCK:
            num_commits, blocks = torch.ones_like(lengths), torch.full_like(lengths, decoding.passes)
        copies = decoding.num_candidates
        memory, slots = memory.shared(copies), slots.repeat_rows(copies)
        blocks, num_commits = blocks.repeat_interleave(copies), num_commits.repeat_interleave(copies)
        return Work(memory, slots, decoding.random(source), blocks, num_commits)

    def impute(self, canvas: Canvas, work: Work, number: int, decoding: Decoding) -> Canvas:
        """One pass: the most confident of the masked slots are committed, and stay."""
        masked = canvas.tokens == MASK
        states = self.states(work.slots, work.memory, canvas.tokens, canvas.valid & ~masked)
        random = None if work.random is None else work.random.fork(number)
        tokens, confidence = decoding.choose(self.net.head(work.memory), states, random, where=masked)
        ranks = imputer.rank_in_blocks(-confidence, masked, work.block_lengths)
        commit = masked & (ranks < work.num_commits[:, None])
        fate = torch.where(masked, int(Fate.MASKED), int(Fate.KEPT)).masked_fill(commit, int(Fate.WRITTEN))
        return replace(
            canvas,
            tokens=tokens.where(commit, canvas.tokens),
            scores=confidence.where(commit, canvas.scores.to(confidence)),
            fate=fate.masked_fill(~canvas.valid, int(Fate.NONE)),
        )

    # --- lengths --------------------------------------------------------------------------------------

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return self.split.num_slots * source_length

    @property
    def length_limits(self) -> LengthLimits:
        return self.split.length_limits(self.net)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.split.alignable(batch) & super().learnable(batch)
