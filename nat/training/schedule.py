"""Numbers that change with the update: learning rate, glancing ratio, annealed weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from nat.config import option


class Shape(Enum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    INVERSE_SQRT = "inverse_sqrt"


@dataclass(frozen=True)
class Schedule:
    """From `start` to `end` in `updates` updates, then `end`.

    inverse_sqrt is the field's learning-rate decay: start / sqrt(1 + update / updates), which never ends.
    """

    start: float
    end: float
    updates: int
    shape: Shape = Shape.LINEAR

    def __call__(self, update: int) -> float:
        done = min(1.0, update / max(1, self.updates))
        if self.shape is Shape.CONSTANT:
            return self.start
        if self.shape is Shape.INVERSE_SQRT:
            return self.start / math.sqrt(1.0 + update / max(1, self.updates))
        share = done if self.shape is Shape.LINEAR else (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * share


class LearningRate:
    """Linear warm-up, then a decay.

    inverse_sqrt is peak * sqrt(warmup / update) (Vaswani et al. 2017, equation 3, scaled to its peak); cosine and
    linear reach `end` at the last update of the run (Loshchilov & Hutter 2017, equation 5, without restarts).
    """

    @dataclass(frozen=True)
    class Config:
        peak: float = option(5e-4, "highest learning rate, reached at the end of the warm-up", above=0)
        warmup: int = option(4000, "updates of linear warm-up", minimum=0)
        start: float = option(1e-7, "learning rate of the first update", minimum=0)
        shape: Shape = option(Shape.INVERSE_SQRT, "decay: inverse_sqrt, cosine, linear or constant")
        end: float = option(0.0, "cosine and linear: learning rate of the last update", minimum=0)

    def __init__(self, config: Config, *, max_updates: int) -> None:
        warmup = min(config.warmup, max_updates)
        self.warmup = Schedule(config.start, config.peak, warmup)
        span = warmup if config.shape is Shape.INVERSE_SQRT else max_updates - warmup
        self.decay = Schedule(config.peak, config.end, max(1, span), config.shape)

    def __call__(self, update: int) -> float:
        """Learning rate of update 1, 2, ..."""
        if update < self.warmup.updates:
            return self.warmup(update)
        return self.decay(update - self.warmup.updates)
