"""Deterministic iterative refinement: single-pass translation, then a conditional denoising auto-encoder over its own
output (Lee et al. 2018, https://arxiv.org/abs/1802.06901).

Departs from the paper: one decoder serves the first pass and the later ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import CrossEntropy, cross_entropy
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.nn.copying import Copying
from nat.nn.length import LengthPredictor
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Conditions, ParallelConfig, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.copying import uniform_copy
from nat.ops.corruption import corrupt
from nat.search.canvas import Canvas, Fate
from nat.search.refine import Step, as_it_is, refine, unchanged

PAD = int(Symbol.PAD)
INPUTS = "inputs"  # of `Canvas.positions`: what the next pass reads; at first copied source embeddings, (B, L, D)


class Refinement(TranslationModel):
    """The first pass translates from the copied source; every later pass translates anew from the output before it."""

    unlearnable = "longer than {limit}, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=LengthPredictor.Config)
        train_passes: int = option(
            4, "passes whose losses are summed in training; with one it would be vanilla", minimum=2, maximum=1000
        )
        denoising: float = option(
            0.5, "probability, for each sentence, of training as a denoising auto-encoder instead", minimum=0, maximum=1
        )
        corruption: float = option(0.2, "denoising: probability that a position is corrupted", minimum=0, maximum=1)
        repeat: float = option(1.0, "denoising: weight of the corruption that repeats the neighbour", minimum=0)
        replace: float = option(1.0, "denoising: weight of the corruption that puts a random token", minimum=0)
        swap: float = option(1.0, "denoising: weight of the corruption that swaps two neighbours", minimum=0)
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

        def __post_init__(self) -> None:
            if self.repeat + self.replace + self.swap == 0:
                raise ConfigError("repeat=0.0, replace=0.0, swap=0.0: one of the three must be above 0")

    @dataclass(frozen=True)
    class Decoding(LengthBeamOptions):
        max_passes: int = option(
            10, "decoder calls at most; a sentence that no longer changes needs fewer", minimum=1, maximum=100_000
        )
        adaptive: bool = option(True, "stop at a sentence that no longer changes; false: max_passes for every one")

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

    def states(
        self, inputs: Float[Tensor, "B T D"], valid: Bool[Tensor, "B T"], memory: Memory
    ) -> Float[Tensor, "B T D"]:
        return self.net.states(self.net.place(inputs), valid, memory)

    def copied(
        self, source: Source, lengths: Int[Tensor, " B"], *, width: int | None = None
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """Source embeddings copied uniformly."""
        index, valid = uniform_copy(source.lengths, lengths, width=width)
        return self.net.embeddings.source(source.tokens.gather(1, index)), valid

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        target = batch.target
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        random = RowRandom.of_pairs(batch, seed=update)
        first, valid = self.copied(batch.source, target.lengths, width=target.tokens.size(1))
        denoise = random.uniform() < self.config.denoising  # (B)
        head, inputs = self.net.head(memory), first
        entropies: list[CrossEntropy] = []
        scores: Tensor
        for number in range(self.config.train_passes):
            if number > 0:  # section 4.2: a row reads its own output of the pass before, or a corrupted reference
                noisy = self.corrupted(batch, random.fork(number))
                inputs = self.net.embed(noisy.where(denoise[:, None], scores.argmax(dim=-1)))
            scores = head.scores(self.states(inputs, valid, memory))
            entropies.append(
                cross_entropy(
                    scores, target.tokens, valid, label_smoothing=self.config.label_smoothing, forbidden=head.forbidden
                )
            )
        total = torch.stack([entropy.total for entropy in entropies]).sum()
        _, nll, count = entropies[-1]
        return {
            "cross_entropy": LossTerm(total, count * len(entropies)),
            "length": LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight),
            "nll": LossTerm(nll, count, weight=0.0),
        }

    def corrupted(self, batch: Batch, random: RowRandom) -> Int[Tensor, "B T"]:
        """The reference with noise (section 4.2)."""
        target, config = batch.target, self.config
        noise = random.uniform(target.tokens.size(1), 3)  # (B, T, 3)
        return corrupt(
            target.tokens,
            target.lengths,
            noise,
            rate=config.corruption,
            weights=(config.repeat, config.replace, config.swap),
            alphabet=(NUM_SYMBOLS, self.vocabularies.target_size),
        )

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Refinement.Decoding)
        source = source.compact()
        beam = decoding.lengths(self.length, self.net, source, limit=self.max_target_length)
        inputs, valid = self.copied(beam.source, beam.lengths)
        canvas = Canvas.start(torch.full(valid.shape, PAD, device=valid.device), valid)
        refined = refine(
            self.stepper(decoding),
            replace(canvas, positions={INPUTS: inputs}),
            Conditions(beam.memory, decoding.random(source)),
            max_passes=decoding.max_passes,
            finished=settled,
            least_passes=1 if decoding.adaptive else decoding.max_passes,
            history=decoding.history,
        )
        return Translation.best_of(
            refined.canvas,
            decoding,
            copies=beam.copies,
            extra_scores=beam.scores,
            calls=refined.calls,
            history=refined.history(as_it_is),
        )

    def stepper(self, decoding: Decoding) -> Step[Canvas, Conditions]:
        """Every position is predicted anew from the output before (section 3, equation 3). With a temperature the
        first pass samples, and the later ones refine the sample."""

        def step(canvas: Canvas, conditions: Conditions, number: int) -> tuple[Canvas, int]:
            states = self.states(canvas.positions[INPUTS], canvas.valid, conditions.memory)
            random = conditions.random if number == 1 else None
            tokens, scores = decoding.choose(self.net.head(conditions.memory), states, random)
            tokens, scores = tokens.masked_fill(~canvas.valid, PAD), scores.masked_fill(~canvas.valid, 0.0)
            fate = torch.where(tokens == canvas.tokens, int(Fate.KEPT), int(Fate.WRITTEN))
            fate = fate.masked_fill(~canvas.valid, int(Fate.NONE))
            inputs = {INPUTS: self.net.embed(tokens)}
            return replace(canvas, tokens=tokens, scores=scores, fate=fate, positions=inputs), 1

        return step

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.length.max_source_length(self.net), self.net.max_target_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch) & super().learnable(batch)


def settled(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """True where a pass gave what the pass before had given; the first pass had nothing before it."""
    return unchanged(before, after) & (before.tokens != PAD).any(dim=1)
