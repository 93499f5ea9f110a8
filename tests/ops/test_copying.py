"""Copies of the source against hand-written loops."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.ops.copying import copy_by_fertility, cut_fertilities, soft_copy, uniform_copy

FERTILITIES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=4)
LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=4)


def rectangle(rows: list[list[int]], *, left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    return torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)])


def lengths_of(pairs: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([s for s, _ in pairs]), torch.tensor([t for _, t in pairs])


def as_lists(index: torch.Tensor, valid: torch.Tensor) -> list[list[int]]:
    """Rows without padding; what is padding must be on the right and 0."""
    assert (valid.int().diff(dim=1) <= 0).all()
    assert (index[~valid] == 0).all()
    return [row[keep].tolist() for row, keep in zip(index, valid, strict=True)]


@given(FERTILITIES)
def test_copies_by_fertility_are_those_of_a_loop(rows: list[list[int]]) -> None:
    expected = [[i for i, fertility in enumerate(row) for _ in range(fertility)] for row in rows]
    index, valid = copy_by_fertility(rectangle(rows))
    assert as_lists(index, valid) == expected
    assert index.shape == valid.shape == (len(rows), max([1, *map(len, expected)]))


@given(FERTILITIES)
def test_padding_on_the_left_shifts_the_copied_positions_and_nothing_else(rows: list[list[int]]) -> None:
    width = max(map(len, rows))
    left = as_lists(*copy_by_fertility(rectangle(rows, left=True)))
    right = as_lists(*copy_by_fertility(rectangle(rows)))
    assert left == [[i + width - len(row) for i in copied] for row, copied in zip(rows, right, strict=True)]


@given(FERTILITIES, st.lists(st.integers(1, 12), min_size=4, max_size=4))
def test_cut_fertilities_are_those_of_the_beginning_of_the_canvas(rows: list[list[int]], limits: list[int]) -> None:
    given = rectangle(rows)
    found, was_cut = cut_fertilities(given, torch.tensor(limits[: len(rows)]))
    whole, begun = (as_lists(*copy_by_fertility(numbers)) for numbers in (given, found))
    assert begun == [row[:limit] for row, limit in zip(whole, limits, strict=False)]
    assert was_cut.tolist() == [len(row) > limit for row, limit in zip(whole, limits, strict=False)]
    assert (found >= 0).all()


@given(LENGTHS)
def test_uniform_copies_are_those_of_a_loop(pairs: list[tuple[int, int]]) -> None:
    def copied(source: int, target: int) -> list[int]:
        exact = [Fraction(j * source, target) for j in range(1, target + 1)]
        return [max(math.floor(x + Fraction(1, 2)), 1) - 1 for x in exact]

    index, valid = uniform_copy(*lengths_of(pairs))
    assert as_lists(index, valid) == [copied(s, t) for s, t in pairs]


def test_uniform_copy_is_the_identity_for_equal_lengths_and_spreads_evenly() -> None:
    index, valid = uniform_copy(torch.tensor([4, 2, 4, 3]), torch.tensor([4, 4, 2, 0]))
    assert as_lists(index, valid) == [[0, 1, 2, 3], [0, 0, 1, 1], [1, 3], []]


@given(LENGTHS, st.integers(0, 3), st.floats(0.1, 5))
def test_soft_copies_are_those_of_a_loop(pairs: list[tuple[int, int]], extra: int, tau: float) -> None:
    width = max(s for s, _ in pairs) + extra
    weights, valid = soft_copy(*lengths_of(pairs), source_width=width, tau=tau)
    assert weights.shape == (len(pairs), valid.size(1), width)
    assert valid.sum(dim=1).tolist() == [t for _, t in pairs]
    for row, (source, target) in zip(weights, pairs, strict=True):
        for j in range(target):
            heights = [math.exp(-abs(i - (j + 1) * source / target) / tau) for i in range(1, source + 1)]
            assert row[j, :source].tolist() == pytest.approx([h / sum(heights) for h in heights], abs=1e-5)
        assert (row[target:] == 0).all()
        assert (row[:, source:] == 0).all()


@given(LENGTHS)
def test_soft_copy_tends_to_uniform_copy(pairs: list[tuple[int, int]]) -> None:
    sources, targets = lengths_of(pairs)
    weights, _ = soft_copy(sources, targets, source_width=9, tau=1e-3)
    index, valid = uniform_copy(sources, targets)
    halves = (2 * torch.arange(1, valid.size(1) + 1) * sources[:, None]) % (2 * targets[:, None].clamp(min=1))
    clear = valid & (halves != targets[:, None])  # a centre half-way between two positions copies both
    assert (weights.gather(2, index[:, :, None]).squeeze(2)[clear] > 0.999).all()
