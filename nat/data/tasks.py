"""Tasks whose pairs are made from a seed: points of the unit square and what is to be found in them.

A location is task:NAME?points=5-20&pairs=100000&seed=1. Row i depends on the seed and on i alone. The tasks are those
of Vinyals et al. 2015, https://arxiv.org/abs/1506.03134, section 3; the truth is SciPy's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

import numpy as np
from scipy.spatial import ConvexHull, Delaunay, QhullError

from nat.config import nearest
from nat.data.cache import digest
from nat.data.points import FINEST, point_text
from nat.errors import ConfigError

VERSION = "1"  # part of the cache key: raise it when the rows change
MOST_POINTS = 10_000


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
    """Pairs of a task. fewest, most: number of points, drawn evenly; all points of a row differ."""

    name: str
    fewest: int = 5
    most: int = 20
    pairs: int = 1000
    seed: int = 1

    @classmethod
    def parse(cls, text: str) -> Task:
        """What stands after "task:". Raises ConfigError (without the key's name)."""
        name, _, query = text.partition("?")
        if name not in TASKS:
            raise ConfigError(f"there is no task '{name}', {nearest(name, list(TASKS))}")
        found: dict[str, int] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in ("points", "pairs", "seed"):
                raise ConfigError(f"task:{name} has no '{key}', it has points, pairs, seed")
            numbers = re.fullmatch(r"(\d+)-(\d+)" if key == "points" and "-" in value else r"(\d+)", value, re.ASCII)
            if numbers is None:
                example = "5-20 or 50" if key == "points" else "1000"
                raise ConfigError(f"{key}={value}: a whole number is needed, for example {key}={example}")
            low, high = int(numbers[1]), int(numbers[numbers.lastindex or 1])
            found |= {"fewest": low, "most": high} if key == "points" else {key: low}
        task = cls(name, **found)
        if not 3 <= task.fewest <= task.most <= MOST_POINTS:
            raise ConfigError(f"points={task.fewest}-{task.most}: must rise, from 3 or more to at most {MOST_POINTS}")
        if task.pairs < 1:
            raise ConfigError("pairs=0: must be at least 1")
        return task

    def rows(self) -> Iterator[dict[str, str | int]]:
        """Rows {source, target, line}, see `nat.data.readers`."""
        for number in range(self.pairs):
            points, answer = self._pair(np.random.default_rng((self.seed, number)))
            source = " ".join(point_text(x, y) for x, y in points.tolist())
            yield {"source": source, "target": " ".join(map(str, answer)), "line": number + 1}

    def fingerprint(self) -> str:
        """A key of all that the rows depend on."""
        return digest("task", VERSION, *map(str, dataclasses.astuple(self)))

    def _pair(self, random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """Quantised points, for which the truth holds as a model sees them, and the answer."""
        count = int(random.integers(self.fewest, self.most + 1))
        while True:
            points = random.integers(0, FINEST + 1, size=(count, 2))
            if len(np.unique(points, axis=0)) == count:
                try:
                    return points, TASKS[self.name](points)
                except QhullError:  # all on one line
                    continue
