"""Mask-Predict: a conditional masked language model, decoded in a constant number of passes.

Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.decoding.refine import Canvas, Fate, Step, refine
from nat.losses import log_prob_cross_entropy
from nat.models.base import DecodingOptions, LengthBeamOptions, LossTerm, Translation, TranslationModel
from nat.nn.length import LengthPredictor
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Conditions, ParallelConfig, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.selection import lowest

MASK, PAD = int(Symbol.MASK), int(Symbol.PAD)


class MaskPredict(TranslationModel):
    """p(y_masked | y_observed, x): training hides a random part of the target; decoding starts with everything
    hidden and hides again what it is least sure of."""

    unlearnable = "longer than positions.max_length, or a length difference over length.max_offset"

    @dataclass(frozen=True, kw_only=True)
    class Config(ParallelConfig):
        length: LengthPredictor.Config = field(default_factory=lambda: LengthPredictor.Config(weight=1.0))
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)

    @dataclass(frozen=True)
    class Decoding(LengthBeamOptions):
        usual_beam: ClassVar[int] = 5
        max_passes: int = option(4, "decoder calls", minimum=1)
        history: bool = option(False, "keep token, confidence and fate of every position at every pass")

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(config, vocabularies=vocabularies, symbols=(Symbol.UNK,), decoder=config.attentions())
        self.length = LengthPredictor(config.length, dim=config.size.dim)

    def log_probs(
        self, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"], memory: Memory
    ) -> Float[Tensor, "B T V"]:
        """Of a target some of whose tokens are MASK."""
        return self.net.decode(self.net.place(self.net.embed(tokens)), valid, memory)[-1]

    def hidden(self, batch: Batch, update: int) -> Bool[Tensor, "B T"]:
        """The positions to predict: of each row a number uniform in 1..T, anywhere (section 3.2)."""
        source, target = batch.source, batch.target
        random = RowRandom.of((source.tokens, source.valid), (target.tokens, target.valid), seed=update)
        counts = (random.uniform() * target.lengths).long() + 1
        noise = random.fork(1).uniform(target.valid.size(1))
        return lowest(noise, counts.clamp(max=target.lengths), target.valid)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory, length_log_probs = self.length.encode(self.net, batch.source)
        target, hidden = batch.target, self.hidden(batch, update)
        log_probs = self.log_probs(target.tokens.masked_fill(hidden, MASK), target.valid, memory)
        total, nll, count = log_prob_cross_entropy(
            log_probs,
            target.tokens,
            hidden,
            label_smoothing=self.config.label_smoothing,
            forbidden=self.net.output.forbidden,
        )
        return {
            "cross_entropy": LossTerm(total, count),
            "length": LossTerm(*self.length.loss(length_log_probs, batch), weight=self.config.length.weight),
            "nll": LossTerm(nll, count, weight=0.0),
        }

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, MaskPredict.Decoding)
        source = source.compact()
        memory, length_log_probs = self.length.encode(self.net, source)
        copies = decoding.num_copies
        lengths, length_scores = self.length.candidates(
            length_log_probs, source.lengths, beam=decoding.beam, copies=copies, limit=self.net.max_length
        )  # (B * K), (B, K)
        refined = refine(
            self.stepper(decoding),
            masked_canvas(lengths),
            Conditions(memory.repeat_rows(copies), decoding.random(source)),
            max_passes=decoding.max_passes,
            finished=nothing_masked,
            history=decoding.history,
        )
        canvas = refined.canvas
        return Translation.best_of(
            *(t.unflatten(0, (-1, copies)) for t in (canvas.tokens, canvas.valid, canvas.scores)),
            extra_scores=length_scores,
            count=decoding.num_candidates,
            ordered=decoding.temperature is not None,
            passes=refined.passes.unflatten(0, (-1, copies)),
            history=refined.history,
        )

    def stepper(self, decoding: Decoding) -> Step[Canvas, Conditions]:
        """Predict what is masked; then mask the n_t = N (T - t) / T least confident of all N positions (section 3.3,
        equation 2). A position that is predicted again takes its new probability, the others keep theirs."""

        def step(canvas: Canvas, given: Conditions, number: int) -> Canvas:
            hidden = canvas.fate == Fate.MASKED
            log_probs = self.log_probs(canvas.tokens.masked_fill(hidden, MASK), canvas.valid, given.memory)
            random = None if given.random is None else given.random.fork(number)
            written = decoding.pick(log_probs, random)
            tokens = written.where(hidden, canvas.tokens)
            scores = log_probs.gather(2, written[:, :, None]).squeeze(2).where(hidden, canvas.scores)
            left = canvas.valid.sum(dim=1) * (decoding.max_passes - number) // decoding.max_passes
            fate = torch.where(hidden, int(Fate.WRITTEN), int(Fate.KEPT)).masked_fill(~canvas.valid, int(Fate.NONE))
            fate = fate.masked_fill(lowest(scores, left, canvas.valid), int(Fate.MASKED))
            return replace(canvas, tokens=tokens, scores=scores, fate=fate)

        return step

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return target_length

    @property
    def max_source_length(self) -> int | None:
        return self.net.max_length

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.length.learnable(batch, limit=self.net.max_length)


def masked_canvas(lengths: Int[Tensor, " B"]) -> Canvas:
    """Nothing but masks."""
    valid = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    canvas: Canvas = Canvas.start(torch.full(valid.shape, MASK, device=lengths.device).masked_fill(~valid, PAD), valid)
    return replace(canvas, fate=torch.where(valid, int(Fate.MASKED), int(Fate.NONE)))


def nothing_masked(before: Canvas, after: Canvas) -> Bool[Tensor, " B"]:
    """True where later passes would change nothing: a short sentence needs fewer than max_passes."""
    return ~(after.fate == Fate.MASKED).any(dim=1)
