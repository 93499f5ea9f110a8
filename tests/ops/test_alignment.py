"""Alignments of Edit Flows against enumeration."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.data.batch import Target
from nat.ops.alignment import Alignment, align

Sequences = st.lists(st.integers(7, 9), max_size=6)
Pairs = st.lists(st.tuples(Sequences, Sequences), min_size=1, max_size=5)


def aligned(pairs: list[tuple[list[int], list[int]]], *, extra: int = 0) -> Alignment:
    """`extra` columns of padding on either side hold an ordinary token: only `valid` may count."""

    def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        target = Target.from_lists(rows)
        valid = F.pad(target.valid, (0, extra))
        return F.pad(target.tokens, (0, extra)).masked_fill(~valid, 7), valid

    return align(*padded([one for one, _ in pairs]), *padded([other for _, other in pairs]))


def columns(alignment: Alignment, row: int, pair: tuple[list[int], list[int]]) -> list[tuple[int | None, int | None]]:
    """The tokens side by side, None where there is a gap; those of padding left out."""
    both = zip(alignment.old[row].tolist(), alignment.new[row].tolist(), strict=True)
    found = [(None if i < 0 else pair[0][i], None if j < 0 else pair[1][j]) for i, j in both]
    while found and found[-1] == (None, None):
        found.pop()
    assert (None, None) not in found
    return found


@functools.cache
def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """By enumeration of what becomes of the first tokens."""
    if not one or not other:
        return len(one) + len(other)
    beside = distance(one[1:], other[1:]) + (one[0] != other[0])
    return min(beside, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)


@settings(deadline=None, max_examples=150)
@given(Pairs)
def test_both_sides_are_whole_and_differ_in_the_fewest_columns(pairs: list[tuple[list[int], list[int]]]) -> None:
    alignment = aligned(pairs)
    for row, pair in enumerate(pairs):
        found = columns(alignment, row, pair)
        assert [one for one, _ in found if one is not None] == pair[0]
        assert [other for _, other in found if other is not None] == pair[1]
        assert sum(one != other for one, other in found) == distance(tuple(pair[0]), tuple(pair[1]))


@settings(deadline=None, max_examples=60)
@given(Pairs, st.integers(0, 3))
def test_a_row_alone_and_wider_is_the_same(pairs: list[tuple[list[int], list[int]]], extra: int) -> None:
    together = aligned(pairs, extra=extra)
    for row, pair in enumerate(pairs):
        assert columns(together, row, pair) == columns(aligned([pair]), 0, pair)


def test_an_example() -> None:
    found = columns(aligned([([7, 9, 8, 8], [8, 7, 8, 8, 10])]), 0, ([7, 9, 8, 8], [8, 7, 8, 8, 10]))
    assert found == [(7, 8), (9, 7), (8, 8), (8, 8), (None, 10)]
