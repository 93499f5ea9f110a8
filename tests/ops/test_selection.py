"""`lowest` against sorting by hand."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.ops.selection import dense_ranks, lowest, random_masks

KEY = st.sampled_from([-torch.inf, -3.0, -0.5, 0.0, 0.25, 2.0])  # few values, so that many are equal
ROW = st.tuples(st.lists(st.tuples(KEY, st.booleans()), min_size=5, max_size=5), st.integers(0, 6))


@settings(deadline=None, max_examples=50)
@given(st.lists(ROW, min_size=1, max_size=4))
def test_it_is_a_sort_by_key_and_column(rows: list[tuple[list[tuple[float, bool]], int]]) -> None:
    keys = torch.tensor([[key for key, _ in row] for row, _ in rows])
    valid = torch.tensor([[keep for _, keep in row] for row, _ in rows])
    found = lowest(keys, torch.tensor([count for _, count in rows]), valid)
    for chosen, (row, count) in zip(found, rows, strict=True):
        ranked = sorted((key, column) for column, (key, keep) in enumerate(row) if keep)
        assert chosen.nonzero().flatten().tolist() == sorted(column for _, column in ranked[:count])


def test_uniform_noise_chooses_every_position_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    valid = torch.tensor([True, True, False, True, True]).expand(8000, -1)
    chosen = lowest(torch.rand(8000, 5, generator=generator), torch.full((8000,), 3), valid)
    share = chosen.double().mean(dim=0)
    assert torch.allclose(share, torch.tensor([0.75, 0.75, 0, 0.75, 0.75], dtype=torch.double), atol=0.02)


def test_the_share_of_masks_is_rounded_up() -> None:
    valid = torch.arange(4) < torch.tensor([4, 4, 4, 4, 3, 1])[:, None]
    share = torch.tensor([0.001, 0.2499, 0.2501, 0.999, 0.5, 0.001])
    noise = torch.tensor([0.4, 0.1, 0.3, 0.2]).expand(6, -1)
    found = random_masks(valid, share, noise)
    assert found.sum(dim=1).tolist() == [1, 1, 2, 4, 2, 1]
    assert found[2].tolist() == [False, True, False, True]
    assert not (found & ~valid).any()


def test_dense_ranks_count_different_keys() -> None:
    keys = torch.tensor([[5, 2, 9, 2, 7], [1, 1, 1, 1, 1], [3, 2, 1, 0, 4]])
    where = torch.tensor([[True, True, True, True, False], [True] * 5, [False] * 5])
    assert dense_ranks(keys, where).tolist() == [[2, 1, 3, 1, 0], [1] * 5, [0] * 5]
