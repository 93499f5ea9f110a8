"""NAT-CRF: a linear-chain conditional random field over the states of a single pass with a predicted length.

Sun, Li, Wang, He, Lin & Deng 2019, "Fast Structured Decoding for Sequence Models", https://arxiv.org/abs/1910.11555.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.losses import cross_entropy
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.nn.copied_inputs import CopiedInputConfig
from nat.nn.copying import Copying
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.random_field import FieldConfig, RandomField
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.token_transitions import TokenTransitions
from nat.nn.transformer import Memory
from nat.search.canvas import Canvas
from nat.search.refine import History


class CRF(TranslationModel):
    """p(y|x) = p(T|x) exp(sum_t s_t(y_t) + sum_t t_t(y_(t-1), y_t)) / Z: the logits s of vanilla NAT, and transitions.

    The normaliser Z is a sum over the `beam` most probable tokens of each position alone, and over the reference's: so
    it is too small, and a score too high, unless the beam is the whole vocabulary.
    """

    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(FieldConfig, CopiedInputConfig, ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=LengthPredictor.Config)
        word_weight: float = option(0.5, "weight of the cross entropy of the tokens, each on its own", minimum=0)
        label_smoothing: float = option(
            0.1, "of that cross entropy: probability of all other tokens", minimum=0, below=1
        )
        copying: Copying = field(default_factory=Copying)

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
            copying=config.copying,
        )
        self.length = LengthPredictor(config.length, dim=config.size.dim)
        self.transitions = TokenTransitions(config.transitions, size=vocabularies.target_size, dim=config.size.dim)

    def states(self, source: Source, lengths: Int[Tensor, " B"], memory: Memory, *, width: int | None = None) -> Tensor:
        """Of targets of these lengths, right-padded. width: columns, if known."""
        x, valid = self.config.inputs(self.net, source, lengths, width=width)
        return self.net.states(self.net.place(x), valid, memory)

    def random_field(
        self,
        scores: Float[Tensor, "B L V"],
        states: Float[Tensor, "B L D"],
        lengths: Int[Tensor, " B"],
        reference: Int[Tensor, "B L"] | None = None,
    ) -> RandomField:
        """See `RandomField.of`."""
        return RandomField.of(scores, states, lengths, reference, transitions=self.transitions, beam=self.config.beam)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        target = batch.target
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        states = self.states(batch.source, target.lengths, memory, width=target.tokens.size(1))
        head = self.net.head(memory)
        scores = head.scores(states)
        crf = self.random_field(scores, states, target.lengths, target.tokens)
        nll = -crf.log_probs(target.tokens).sum()
        words = cross_entropy(
            scores,
            target.tokens,
            target.valid,
            label_smoothing=self.config.label_smoothing,
            forbidden=head.forbidden,
        )
        length = LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight)
        return {
            "crf": LossTerm(nll, words.num_labels),
            "cross_entropy": LossTerm(words.total, words.num_labels, weight=self.config.word_weight),
            "nll": LossTerm(nll.detach(), words.num_labels, weight=0.0),
            "length": length,
        }

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(T|x) + log p(y|x, T), with the normaliser over the beam and the reference."""
        batch = batch.compact()
        target = batch.target
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        states = self.states(batch.source, target.lengths, memory, width=target.tokens.size(1))
        crf = self.random_field(self.net.head(memory).scores(states), states, target.lengths, target.tokens)
        lengths = self.length.log_prob(length_log_probs, batch.source.lengths, target.lengths)
        return crf.log_probs(target.tokens) + lengths

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, CRF.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        states = self.states(beam.source, beam.lengths, beam.memory)
        crf = self.random_field(self.net.head(beam.memory).scores(states), states, beam.lengths)
        tokens, scores = crf.written(decoding.random(source), temperature=decoding.temperature)
        valid = crf.chain.valid
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
