"""Several targets of a source, of which an epoch has one, drawn by their weights (see nat-distill's `weights`).

The expected objective is that of Kim & Rush 2016, section 3.2, https://arxiv.org/abs/1606.07947, where each of the k
best hypotheses counts by its weight, at the cost of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, eq=False)
class Weights:
    """values: (N,) weights of the pairs, from 0. sources: (N,) which source each pair is of, in ascending order."""

    values: np.ndarray
    sources: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, sources: pa.ChunkedArray) -> Weights:
        """sources: (N,) texts; neighbours that are equal are one source."""
        differs = pc.not_equal(sources.slice(1), sources.slice(0, len(sources) - 1))
        return cls(values, np.concatenate([[0], np.cumsum(differs.to_numpy())]))

    def take(self, pairs: np.ndarray) -> Weights:
        """Of these pairs: indices, or (N,) bool."""
        return Weights(self.values[pairs], self.sources[pairs])

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Indices of one pair of each source; of one that occurs in the corpus several times in a row, whose weights
        have a sum of several ones, as many."""
        starts = np.flatnonzero(np.diff(self.sources, prepend=-1))
        ends = np.append(starts[1:], len(self.sources)) - 1  # the last pair of each source
        sums = np.cumsum(self.values, dtype=np.float64)
        before = sums[starts] - self.values[starts]
        totals = sums[ends] - before
        number = np.maximum(1, np.rint(totals)).astype(np.int64)
        source = np.repeat(np.arange(len(starts)), number)
        first = np.repeat(np.cumsum(number) - number, number)
        shares = (np.arange(len(source)) - first + random.random(len(source))) / number[source]
        places = before[source] + shares * totals[source]
        return np.searchsorted(sums, places, side="right").clip(starts[source], ends[source])
