"""Means of cells."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.ops.pooling import mean_of_cells


@given(st.lists(st.integers(0, 11), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 3))
def test_cells_are_those_of_a_loop(lengths: list[int], max_cells: int, padding: int) -> None:
    width = max(1, *lengths) + padding
    x = torch.arange(len(lengths) * width * 2, dtype=torch.float64).square().view(len(lengths), width, 2)
    means, valid = mean_of_cells(x, torch.tensor(lengths), max_cells=max_cells)
    assert means.shape == (len(lengths), max_cells, 2)
    for row, length in enumerate(lengths):
        size = max(1, -(-length // max_cells))
        cells = [x[row, start : min(start + size, length)].mean(dim=0) for start in range(0, length, size)]
        assert valid[row].tolist() == [True] * len(cells) + [False] * (max_cells - len(cells))
        for cell, mean in zip(cells, means[row], strict=False):
            torch.testing.assert_close(mean, cell)
        assert not means[row, len(cells) :].any()


def test_gradients() -> None:
    x = torch.randn(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lengths = torch.tensor([7, 4])
    assert torch.autograd.gradcheck(lambda x: mean_of_cells(x, lengths, max_cells=3)[0], (x,))
