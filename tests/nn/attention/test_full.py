"""The weights that attention mixes by."""

from __future__ import annotations

import pytest
import torch

from nat.nn.attention.full import FullAttention

VALID = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]


@pytest.mark.parametrize("valid", [None, VALID])
def test_weights_are_those_of_the_fast_path(valid: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    attention = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    x, context = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
    queries, (keys, values) = attention.queries(x), attention.keys_values(context)
    weights = attention.weights(queries, keys, valid)
    assert weights.shape == (3, 2, 4, 5)
    torch.testing.assert_close(attention.merge(weights @ values), attention(x, context, valid))
    if valid is not None:
        assert not weights.transpose(1, 3)[~valid].any()
