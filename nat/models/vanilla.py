"""Single-pass translation with a predicted length, the plainest of all (Gu et al. 2018 without fertilities,
https://arxiv.org/abs/1711.02281), with glancing training (Qian et al. 2021, https://arxiv.org/abs/2008.07905) and deep
supervision (Huang et al. 2022, https://arxiv.org/abs/2110.07515) as options.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.nn.copying import Copying
from nat.nn.glancing import SinglePassConfig, glanced_cross_entropy
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.ops.copying import soft_copy, uniform_copy
from nat.search.canvas import Canvas
from nat.search.refine import History

DEFAULT_TAU = 0.3


class Copy(Enum):
    UNIFORM = "uniform"
    SOFT = "soft"


class Vanilla(TranslationModel):
    """p(y|x) = p(T|x) prod_t p(y_t | x, T): every token on its own, from copied source embeddings."""

    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(SinglePassConfig, ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=LengthPredictor.Config)
        copy: Copy = option(Copy.UNIFORM, "decoder input: source embeddings copied uniformly, or softly by distance")
        copy_tau: float | None = option(
            None, f"copy=soft: how far a position looks around, in source tokens; null: {DEFAULT_TAU}", above=0
        )
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

        def __post_init__(self) -> None:
            if self.copy_tau is not None and self.copy is not Copy.SOFT:
                raise ConfigError(f"copy_tau={self.copy_tau}: has no effect without copy=soft")

    @dataclass(frozen=True)
    class Decoding(LengthBeamOptions):
        pass

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK,),
            decoder=config.attentions(),
            deep=config.deep_supervision.enabled,
            copying=config.copying,
        )
        self.length = LengthPredictor(config.length, dim=config.size.dim)

    def copied(
        self, source: Source, lengths: Int[Tensor, " B"], *, width: int | None = None
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """Decoder inputs without positions, for targets of these lengths, and where they are valid."""
        if self.config.copy is Copy.UNIFORM:
            index, valid = uniform_copy(source.lengths, lengths, width=width)
            return self.net.embeddings.source(source.tokens.gather(1, index)), valid
        embedded = self.net.embeddings.source(source.tokens)
        weights, valid = soft_copy(
            source.lengths, lengths, source_width=embedded.size(1), tau=self.config.copy_tau or DEFAULT_TAU, width=width
        )
        return weights.to(embedded.dtype) @ embedded, valid  # (B, T, S) @ (B, S, D)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        source, target = batch.source, batch.target
        memory, length_log_probs = self.length.encode(self.net, source)
        x, _ = self.copied(source, target.lengths, width=target.tokens.size(1))
        entropy = glanced_cross_entropy(
            self.net,
            x,
            target,
            memory,
            RowRandom.of_pairs(batch, seed=update),
            self.config,
            update=update if self.training else None,
            label_smoothing=self.config.label_smoothing,
        )
        length = LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight)
        return cross_entropy_terms(entropy) | {"length": length}

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(T|x) + sum of log p(y_t|x, T)."""
        batch = batch.compact()
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        lengths = batch.target.lengths
        x, valid = self.copied(batch.source, lengths, width=batch.target.tokens.size(1))
        states = self.net.states(self.net.place(x), valid, memory)
        tokens = self.net.head(memory).of(states, batch.target.tokens).masked_fill(~valid, 0.0)
        return tokens.sum(dim=1) + self.length.log_prob(length_log_probs, batch.source.lengths, lengths)

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Vanilla.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        x, valid = self.copied(beam.source, beam.lengths)
        states = self.net.states(self.net.place(x), valid, beam.memory)
        tokens, scores = decoding.choose(self.net.head(beam.memory), states, decoding.random(source))
        return Translation.best_of(
            replace(Canvas.start(tokens, valid), scores=scores),
            decoding,
            copies=beam.copies,
            extra_scores=beam.scores,
            history=History.of_one_pass(tokens, valid, scores) if decoding.history else None,
        )

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)
