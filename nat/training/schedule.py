"""The learning rate: a warm-up and a decay, both of them a `Schedule`."""

from __future__ import annotations

from dataclasses import dataclass

from nat.config import option
from nat.errors import ConfigError
from nat.schedule import Schedule, Shape


class LearningRate:
    """Linear warm-up, then a decay.

    inverse_sqrt is peak * sqrt(warmup / update) (Vaswani et al. 2017, equation 3, scaled to its peak); cosine and
    linear reach `end` at the last update of the run (Loshchilov & Hutter 2017, equation 5, without restarts).
    """

    @dataclass(frozen=True)
    class Config:
        peak: float = option(5e-4, "highest learning rate, reached at the end of the warm-up", above=0, maximum=1000)
        warmup: int = option(4000, "updates of linear warm-up", minimum=0, maximum=1_000_000_000)
        start: float = option(1e-7, "learning rate of the first update", minimum=0, maximum=1000)
        shape: Shape = option(Shape.INVERSE_SQRT, "decay: inverse_sqrt, cosine, linear or constant")
        end: float = option(0.0, "cosine and linear: learning rate of the last update", minimum=0, maximum=1000)

        def __post_init__(self) -> None:
            if self.warmup == 0 and self.shape is Shape.INVERSE_SQRT:
                raise ConfigError(
                    "warmup=0: with shape=inverse_sqrt the rate decays from the end of the warm-up on, as "
                    "sqrt(warmup / update); give warmup=1 or more, or shape=cosine, linear or constant"
                )

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
