"""Single-pass pointer network: every point points at once at the corner that follows it on the polygon.

A non-autoregressive variant of Vinyals et al. 2015, https://arxiv.org/abs/1506.03134: the attention of all points over
all points, and "on no polygon", is the output, and the polygon is read from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.losses import token_log_probs
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, SampleOptions
from nat.nn.limits import LengthLimits
from nat.nn.pointing import PointConfig, PointEncoder, PointerHead, each_once, places, pointer_cross_entropy
from nat.nn.transformer import Memory
from nat.ops.cycle import follow, from_lowest, successors
from nat.search.refine import History


class PointerParallel(TranslationModel):
    """p(y|x) = prod_i p(s_i | x) over all points i of x: s_i is the corner after i, or that i is no corner.

    The successors that are most probable one by one need not be one polygon. It is read so: it begins at the point that
    is most surely a corner, and goes on to the most probable successor among the points that it has not met and its
    first one, until that closes it. So it is always closed and has no point twice; what else points say is left.
    """

    points = True
    unlearnable = "an empty source, a point twice, or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(PointConfig):
        label_smoothing: float = option(0.0, "probability spread over all points and the end", minimum=0, below=1)

    @dataclass(frozen=True)
    class Decoding(SampleOptions):
        writes_text: ClassVar[bool] = False

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.label_smoothing = config.label_smoothing
        self.encoder = PointEncoder(config, vocabularies=vocabularies, method="PointerParallel")
        self.head = PointerHead(config.score, dim=config.size.dim, initial=config.size.initial)

    def log_probs(self, memory: Memory) -> Float[Tensor, "B S C"]:
        """Of no corner, 0, and of each point as the successor, 1 + j."""
        allowed = F.pad(memory.valid[:, None], (1, 0), value=True)
        return F.log_softmax(self.head(memory.states, self.head.memorise(memory.states), allowed), dim=-1)

    def labels(self, target: Target, *, count: int) -> Int[Tensor, "B S"]:
        """The classes of `count` points, given the polygon."""
        return successors(places(target.tokens), target.valid, count=count) + 1

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """The mean over all points, corners or not."""
        batch = batch.compact()
        memory = self.encoder(batch.source)
        log_probs = self.log_probs(memory)
        labels = self.labels(batch.target, count=log_probs.size(1))
        total, nll, num_points = pointer_cross_entropy(
            log_probs, labels, memory.valid, label_smoothing=self.label_smoothing
        )
        return {"cross_entropy": LossTerm(total, num_points), "nll": LossTerm(nll, num_points, weight=0.0)}

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y | x) of the polygon, wherever it is said to begin."""
        batch = batch.compact()
        log_probs = self.log_probs(self.encoder(batch.source))
        labels = self.labels(batch.target, count=log_probs.size(1))
        return token_log_probs(log_probs, labels, batch.source.valid).sum(dim=1)

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        source = source.compact()
        memory, count = self.encoder(source), decoding.num_candidates
        log_probs, random = self.log_probs(memory), decoding.random(source)

        def pick(following: Float[Tensor, "N S"], step: int) -> Int[Tensor, " N"]:
            return decoding.pick(following[:, None], None if random is None else random.fork(step)).squeeze(1)

        wide = log_probs.repeat_interleave(count, dim=0)  # (B * N, S, 1 + S)
        points, valid = follow(wide, memory.valid.repeat_interleave(count, dim=0), pick)
        points = from_lowest(points, valid)
        labels = successors(points, valid, count=wide.size(1)) + 1
        inside = memory.valid.repeat_interleave(count, dim=0)
        by_point = token_log_probs(wide, labels, inside)  # (B * N, S) by point
        scores = by_point.sum(dim=1)
        tokens = (points + NUM_SYMBOLS).masked_fill(~valid, int(Symbol.PAD))
        history: tuple[History, ...] = ()
        if decoding.history:  # of each point, that of the one after it
            each = by_point.gather(1, points.clamp(min=0).masked_fill(~valid, 0))
            made = History.of_one_pass(tokens, valid, each)
            starts = torch.arange(len(source), device=points.device) * count
            history = tuple(made.select(starts + n) for n in range(count))
        passes = torch.ones(len(source), dtype=torch.long, device=points.device)
        tokens, valid, scores = (part.unflatten(0, (len(source), count)) for part in (tokens, valid, scores))
        return Translation(tokens, valid, scores, passes, torch.zeros_like(passes, dtype=torch.bool), history)

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.encoder.max_length)

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return source_length

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.encoder.takes(batch.source) & each_once(batch.compact().target)
