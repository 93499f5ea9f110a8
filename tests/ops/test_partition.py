"""Rows divided into parts by their own length."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.ops.partition import bounds, cut, gather_slots, num_parts, scatter_slots, spread

SIZES = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(longest=st.integers(1, 3000), most=SIZES, least=SIZES)
def test_bounds_hold_for_all_shorter_rows(longest: int, most: int, least: int) -> None:
    lengths = torch.arange(longest + 1)
    parts = num_parts(lengths, most=most, least=least)
    expected = [max(1, min(most, math.ceil(math.sqrt(n)), math.ceil(n / least))) for n in range(longest + 1)]
    assert parts.tolist() == expected
    number, size = bounds(longest, most=most, least=least)
    assert parts.max() == number
    assert (-(-lengths // parts)).max() <= size <= longest
    assert number * size <= 2.5 * longest + 2 * number + least  # no more than a few times what there is


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4), most=SIZES, least=SIZES)
def test_blocks_hold_each_position_once_in_order(lengths: list[int], most: int, least: int) -> None:
    rows, longest = torch.tensor(lengths), max(1, *lengths)
    number, size = bounds(longest, most=most, least=least)
    parts = num_parts(rows, most=most, least=least)
    even = spread(rows, parts, most=number, size=size)
    fixed = cut(rows, most=-(-longest // least), size=min(least, longest))
    for positions, inside in (even, fixed):
        for row, length in enumerate(lengths):
            assert positions[row][inside[row]].tolist() == list(range(length))
    sizes = even[1].sum(dim=2)
    for row, count in enumerate(parts.tolist()):
        assert sizes[row, :count].max() - sizes[row, :count].min() <= 1
        assert not sizes[row, count:].any()
    assert (fixed[0][:, :, 0] % min(least, longest) == 0).all()


def test_slots_are_gathered_and_scattered() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64).requires_grad_()
    positions = torch.randint(5, (2, 3, 4, 2))
    found = gather_slots(x, positions)
    back = scatter_slots(found, positions, length=5)
    for b in range(2):
        for h in range(3):
            assert torch.equal(found[b, h], x[b, h, positions[b, h]])
            times = positions[b, h].flatten().bincount(minlength=5)
            torch.testing.assert_close(back[b, h], x[b, h] * times[:, None])
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, scatter_slots(torch.ones_like(found), positions, length=5))


@pytest.mark.parametrize(("length", "parts"), [(0, 1), (1, 1), (32, 1), (33, 2), (1024, 32), (8192, 91), (65536, 128)])
def test_parts_of_the_defaults(length: int, parts: int) -> None:
    assert num_parts(torch.tensor([length]), most=128, least=32).tolist() == [parts]
