"""Rows of numbers of different lengths, one after the other in one flat array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """N rows of whole numbers. Both arrays may be memory-mapped: only what is asked for is read.

    values: (total length,), row after row. offsets: (N + 1,) int64, where each row begins, and the end.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> Ragged:
        """lengths: (N,) of the rows."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls.of_lengths(flat(rows, int(lengths.sum())), lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """(B,) int64, of the rows at these places."""
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows at these places, (B,) whole numbers, in that order and in memory."""
        lengths = self.lengths_of(rows)
        taken = Ragged.of_lengths(np.empty(0), lengths)
        shifts = np.repeat(self.offsets[rows] - taken.offsets[:-1], lengths)
        return Ragged(np.asarray(self.values[shifts + np.arange(len(shifts))]), taken.offsets)

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows as a rectangle: (N, L) int64, 0 behind the end of a row, and (N, L) bool, True before it. There is
        at least one column, so that a batch of empty rows has a shape."""
        lengths = self.lengths
        valid = np.arange(max(1, int(lengths.max(initial=1)))) < lengths[:, None]
        rectangle = np.zeros(valid.shape, dtype=np.int64)
        rectangle[valid] = self.values
        return rectangle, valid

    def lists(self) -> list[list[int]]:
        """Row by row."""
        values, ends = self.values.tolist(), self.offsets.tolist()
        return [values[start:end] for start, end in pairwise(ends)]

    def sums(self) -> np.ndarray:
        """(N,) int64, of each row's numbers."""
        totals = np.concatenate([[0], np.cumsum(self.values, dtype=np.int64)])
        return totals[self.offsets[1:]] - totals[self.offsets[:-1]]


def flat(rows: Iterable[Iterable[int]], total: int) -> np.ndarray:
    """The numbers of all rows, of which there are `total`, (total,) int64."""
    return np.fromiter(chain.from_iterable(rows), np.int64, total)
