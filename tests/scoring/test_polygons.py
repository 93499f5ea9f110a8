"""Polygons: which are simple, what they cover, and the report."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from nat.data.points import FINEST
from nat.data.tasks import Task, convex_hull
from nat.scoring.polygons import area, describe_points, is_simple_polygon, score_points

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10], [5, 5], [5, 0]])
CORNERS = "0,0 1,0 1,1 0,1 0.5,0.5"


def test_of_corners_in_convex_position_only_the_ways_around_are_simple() -> None:
    points = np.random.default_rng(1).integers(0, FINEST, (30, 2))
    hull = convex_hull(points)[:6]
    around = {tuple(side[i:] + side[:i]) for side in (hull, hull[::-1]) for i in range(len(hull))}
    assert {order for order in itertools.permutations(hull) if is_simple_polygon(points, order)} == around
    assert len(around) == 12


@pytest.mark.parametrize(
    ("corners", "simple"),
    [
        ([0, 1, 2, 3], True),
        ([0, 1, 2, 4], True),  # not convex
        ([0, 2, 1, 3], False),  # edges cross
        ([0, 1, 2, 5], False),  # a corner lies on an edge
        ([0, 1, 5], False),  # folded back onto itself
        ([0, 5, 1, 2], True),  # a corner on a straight line
        ([0, 2, 4], False),  # all on one line
        ([0, 1], False),
        ([], False),
        ([0, 1, 2, 0], False),  # a corner twice
        ([0, 1, 9], False),  # no such point
    ],
)
def test_simple_polygons(corners: list[int], simple: bool) -> None:
    assert is_simple_polygon(SQUARE, corners) == simple
    assert is_simple_polygon(SQUARE, corners[::-1]) == simple


def test_areas() -> None:
    assert area(SQUARE[[0, 1, 2, 3]]) == area(SQUARE[[3, 2, 1, 0]]) == 100
    assert area(SQUARE[[0, 1, 2]]) == 50
    large = np.array([[0, 0], [FINEST, 0], [FINEST, FINEST], [0, FINEST]], dtype=np.int32)
    assert area(large) == FINEST**2

    assert area(SQUARE[[0, 1, 2, 4]] + [3, 7]) == 50  # wherever it lies


def test_every_polygon_of_a_grid_is_judged_edge_by_edge() -> None:
    """Corners on a small grid lie on edges, edges in line with each other and beside each other."""
    draw, found = random.Random(3), set()
    for _ in range(400):
        points = np.array(draw.sample([(x, y) for x in range(4) for y in range(3)], draw.randint(3, 5)))
        order = list(range(len(points)))
        found.add(simple := is_simple_polygon(points, order))
        assert simple == simple_by_loop([tuple(map(int, point)) for point in points]), points
    assert found == {True, False}


def simple_by_loop(corners: list[tuple[int, int]]) -> bool:
    """No two edges have a point in common but the corner between neighbours."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for (i, first), (j, second) in itertools.combinations(enumerate(edges), 2):
        shared = set(first) & set(second)
        if (j - i) % len(edges) in (1, len(edges) - 1):
            assert len(shared) == 1
            ends = [(set(edge) - shared).pop() for edge in (first, second)]
            if on_segment(ends[0], *second) or on_segment(ends[1], *first):
                return False
        elif meet(*first, *second):
            return False
    return True


def turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return int(np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])))


def on_segment(p: tuple[int, int], a: tuple[int, int], b: tuple[int, int]) -> bool:
    inside = all(min(a[k], b[k]) <= p[k] <= max(a[k], b[k]) for k in range(2))
    return turn(a, b, p) == 0 and inside


def meet(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int], d: tuple[int, int]) -> bool:
    """They cross, or an end of one lies on the other."""
    crosses = turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
    return crosses or on_segment(a, c, d) or on_segment(b, c, d) or on_segment(c, a, b) or on_segment(d, a, b)


def test_what_is_right_what_is_covered_and_what_is_no_polygon() -> None:
    outputs = ["0 1 2 3", "0 1 2", "0 2 1 3", "1 2 3 0"]
    report = score_points([CORNERS] * 4, outputs, ["0 1 2 3"] * 4)
    assert report == {
        "accuracy": 25.0,
        "invalid": 25.0,
        "area": pytest.approx(100 * (1 + 0.5 + 1) / 3, abs=1e-2),
        "area_fails": True,
    }
    assert describe_points(report) == ["all: accuracy 25.00 %, area 83.33 % (FAIL), no simple polygon 25.00 %"]


def test_one_invalid_polygon_in_a_hundred_is_no_failure_two_are() -> None:
    for wrong in (1, 2):
        outputs = ["0 1"] * wrong + ["0 1 2 3"] * (100 - wrong)
        assert score_points([CORNERS] * 100, outputs, ["0 1 2 3"] * 100)["area_fails"] == (wrong == 2)
    nothing = score_points([CORNERS], ["0 1"], ["0 1 2 3"])
    assert (nothing["area"], nothing["invalid"]) == (None, 100.0)
    assert "area - (FAIL)" in describe_points(nothing)[0]


def test_scores_by_number_of_points_where_there_are_several() -> None:
    report = score_points([CORNERS, "0,0 1,0 0,1"], ["0 1 2", "0 1 2"], ["0 1 2 3", "0 1 2"])
    assert [(row["points"], row["sentences"], row["accuracy"]) for row in report["by_points"]] == [
        (3, 1, 100.0),
        (5, 1, 0.0),
    ]
    assert [line.partition(":")[0] for line in describe_points(report)] == ["all", "3 points", "5 points"]


def test_triangulations_are_scored_by_the_triangles_found() -> None:
    source, truth = CORNERS, "0 1 4 0 4 3 1 2 4 2 3 4"
    report = score_points([source, source], [truth, "0 1 4 4 0 3 0 1 2"], [truth, truth])
    assert report == {"accuracy": 50.0, "triangles": 75.0}
    assert describe_points(report) == ["all: accuracy 50.00 %, triangles 75.00 %"]
    assert describe_points({"bleu": 3.0}) == []


def test_the_truth_is_all_right_and_a_corner_less_covers_less() -> None:
    rows = list(Task.parse("convex_hull?points=8&pairs=20").rows())
    sources, truths = [str(row["source"]) for row in rows], [str(row["target"]) for row in rows]
    report = score_points(sources, truths, truths)
    assert (report["accuracy"], report["area"], report["invalid"]) == (100.0, 100.0, 0.0)
    shorter = [" ".join(random.Random(i).sample(truth.split(), 3)) for i, truth in enumerate(truths)]
    assert 0 < score_points(sources, shorter, truths)["area"] < 100
