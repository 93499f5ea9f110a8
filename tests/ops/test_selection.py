"""`lowest` against sorting by hand."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.ops.selection import lowest

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
