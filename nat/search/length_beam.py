"""Several lengths for each sentence, for decoders that must know the length first: Ghazvininejad et al. 2019, section
3.3, https://arxiv.org/abs/1904.09324."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nat.data.batch import Source
from nat.nn.length import LengthPredictor
from nat.nn.seq2seq import Seq2Seq
from nat.nn.transformer import Memory
from nat.rows import Rows


@dataclass(frozen=True)
class LengthBeam(Rows):
    """N = B * copies rows, those of a sentence side by side: its most probable lengths, or its samples, all of the best
    length. lengths: (N,) of the canvases. scores: (N,) their log-probabilities, -inf where there is no such candidate.
    log_probs: (N, O) of all differences from the source, as the predictor has them. samples: whether the copies are."""

    source: Source
    memory: Memory
    lengths: Int[Tensor, " N"]
    scores: Float[Tensor, " N"]
    log_probs: Float[Tensor, "N O"]
    copies: int
    samples: bool

    @classmethod
    def of(
        cls,
        predictor: LengthPredictor,
        net: Seq2Seq,
        source: Source,
        *,
        copies: int,
        samples: bool,
        limit: int | None,
        banned: tuple[int, ...] = (),
    ) -> Self:
        """Of lengths up to `limit`. source: right-padded. banned: symbols that are not to be written."""
        memory, log_probs = predictor.encode(net, source)
        memory = replace(net.decoder.project(memory), banned=banned).shared(copies)
        best = predictor.best(log_probs, source.lengths, 1 if samples else copies, limit=limit)
        lengths, scores = (part.expand(-1, copies).flatten() for part in best)
        log_probs = log_probs.repeat_interleave(copies, dim=0)
        return cls(source.repeat_rows(copies), memory, lengths, scores, log_probs, copies, samples)

    def resized(self, predictor: LengthPredictor, lengths: Int[Tensor, " N"]) -> Self:
        """With canvases of other lengths, scored as such. Of a sentence's equal lengths one is a candidate, unless the
        copies are samples."""
        scores = predictor.log_prob(self.log_probs, self.source.lengths, lengths)
        if not self.samples:
            of_sentence = lengths.view(-1, self.copies)
            same = of_sentence[:, :, None] == of_sentence[:, None]
            seen = same.tril(diagonal=-1).any(dim=2).flatten()
            scores = scores.masked_fill(seen, -torch.inf)
        return replace(self, lengths=lengths, scores=scores)
