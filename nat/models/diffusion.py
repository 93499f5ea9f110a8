"""Masked discrete diffusion: Mask-Predict with a likelihood, decoded by any of several samplers.

Austin et al. 2021, https://arxiv.org/abs/2107.03006; Sahoo et al. 2024, https://arxiv.org/abs/2406.07524; for
translation Zheng et al. 2023, https://arxiv.org/abs/2302.05737.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, MaskOptions
from nat.nn.copying import Copying
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom, evenly_spread
from nat.nn.seq2seq import Conditions, ParallelConfig, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.selection import random_masks
from nat.search.masks import first_masks
from nat.search.refine import as_it_is
from nat.search.unmasking import MaskSchedule, Sampler, Unmasking, unmask

MASK = int(Symbol.MASK)
SCORE_PASSES = 16  # decoder calls of `score`


class Weight(Enum):
    """Of the cross entropy of the masked tokens at a time t: 1 / t gives the bound on the negative log-likelihood;
    1 - t, and a token's share of the sentence more, is what Zheng et al. 2023 found better to train with (their
    section 4.2); 1 is what Mask-Predict does."""

    BOUND = "bound"
    LINEAR = "linear"
    UNIFORM = "uniform"

    def __call__(self, num_masks: Int[Tensor, " B"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Of rows in which t = num_masks / lengths of the tokens are masked."""
        if self is Weight.UNIFORM:
            return torch.ones_like(num_masks, dtype=torch.float64)
        if self is Weight.LINEAR:
            return 1 - (num_masks - 1).double() / lengths.clamp(min=1)
        return lengths.double() / num_masks.clamp(min=1)


class Diffusion(TranslationModel):
    """-log p(y|x, T) <= E_t (1 / t) sum over masked i of -log p(y_i | the tokens that are not masked, x), where t is
    uniform in (0, 1] and each token is masked with probability t.

    Departs from the papers: t is rounded up to k / T with a whole k, and exactly k tokens are masked, anywhere. The
    expectation is the same: with independent masks 1 / t is (T + 1) / k on average over all t that mask k tokens, and k
    is uniform in 0 .. T. But no row is without a mask, and no weight is above T.
    """

    edits = frozenset({"draft", "constraints"})
    score_is_bound = True
    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(ParallelConfig):
        weight: Weight = option(
            Weight.BOUND, "of masked tokens at time t: bound, 1/t; linear, 1-t; uniform, 1 as in Mask-Predict"
        )
        length: LengthPredictor.Config = field(default_factory=lambda: LengthPredictor.Config(weight=1.0))
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

    @dataclass(frozen=True)
    class Decoding(MaskOptions):
        max_passes: int = option(10, "decoder calls at most", minimum=1, maximum=100_000)
        sampler: Sampler = option(
            Sampler.CONFIDENCE,
            "confidence: the surest masks are written, and stay; remasking: written tokens may be masked again; "
            "ancestral: masks are written at random, needs temperature",
        )
        schedule: MaskSchedule = option(
            MaskSchedule.LINEAR,
            "masks left after pass n of N: linear, 1 - n/N; cosine, few are written at first",
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.sampler is Sampler.ANCESTRAL and self.temperature is None:
                raise ConfigError(
                    "sampler=ancestral: draws its tokens and needs temperature; 1.0 draws them as the model has them"
                )

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK,),
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

    # --- likelihood -----------------------------------------------------------------------------------

    def masks(self, batch: Batch, update: int) -> Bool[Tensor, "B T"]:
        """The tokens to predict. The times of an update's rows are evenly spread (Sahoo et al. 2024, appendix)."""
        valid = batch.target.valid
        noise = RowRandom.of_pairs(batch, seed=update).fork(1).uniform(valid.size(1))
        return random_masks(valid, evenly_spread(batch, seed=update), noise)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """`cross_entropy` is trained on; `bound`, on -log p(y|x, T), of a token, and `nll`, of a masked one, are
        statistics."""
        batch = batch.compact()
        target, masks = batch.target, self.masks(batch, update)
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        states = self.states(target.tokens.masked_fill(masks, MASK), target.valid, memory)
        losses, nll = (
            part.sum(dim=1)
            for part in self.net.head(memory).token_losses(
                states, target.tokens, masks, label_smoothing=self.config.label_smoothing
            )
        )
        num_masks, lengths, num_tokens = masks.sum(dim=1), target.lengths, batch.num_target_tokens
        nll = nll.detach()
        weights, exact = (weight(num_masks, lengths).to(nll) for weight in (self.config.weight, Weight.BOUND))
        return {
            "cross_entropy": LossTerm((weights * losses).sum(), num_tokens),
            "bound": LossTerm((exact * nll).sum(), num_tokens, weight=0.0),
            "nll": LossTerm(nll.sum(), num_masks.sum(), weight=0.0),
            "length": LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight),
        }

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """A lower bound on log p(y|x): log p(T|x), and minus the bound on -log p(y|x, T), of which the mean over
        SCORE_PASSES times, evenly spread, is an unbiased estimate. Its masks are drawn of the pair itself."""
        batch = batch.compact()
        source, target = batch.source, batch.target
        memory, length_log_probs = self.length.encode(self.net, source)
        memory, lengths = self.net.decoder.project(memory), target.lengths
        random = RowRandom.of((source.tokens, source.valid), (target.tokens, target.valid), seed=0)
        first, total = random.uniform(), self.length.log_prob(length_log_probs, source.lengths, lengths)
        for number in range(SCORE_PASSES):
            noise = random.fork(number + 1).uniform(target.valid.size(1))
            masks = random_masks(target.valid, (number + first) / SCORE_PASSES, noise)
            states = self.states(target.tokens.masked_fill(masks, MASK), target.valid, memory)
            likely = self.net.head(memory).of(states, target.tokens).masked_fill(~masks, 0.0).sum(dim=1)
            total = total + Weight.BOUND(masks.sum(dim=1), lengths).to(likely) * likely / SCORE_PASSES
        return total

    # --- decoding -------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """The scores are those of the order in which the tokens were written, not the bound over all orders."""
        assert isinstance(decoding, Diffusion.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        canvas, beam, calls = first_masks(
            beam, self.length, self.log_probs, share=decoding.remask, orders=decoding.orders
        )
        refined = unmask(
            canvas,
            Conditions(beam.memory, decoding.random(source)),
            Unmasking(decoding.sampler, decoding.schedule, decoding.max_passes),
            states=self.states,
            head=self.net.head,
            choose=decoding.choose,
            history=decoding.history,
        )
        return Translation.best_of(
            refined.canvas,
            decoding,
            copies=beam.copies,
            extra_scores=beam.scores,
            calls=refined.calls + calls,
            history=refined.history(as_it_is),
        )

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)
