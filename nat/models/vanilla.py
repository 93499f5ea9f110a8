"""Single-pass translation with a predicted length, the plainest of all (Gu et al. 2018 without fertilities,
https://arxiv.org/abs/1711.02281), with glancing training (Qian et al. 2021, https://arxiv.org/abs/2008.07905) and deep
supervision (Huang et al. 2022, https://arxiv.org/abs/2110.07515) as options.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.batch import Batch, Source
from nat.data.vocabulary import Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms, forgiving_terms
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.nn.copied_inputs import CopiedInputConfig
from nat.nn.copying import Copying
from nat.nn.glancing import SinglePassConfig, glanced_cross_entropy
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.token_losses import EPS, TokenLoss, TokenLossConfig, forgiving_loss
from nat.nn.transformer import Memory
from nat.search.canvas import Canvas
from nat.search.refine import History


class Vanilla(TranslationModel):
    """p(y|x) = p(T|x) prod_t p(y_t | x, T): every token on its own, from copied source embeddings."""

    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(SinglePassConfig, TokenLossConfig, CopiedInputConfig, ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=LengthPredictor.Config)
        copying: Copying = field(default_factory=Copying)

        def __post_init__(self) -> None:
            TokenLossConfig.__post_init__(self)
            CopiedInputConfig.__post_init__(self)
            if self.loss is TokenLoss.CROSS_ENTROPY:
                return
            for name, present in (
                ("glancing", self.glancing.start > 0 or self.glancing.end > 0),
                ("deep_supervision", self.deep_supervision.enabled),
            ):
                if present:
                    raise ConfigError(f"loss={self.loss.value}: not with {name}, which knows the place of every token")

    @dataclass(frozen=True)
    class Decoding(LengthBeamOptions):
        pass

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=config.symbols,
            decoder=config.attentions(),
            deep=config.deep_supervision.enabled,
            copying=config.copying,
        )
        self.length = LengthPredictor(config.length, dim=config.size.dim)

    def copied(
        self, source: Source, lengths: Int[Tensor, " B"], *, width: int | None = None
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """Decoder inputs without positions, for targets of these lengths, and where they are valid."""
        return self.config.inputs(self.net, source, lengths, width=width)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        length = LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight)
        return self.token_terms(batch, memory, update=update) | {"length": length}

    def token_terms(self, batch: Batch, memory: Memory, *, update: int) -> dict[str, LossTerm]:
        target, config = batch.target, self.config
        x, valid = self.copied(batch.source, target.lengths, width=target.tokens.size(1))
        if config.loss is not TokenLoss.CROSS_ENTROPY:
            states = self.net.states(self.net.place(x), target.mask, memory)
            loss = forgiving_loss(config, self.net.head(memory), states, target, valid, update=update)
            return forgiving_terms(loss, name=config.loss.value)
        entropy = glanced_cross_entropy(
            self.net,
            x,
            target,
            memory,
            RowRandom.of_pairs(batch, seed=update),
            config,
            update=update if self.training else None,
            label_smoothing=config.label_smoothing,
        )
        return cross_entropy_terms(entropy)

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(T|x) + sum of log p(y_t|x, T)."""
        if EPS in self.config.symbols:
            raise ConfigError(
                "a Vanilla model of loss=axe cannot score given targets: what it skips may stand anywhere"
            )
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
        translation = Translation.best_of(
            replace(Canvas.start(tokens, valid), scores=scores),
            decoding,
            copies=beam.copies,
            extra_scores=beam.scores,
            history=History.of_one_pass(tokens, valid, scores) if decoding.history else None,
        )
        return translation.without(EPS) if EPS in self.config.symbols else translation

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)
