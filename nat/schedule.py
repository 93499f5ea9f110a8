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

    start: float = option(help="value at update 0")
    end: float = option(help="value from `updates` on")
    updates: int = option(help="updates from start to end", minimum=0, maximum=1_000_000_000)
    shape: Shape = option(Shape.LINEAR, "constant (start for ever), linear, cosine or inverse_sqrt")

    def __call__(self, update: int) -> float:
        done = min(1.0, update / max(1, self.updates))
        if self.shape is Shape.CONSTANT:
            return self.start
        if self.shape is Shape.INVERSE_SQRT:
            return self.start / math.sqrt(1.0 + update / max(1, self.updates))
        share = done if self.shape is Shape.LINEAR else (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * share
