"""How long what a model reads and writes may be, where positions or attention have a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from nat.nn.seq2seq import Seq2Seq


@dataclass(frozen=True)
class LengthLimits:
    """The most tokens; None where there is no limit. source: of a source. target: of a canvas. total: of both."""

    source: int | None = None
    target: int | None = None
    total: int | None = None

    @classmethod
    def of(cls, net: Seq2Seq, *, ends: int = 0) -> Self:
        """ends: positions of a canvas beside its tokens."""
        target = net.max_target_length
        return cls(net.max_source_length, None if target is None else max(0, target - ends))
