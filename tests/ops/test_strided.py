"""Attention between positions that are a multiple of a stride apart."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_same_where_valid, masked_attention, random_states

from nat.ops.strided import root_stride, strided_attention


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 30), stride=st.integers(1, 35) | st.none())
def test_strided_attention_is_a_masked_softmax(length: int, stride: int | None) -> None:
    parts = [random_states(3, 2, length, 4, seed=seed) for seed in range(3)]
    lengths = torch.tensor([length, (length + 1) // 2, 1])
    seen = torch.zeros(3, 1, length, length, dtype=torch.bool)
    for row, end in enumerate(lengths.tolist()):
        step = math.ceil(math.sqrt(end)) if stride is None else stride
        for i in range(end):
            for j in range(end):
                seen[row, 0, i, j] = (i - j) % step == 0
    found = strided_attention(*parts, lengths, stride=stride)
    assert torch.isfinite(found).all()
    assert_same_where_valid(found, masked_attention(*parts, seen), lengths, parts)


def test_the_usual_stride_is_the_square_root_rounded_up() -> None:
    lengths = torch.tensor([1, 2, 4, 5, 9, 10, 8192, 10**12, 10**12 + 1])
    assert root_stride(lengths).tolist() == [1, 2, 2, 3, 3, 4, 91, 10**6, 10**6 + 1]
