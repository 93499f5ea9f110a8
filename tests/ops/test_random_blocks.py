"""A window of blocks, random blocks, shared keys."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_same_where_valid, masked_attention, random_states

from nat.ops.random_blocks import random_block_attention, random_blocks
from nat.ops.window import Shared


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def eligible(block: int, count: int, *, reach: int, first: int) -> set[int]:
    return set(range(first, count)) - set(range(block - reach, block + reach + 1))


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 9),
    reach=st.integers(0, 3),
    first=st.integers(0, 3),
    number=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_random_blocks_are_different_and_none_that_is_seen_anyway(
    count: int, reach: int, first: int, number: int, seed: int
) -> None:
    counts = torch.tensor([count, max(1, count - 2)])
    chosen, there = random_blocks(uniform(2, count, number, seed=seed), counts, reach=reach, first=first)
    for row, blocks in enumerate(counts.tolist()):
        for head in range(2):
            for block in range(blocks):
                allowed = eligible(block, blocks, reach=reach, first=first)
                found = chosen[row, head, block][there[row, head, block]].tolist()
                assert len(set(found)) == len(found) == min(number, len(allowed))
                assert set(found) <= allowed


def test_every_set_of_blocks_is_as_probable() -> None:
    chosen, there = random_blocks(uniform(6000, 7, 2), torch.tensor([7]), reach=1, first=1)
    assert there[0, :, 3].all()
    sets = Counter(frozenset(pair) for pair in chosen[0, :, 3].tolist())  # of 1, 5, 6
    assert sets.keys() == {frozenset(pair) for pair in ((1, 5), (1, 6), (5, 6))}
    assert min(sets.values()) > 1850


@pytest.mark.parametrize(
    ("length", "width", "reach", "skip", "number"),
    [(40, 4, 1, 0, 0), (45, 4, 1, 6, 3), (33, 8, 0, 8, 1), (10, 16, 2, 2, 2), (61, 5, 3, 0, 2)],
)
def test_random_block_attention_is_a_masked_softmax(
    length: int, width: int, reach: int, skip: int, number: int
) -> None:
    parts = [random_states(3, 2, length, 4, seed=seed) for seed in range(3)]
    shared = Shared(*(random_states(3, 2, number, 4, seed=seed) for seed in (3, 4)), torch.ones(3, number) > 0)
    lengths = torch.tensor([length, (length + 1) // 2, 1])
    numbers = uniform(2, -(-length // width), 2)
    chosen, there = random_blocks(numbers, -(-lengths // width), reach=reach, first=skip // width)
    seen = torch.zeros(3, 2, length, length, dtype=torch.bool)
    for row, end in enumerate(lengths.tolist()):
        for head in range(2):
            for i in range(end):
                drawn = chosen[row, head, i // width][there[row, head, i // width]].tolist()
                for j in range(skip, end):
                    seen[row, head, i, j] = abs(i // width - j // width) <= reach or j // width in drawn
    found = random_block_attention(*parts, lengths, width=width, reach=reach, uniform=numbers, shared=shared, skip=skip)
    assert torch.isfinite(found).all()
    common = torch.ones(3, 2, length, number, dtype=torch.bool)
    expected = masked_attention(
        parts[0],
        torch.cat((shared.keys, parts[1]), dim=2),
        torch.cat((shared.values, parts[2]), dim=2),
        torch.cat((common, seen), dim=-1),
    )
    assert_same_where_valid(found, expected, lengths, [*parts, shared.keys, shared.values] if number else parts)
