"""Closed sequences against plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.cycle import follow, from_lowest, rotate, successors

CYCLES = st.lists(st.permutations(range(6)).flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])), min_size=1)


def padded(rows: list[list[int]], width: int = 7) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[*row, *[99] * (width - len(row))] for row in rows])
    return tokens, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


@given(CYCLES)
def test_the_rotation_that_begins_with_the_lowest(rows: list[list[int]]) -> None:
    tokens, valid = padded(rows)
    for row, found in zip(rows, from_lowest(tokens, valid).tolist(), strict=True):
        start = row.index(min(row)) if row else 0
        assert found == [*row[start:], *row[:start], *[99] * (7 - len(row))]


@given(CYCLES, st.integers(0, 5))
def test_rotations_turn_valid_tokens_alone(rows: list[list[int]], start: int) -> None:
    tokens, valid = padded(rows)
    starts = torch.tensor([start % max(1, len(row)) for row in rows])
    for row, begin, found in zip(rows, starts.tolist(), rotate(tokens, valid, starts).tolist(), strict=True):
        assert found[: len(row)] == row[begin:] + row[:begin]
        assert set(found[len(row) :]) <= {99}


@given(CYCLES)
def test_successors_of_every_point(rows: list[list[int]]) -> None:
    tokens, valid = padded(rows)
    for row, found in zip(rows, successors(tokens, valid, count=6).tolist(), strict=True):
        expected = [-1] * 6
        for i, point in enumerate(row):
            expected[point] = row[(i + 1) % len(row)]
        assert found == expected


def followed(scores: list[list[float]], count: int) -> list[int]:
    """The same by lists: scores[i][0] of no successor, scores[i][1 + j] of point j."""
    first = min(range(count), key=lambda i: scores[i][0])
    path = [first]
    while True:
        choices = [j for j in range(count) if j == first or j not in path]
        best = max(choices, key=lambda j: scores[path[-1]][1 + j])
        if best == first:
            return path
        path.append(best)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_polygon_is_read_point_by_point(seed: int, counts: list[int]) -> None:
    scores = torch.randn(len(counts), 6, 7, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)
    valid = torch.arange(6) < torch.tensor(counts)[:, None]
    scores = scores.masked_fill(~torch.nn.functional.pad(valid, (1, 0), value=True)[:, None], -torch.inf)
    steps: list[int] = []

    def pick(row: Tensor, step: int) -> Tensor:
        steps.append(step)
        return row.argmax(dim=-1)

    points, on = follow(scores, valid, pick)
    expected = [followed(table.tolist(), count) for table, count in zip(scores, counts, strict=True)]
    assert [row[keep].tolist() for row, keep in zip(points, on, strict=True)] == expected
    assert points.size(1) == max(map(len, expected))
    assert steps == list(range(len(steps)))


def test_coherent_successors_are_followed_whoever_begins() -> None:
    labels = successors(torch.tensor([[4, 1, 3]]), torch.ones(1, 3, dtype=torch.bool), count=5) + 1
    sure = torch.nn.functional.one_hot(labels, 6).float().add(1e-6).log()
    points, on = follow(sure, torch.ones(1, 5, dtype=torch.bool), lambda row, step: row.argmax(dim=-1))
    assert from_lowest(points, on).tolist() == [[1, 3, 4]]
