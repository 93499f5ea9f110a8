"""Blocks of a sequence, and attention between them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.blocks import (
    attend,
    attend_blocks,
    from_blocks,
    neighbourhoods,
    row_lengths,
    side_by_side,
    to_blocks,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 9), width=st.integers(1, 6))
def test_blocks_are_slices_and_come_back_together(length: int, width: int) -> None:
    x = numbers(2, 3, length, 4)
    blocks = to_blocks(x, width)
    assert blocks.shape == (2, 3, math.ceil(length / width), width, 4)
    for c in range(blocks.size(2)):
        part = x[:, :, c * width : (c + 1) * width]
        assert torch.equal(blocks[:, :, c, : part.size(2)], part)
        assert not blocks[:, :, c, part.size(2) :].any()
    assert torch.equal(from_blocks(blocks, length), x)


def test_blocks_of_a_projection_are_no_copy() -> None:
    x = numbers(2, 6, 3 * 4).unflatten(-1, (3, 4)).transpose(1, 2)
    assert to_blocks(x, 3).data_ptr() == x.data_ptr()


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 5), reach=st.integers(0, 3))
def test_neighbourhoods_are_slices_with_zeros_beyond_the_ends(count: int, reach: int) -> None:
    blocks = numbers(2, 3, count, 2, 4)
    found = side_by_side(neighbourhoods(blocks, reach))
    assert found.shape == (2, 3, count, (2 * reach + 1) * 2, 4)
    for c in range(count):
        for offset in range(-reach, reach + 1):
            start = 2 * (offset + reach)
            inside = 0 <= c + offset < count
            expected = blocks[:, :, c + offset] if inside else torch.zeros(2, 3, 2, 4, dtype=torch.float64)
            assert torch.equal(found[:, :, c, start : start + 2], expected)


@pytest.mark.parametrize("masks", [(2, 1, 3), (1, 1, 3), (2, 3, 1), (1, 3, 3)])
def test_attention_of_blocks_is_a_masked_softmax(masks: tuple[int, int, int]) -> None:
    queries, keys, values = numbers(2, 3, 5, 3, 4), numbers(2, 3, 5, 6, 4, seed=1), numbers(2, 3, 5, 6, 4, seed=2)
    rows, heads, width = masks
    seen = numbers(rows, heads, 5, width, 6, seed=3) > 0
    seen[..., 0] = True
    parts = [part.requires_grad_() for part in (queries, keys, values)]
    found = attend_blocks(*parts, seen)
    scores = (queries @ keys.transpose(3, 4) / 2).masked_fill(~seen, -torch.inf)
    expected = scores.softmax(dim=-1) @ values
    torch.testing.assert_close(found, expected)
    weight = numbers(2, 3, 5, 3, 4, seed=4)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), parts),
        torch.autograd.grad((expected * weight).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_weights_are_float32_under_autocast() -> None:
    queries = numbers(1, 2, 3, 4).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(queries, queries, queries)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, attend(*[queries.float()] * 3))


def test_dropout_is_on_the_weights() -> None:
    torch.manual_seed(0)
    found = attend(numbers(1, 1, 200, 4), numbers(1, 1, 1, 4), torch.ones(1, 1, 1, 4).double(), dropout=0.5)
    assert {round(value, 6) for value in found[0, 0, :, 0].tolist()} == {0.0, 2.0}


def test_a_row_has_the_length_of_its_tokens_and_never_none() -> None:
    valid = torch.arange(4) < torch.tensor([4, 2, 0])[:, None]
    assert row_lengths(numbers(3, 1, 4, 2), valid).tolist() == [4, 2, 1]
    assert row_lengths(numbers(3, 1, 4, 2), None).tolist() == [4, 4, 4]
