"""Fertilities against loops that are written down from the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.fertility import from_attention, from_links

MANY = settings(deadline=None, max_examples=150)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=4)  # (T, S) of each row


def by_hand(links: set[tuple[int, int]], num_target: int, num_source: int) -> list[int]:
    """Fertilities of one sentence pair; links are (target, source)."""
    source_of = {}
    for t, s in sorted(links, reverse=True):
        source_of[t] = s  # the smallest source is written last
    counts = [0] * num_source
    for t in range(num_target):
        if source_of:
            nearest = min(source_of, key=lambda other, t=t: (abs(other - t), other))
            counts[source_of[nearest]] += 1
        else:
            counts[int((t + 0.5) * num_source / num_target)] += 1
    return counts


def padded(rows: list[int], width: int, generator: torch.Generator) -> Tensor:
    """(B, width) bool with rows[b] valid tokens at random columns: padding may be anywhere."""
    valid = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, length in enumerate(rows):
        valid[b, torch.randperm(width, generator=generator)[:length]] = True
    return valid


def laid_out(
    sizes: list[tuple[int, int]], density: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, list[set[tuple[int, int]]]]:
    """Random links, on padding too, the validity of both sides, and the same links as sets of token numbers."""
    generator = torch.Generator().manual_seed(seed)
    width_t, width_s = max(t for t, _ in sizes) + 1, max(s for _, s in sizes) + 2
    target = padded([t for t, _ in sizes], width_t, generator)
    source = padded([s for _, s in sizes], width_s, generator)
    links = torch.rand(len(sizes), width_t, width_s, generator=generator) < density
    sets = [{(t, s) for t, s in links[b][target[b]][:, source[b]].nonzero().tolist()} for b in range(len(sizes))]
    return links, target, source, sets


@MANY
@given(SIZES, st.sampled_from([0.0, 0.1, 0.3, 0.8]), SEEDS)
def test_links_count_as_by_hand(sizes: list[tuple[int, int]], density: float, seed: int) -> None:
    links, target, source, sets = laid_out(sizes, density, seed)
    found = from_links(links, target, source)
    assert found.dtype == torch.long
    assert not found[~source].any()
    for b, (num_target, num_source) in enumerate(sizes):
        assert found[b][source[b]].tolist() == by_hand(sets[b], num_target, num_source)
        assert found[b].sum() == num_target


@MANY
@given(SIZES, SEEDS)
def test_attention_counts_as_by_hand(sizes: list[tuple[int, int]], seed: int) -> None:
    _, target, source, _ = laid_out(sizes, 0.0, seed)
    weights = torch.rand(*target.shape, source.size(1), generator=torch.Generator().manual_seed(seed))
    weights = weights + 2.0 * ~source[:, None, :]  # padding would win if it were looked at
    found = from_attention(weights, target, source)
    assert not found[~source].any()
    assert found.sum(dim=1).tolist() == [t for t, _ in sizes]
    for b in range(len(sizes)):
        counts = [0] * source.size(1)
        for t in target[b].nonzero().flatten().tolist():
            counts[max(source[b].nonzero().flatten().tolist(), key=lambda s, b=b, t=t: weights[b, t, s])] += 1
        assert found[b].tolist() == counts


@pytest.mark.parametrize(
    ("links", "num_target", "num_source", "expected"),
    [
        ({(0, 0), (1, 2)}, 2, 3, [1, 0, 1]),
        ({(0, 2), (0, 1)}, 1, 3, [0, 1, 0]),  # several links: the first source
        ({(0, 0), (4, 1)}, 5, 2, [3, 2]),  # the middle one is equally near: the one before
        ({(3, 1)}, 5, 2, [0, 5]),
        (set(), 5, 2, [2, 3]),
        (set(), 2, 4, [0, 1, 0, 1]),
        (set(), 0, 2, [0, 0]),
    ],
)
def test_what_is_documented(links: set[tuple[int, int]], num_target: int, num_source: int, expected: list[int]) -> None:
    matrix = torch.zeros(1, num_target + 1, num_source, dtype=torch.bool)
    for t, s in links:
        matrix[0, t, s] = True
    target = torch.arange(num_target + 1)[None] < num_target
    assert from_links(matrix, target, torch.ones(1, num_source, dtype=torch.bool)).tolist() == [expected]


def test_a_row_without_source_tokens_has_zeros() -> None:
    target, source = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    assert from_links(torch.ones(1, 3, 2, dtype=torch.bool), target, source).tolist() == [[0, 0]]
    assert from_attention(torch.ones(1, 3, 2), target, source).tolist() == [[0, 0]]
