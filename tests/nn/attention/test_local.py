"""A window around each position."""

from __future__ import annotations

import pytest
import torch

from nat.config import Component, parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.local import LocalAttention

VALID = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def make(window: int, *, dropout: float = 0.0) -> tuple[LocalAttention, FullAttention]:
    """With the same weights."""
    torch.manual_seed(0)
    local = LocalAttention(LocalAttention.Config(window=window, dropout=dropout), dim=8, num_heads=2).double()
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict(local.state_dict())
    return local, full


def states() -> torch.Tensor:
    return torch.randn(3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_window_as_long_as_the_sequence_is_full_attention() -> None:
    local, full = make(8)
    x = states()
    torch.testing.assert_close(local(x, x, VALID)[VALID], full(x, x, VALID)[VALID])
    torch.testing.assert_close(local(x, x, None), full(x, x, None))


def test_a_position_sees_what_its_window_holds_and_nothing_else() -> None:
    local, full = make(2)
    x = states()
    found = local(x, x, None)
    for i in range(9):
        part = x[:, max(0, i - 2) : i + 3]
        torch.testing.assert_close(found[:, i], full(part, part, None)[:, i - max(0, i - 2)])


def test_gradients() -> None:
    local, _ = make(2)
    x = states()[:2, :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local(x, x, VALID[1:, :4])[VALID[1:, :4]], (x,))


def test_dropout_is_for_training() -> None:
    local, full = make(8, dropout=0.5)
    x = states()
    torch.manual_seed(0)
    assert not torch.allclose(local.train()(x, x, None), full(x, x, None))
    torch.testing.assert_close(local.eval()(x, x, None), full(x, x, None))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="window=0: must be at least 1"):
        parse(Component, {"_target_": "nat.nn.attention.local.LocalAttention", "window": 0})
