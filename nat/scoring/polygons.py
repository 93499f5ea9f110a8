"""How good answers about points are: polygons and triangles given by the indices of their corners.

Vinyals et al. 2015, https://arxiv.org/abs/1506.03134, section 4: a polygon is right if its sequence is; else what it
covers counts, and a system of which more than one in a hundred is no simple polygon has failed. Coordinates are the
quantised ones, so that all of it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nat.data.points import BITS, FINEST, BadText, IndexTokenizer, PointTokenizer, no_such_point
from nat.data.vocabulary import NUM_SYMBOLS
from nat.errors import DataError

MOST_INVALID = 1.0  # per cent; with more the paper writes FAIL


@dataclass(frozen=True)
class Answer:
    """One answer. points: (n, 2) quantised coordinates. answer, truth: indices of points."""

    points: np.ndarray
    answer: list[int]
    truth: list[int]

    @property
    def is_right(self) -> bool:
        return self.answer == self.truth

    @property
    def is_simple(self) -> bool:
        return is_simple_polygon(self.points, self.answer)

    @property
    def covered(self) -> float:
        """The polygon's area over the true one's."""
        return area(self.points[self.answer]) / area(self.points[self.truth])

    @property
    def triangles_found(self) -> float:
        """Share of the true triangles that are among those found, each three indices in any order."""
        truth = _triangles(self.truth)
        return len(truth & _triangles(self.answer)) / max(1, len(truth))


def score_points(sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """accuracy: per cent of outputs that equal their reference. Where the references are polygons also invalid, per
    cent that are no simple polygon; area, the mean per cent of the true area that the others cover, null if there are
    none; area_fails, whether too many are invalid. Else triangles, the mean per cent of the true ones that are found.
    by_points: the same for each number of points, where there are several. Empty lines do not count."""
    answers = [
        Answer(_points(source), [int(word) for word in output.split()], [int(word) for word in reference.split()])
        for source, output, reference in zip(sources, outputs, references, strict=True)
        if source.strip()
    ]
    polygons = all(is_simple_polygon(answer.points, answer.truth) for answer in answers)
    report = _scores(answers, polygons=polygons)
    groups: dict[int, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(len(answer.points), []).append(answer)
    if len(groups) > 1:
        report["by_points"] = [
            {"points": count, "sentences": len(group)} | _scores(group, polygons=polygons)
            for count, group in sorted(groups.items())
        ]
    return report


def check_references(name: str, sources: Sequence[str], references: Sequence[str]) -> None:
    """Each names points of its own source. Raises DataError naming the text and the line."""
    for number, (source, reference) in enumerate(zip(sources, references, strict=True), 1):
        try:
            (ids,) = IndexTokenizer(0).encode([reference])
        except BadText as error:
            raise DataError(f"{name} line {number}: {error}") from None
        last, count = max(ids, default=NUM_SYMBOLS) - NUM_SYMBOLS, len(source.split())
        if last >= max(1, count):
            raise DataError(f"{name} line {number}: {no_such_point(last, count)}")


def _scores(answers: Sequence[Answer], *, polygons: bool) -> dict[str, Any]:
    count = max(1, len(answers))
    right = {"accuracy": 100 * sum(answer.is_right for answer in answers) / count}
    if not polygons:
        return right | {"triangles": 100 * sum(answer.triangles_found for answer in answers) / count}
    simple = [answer for answer in answers if answer.is_simple]
    invalid = 100 * (len(answers) - len(simple)) / count
    covered = 100 * sum(answer.covered for answer in simple) / len(simple) if simple else None
    return right | {"area": covered, "invalid": invalid, "area_fails": invalid > MOST_INVALID}


def describe_points(report: Mapping[str, Any]) -> list[str]:
    """The scores for people to read, a line for each number of points too; [] where there are none."""
    if "accuracy" not in report:
        return []
    rows = [("all", report), *((f"{row['points']} points", row) for row in report.get("by_points", []))]
    return [f"{name}: {_shown(row)}" for name, row in rows]


def _shown(row: Mapping[str, Any]) -> str:
    told = f"accuracy {row['accuracy']:.2f} %"
    if "triangles" in row:
        return f"{told}, triangles {row['triangles']:.2f} %"
    covered = "-" if row["area"] is None else f"{row['area']:.2f} %"
    failed = " (FAIL)" if row["area_fails"] else ""
    return f"{told}, area {covered}{failed}, no simple polygon {row['invalid']:.2f} %"


def area(corners: np.ndarray) -> float:
    """Of a simple polygon; corners: (n, 2)."""
    x, y = corners.astype(np.int64).T
    return abs(int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def is_simple_polygon(points: np.ndarray, indices: Sequence[int]) -> bool:
    """Three corners or more, all of them points, none twice, and edges that meet nowhere but in the corner that two
    neighbours share."""
    count = len(indices)
    if count < 3 or len(set(indices)) < count or max(indices) >= len(points):
        return False
    start = points[np.asarray(indices)].astype(np.int64)  # (n, 2), edge i goes from start i to end i
    end = np.roll(start, -1, axis=0)
    first, second = np.triu_indices(count, k=1)
    neighbours = (second == first + 1) | ((first == 0) & (second == count - 1))
    apart, beside = (first[~neighbours], second[~neighbours]), np.arange(count)
    if _meet(start[apart[0]], end[apart[0]], start[apart[1]], end[apart[1]]).any():
        return False
    before, after = start - np.roll(start, 1, axis=0), end[beside] - start
    folded = (_cross(before, after) == 0) & ((before * after).sum(axis=1) < 0)
    return not folded.any()


def _meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether the segments ab and cd, (N, 2) each, share a point."""
    boxes = (np.minimum(a, b) <= np.maximum(c, d)) & (np.minimum(c, d) <= np.maximum(a, b))
    sides = [np.sign(_cross(q - p, r - p)) for p, q, r in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
    return boxes.all(axis=1) & (sides[0] * sides[1] <= 0) & (sides[2] * sides[3] <= 0)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def _points(source: str) -> np.ndarray:
    packed = np.asarray(PointTokenizer().encode([source])[0], dtype=np.int64).reshape(-1) - NUM_SYMBOLS
    return np.stack((packed >> BITS, packed & FINEST), axis=1)


def _triangles(indices: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(indices[i : i + 3]) for i in range(0, len(indices) - 2, 3)}
