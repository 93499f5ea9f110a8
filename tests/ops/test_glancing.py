"""How much of the reference is revealed, and where."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.ops.glancing import glance

POSITION = st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans())
ROWS = st.lists(st.lists(POSITION, min_size=7, max_size=7), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([Fraction(n, 8) for n in range(9)]), st.integers(0, 99))
def test_the_number_is_the_rounded_share_of_the_mistakes(
    rows: list[list[tuple[int, int, bool]]], ratio: Fraction, seed: int
) -> None:
    predicted, reference, valid = (torch.tensor([[position[k] for position in row] for row in rows]) for k in range(3))
    noise = torch.rand(predicted.shape, generator=torch.Generator().manual_seed(seed))
    shown = glance(predicted, reference, valid, noise, ratio=float(ratio))
    assert not (shown & ~valid).any()
    for count, row in zip(shown.sum(dim=1).tolist(), rows, strict=True):
        wrong = sum(a != b for a, b, keep in row if keep)
        assert count == math.floor(ratio * wrong + Fraction(1, 2))


def test_right_and_wrong_positions_are_revealed_equally_often() -> None:
    reference = torch.zeros(8000, 6, dtype=torch.long)
    predicted = torch.tensor([1, 0, 1, 0, 1, 1]).expand(8000, -1)
    valid = torch.tensor([True] * 5 + [False]).expand(8000, -1)
    noise = torch.rand(8000, 6, generator=torch.Generator().manual_seed(0))
    share = glance(predicted, reference, valid, noise, ratio=0.5).double().mean(dim=0)  # round(0.5 * 3) = 2 of 5
    assert torch.allclose(share, torch.tensor([0.4] * 5 + [0.0], dtype=torch.double), atol=0.02)
