"""Phrases on a canvas, against enumeration."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.ops.placement import best_placement, window_sums


def enumerated(scores: torch.Tensor, lengths: list[int]) -> float:
    """The highest sum over all beginnings of one row."""
    length = scores.size(1)
    best = -math.inf
    real = [c for c, n in enumerate(lengths) if n]
    for starts in itertools.product(range(length), repeat=len(real)):
        ends = [start + lengths[c] for c, start in zip(real, starts, strict=True)]
        if all(end <= start for end, start in zip(ends, starts[1:], strict=False)) and (not ends or ends[-1] <= length):
            best = max(best, sum(scores[c, start].item() for c, start in zip(real, starts, strict=True)))
    return best


@given(st.integers(1, 6), st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=3))
def test_the_best_placement_is_that_of_enumeration(length: int, lengths: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(length)
    values = torch.randn((len(lengths), length, 3, 3), generator=generator, dtype=torch.float64)
    counts = torch.tensor(lengths)
    valid = torch.arange(3) < counts[:, :, None]
    scores = window_sums(values, valid)
    starts, total = best_placement(scores, counts)
    for row, own in enumerate(lengths):
        best = enumerated(scores[row], own)
        assert math.isclose(total[row].item(), best, abs_tol=1e-9) or total[row].item() == best
        if math.isfinite(best):
            taken = [p for c, n in enumerate(own) for p in range(starts[row, c], starts[row, c] + n)]
            assert len(set(taken)) == len(taken) == sum(own)
            assert taken == sorted(taken)
            found = sum(scores[row, c, starts[row, c]].item() for c, n in enumerate(own) if n)
            assert math.isclose(found, best, abs_tol=1e-9)


def test_a_window_sum_adds_the_phrases_tokens_one_after_another() -> None:
    values = torch.arange(2 * 3 * 1 * 2, dtype=torch.float64).view(2, 3, 1, 2)
    valid = torch.tensor([[[True, True]], [[True, False]]])
    sums = window_sums(values, valid)
    assert sums[0, 0].tolist() == [0 + 3, 2 + 5, -math.inf]
    assert sums[1, 0].tolist() == [6, 8, 10]
