"""Sentence pairs as token ids: one by one, and as a table of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nat.data.ragged import Ragged


class Pair(NamedTuple):
    """Token ids of a sentence pair, without special symbols. fertilities: see `Batch`, one number for each source
    token; all pairs of a corpus have them, or none."""

    source: list[int]
    target: list[int]
    fertilities: list[int] | None = None


@dataclass(frozen=True, eq=False)
class PairTable:
    """Token ids of N pairs, see `Pair`."""

    source: Ragged
    target: Ragged
    fertilities: Ragged | None = None

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairTable:
        numbers = [pair.fertilities for pair in pairs if pair.fertilities is not None]
        assert len(numbers) in (0, len(pairs)), "all pairs of a corpus have fertilities, or none"
        source, target = ([pair.source for pair in pairs], [pair.target for pair in pairs])
        fertilities = Ragged.from_lists(numbers) if numbers else None
        return cls(Ragged.from_lists(source), Ragged.from_lists(target), fertilities)

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> PairTable:
        """The pairs at these places, (B,) whole numbers, in that order and in memory."""
        fertilities = None if self.fertilities is None else self.fertilities.take(rows)
        return PairTable(self.source.take(rows), self.target.take(rows), fertilities)

    def pairs(self) -> list[Pair]:
        columns = [self.source.lists(), self.target.lists()]
        if self.fertilities is not None:
            columns.append(self.fertilities.lists())
        return [Pair(*row) for row in zip(*columns, strict=True)]
