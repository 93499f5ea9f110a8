"""Global tokens."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_same_where_valid, masked_attention, random_states

from nat.ops.global_tokens import global_attention
from nat.ops.window import Shared


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(("length", "window", "first"), [(70, 3, 4), (70, 0, 1), (9, 2, 12), (50, 60, 2), (40, 2, 0)])
def test_global_attention_is_a_masked_softmax(length: int, window: int, first: int, number: int) -> None:
    parts = [random_states(3, 2, length, 4, seed=seed) for seed in range(3)]
    extra = Shared(*(random_states(3, 2, number, 4, seed=seed) for seed in (3, 4)), torch.ones(3, number) > 0)
    lengths = torch.tensor([length, (length + 1) // 2, 1])
    i, j = torch.arange(length)[:, None], torch.arange(length)
    near = ((i - j).abs() <= window) | (i < first) | (j < first)
    near = (near & (j < lengths[:, None, None]))[:, None]
    found = global_attention(*parts, lengths, window=window, first=first, extra=extra if number else None)
    assert torch.isfinite(found).all()
    expected = masked_attention(
        parts[0],
        torch.cat((extra.keys, parts[1]), dim=2),
        torch.cat((extra.values, parts[2]), dim=2),
        torch.nn.functional.pad(near, (number, 0), value=True),
    )
    assert_same_where_valid(found, expected, lengths, [*parts, extra.keys, extra.values] if number else parts)
