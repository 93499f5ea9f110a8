"""Mask-Predict: a conditional masked language model, decoded in a constant number of passes.

Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms, forgiving_terms
from nat.models.options import DecodingOptions, MaskOptions
from nat.nn.copying import Copying
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Conditions, ParallelConfig, Seq2Seq
from nat.nn.token_losses import EPS, TokenLoss, TokenLossConfig, forgiving_loss
from nat.nn.transformer import Memory
from nat.ops.selection import random_masks
from nat.search.masks import first_masks
from nat.search.refine import as_it_is
from nat.search.unmasking import MaskSchedule, Sampler, Unmasking, unmask

MASK = int(Symbol.MASK)


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
    class Decoding(MaskOptions):
        pass

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
        valid, random = batch.target.valid, RowRandom.of_pairs(batch, seed=update)
        return random_masks(valid, random.uniform(), random.fork(1).uniform(valid.size(1)))

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
        """Predict what is masked; then mask the n_t = N (T - t) / T least confident of all N positions (section 3.3,
        equation 2)."""
        assert isinstance(decoding, MaskPredict.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        canvas, beam, calls = first_masks(
            beam, self.length, self.log_probs, share=decoding.remask, orders=decoding.orders
        )
        refined = unmask(
            canvas,
            Conditions(beam.memory, decoding.random(source)),
            Unmasking(Sampler.REMASKING, MaskSchedule.LINEAR, decoding.max_passes),
            states=self.states,
            head=self.net.head,
            choose=decoding.choose,
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

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)
