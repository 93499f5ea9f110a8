"""Tasks whose pairs are made from a seed: points of the unit square and what is to be found in them.

A location is task:NAME?points=5-20&pairs=100000&seed=1. Row i depends on the seed and on i alone. The tasks are those
of Vinyals et al. 2015, https://arxiv.org/abs/1506.03134, section 3; the truth is SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, Delaunay, QhullError

from nat.data.cache import digest
from nat.data.counts import Range, check_count, read_counts
from nat.data.points import FINEST, point_text

VERSION = "1"  # part of the cache key: raise it when the rows change
FEWEST_POINTS, MOST_POINTS = 3, 10_000


def convex_hull(points: np.ndarray) -> list[int]:
    """Indices of the hull's corners, counter-clockwise from the lowest index. points: (n, 2). Raises QhullError
    where all lie on one line."""
    corners = ConvexHull(points).vertices.tolist()
    start = corners.index(min(corners))
    return corners[start:] + corners[:start]


def delaunay(points: np.ndarray) -> list[int]:
    """Corners of the triangles of the Delaunay triangulation one after the other: of each the lowest first, then
    counter-clockwise; the triangles in the order of their indices. points: (n, 2). Raises QhullError as above."""
    triangles = []
    for corners in Delaunay(points).simplices.tolist():
        a, b, c = corners[(low := corners.index(min(corners))) :] + corners[:low]
        (ux, uy), (vx, vy) = points[b] - points[a], points[c] - points[a]
        triangles.append((a, b, c) if ux * vy > uy * vx else (a, c, b))
    return [index for triangle in sorted(triangles) for index in triangle]


TASKS: dict[str, Callable[[np.ndarray], list[int]]] = {"convex_hull": convex_hull, "delaunay": delaunay}


@dataclass(frozen=True)
class Task:
    """Pairs of a task. points: how many a source has, drawn evenly; all points of a row differ."""

    name: str
    points: Range = Range(5, 20)
    pairs: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        check_count("points", self.points, FEWEST_POINTS, MOST_POINTS)
        check_count("pairs", self.pairs, 1)

    @classmethod
    def parse(cls, text: str) -> Task:
        """TASK?OPTIONS. Raises ConfigError."""
        return cls(text.partition("?")[0], **read_counts(text, ("points", "pairs", "seed"), ("points",)))

    def rows(self, first: int = 0) -> Iterator[dict[str, str | int]]:
        """Rows {source, target, line}, see `nat.data.readers`, from number `first` on."""
        for number in range(first, self.pairs):
            points, answer = self._pair(np.random.default_rng((self.seed, number)))
            source = " ".join(point_text(x, y) for x, y in points.tolist())
            yield {"source": source, "target": " ".join(map(str, answer)), "line": number + 1}

    def fingerprint(self) -> str:
        """A key of all that the rows depend on."""
        numbers = (self.points.low, self.points.high, self.pairs, self.seed)
        return digest("task", VERSION, self.name, *map(str, numbers))

    def _pair(self, random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """Quantised points, for which the truth holds as a model sees them, and the answer."""
        count = int(random.integers(self.points.low, self.points.high + 1))
        while True:
            points = random.integers(0, FINEST + 1, size=(count, 2))
            if len(np.unique(points, axis=0)) == count:
                try:
                    return points, TASKS[self.name](points)
                except QhullError:  # all on one line
                    continue
