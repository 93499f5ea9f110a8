"""Attention to sorted blocks as a kind of self-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.sinkhorn import SinkhornAttention

VALID = torch.arange(9) < torch.tensor([9, 6, 2, 1])[:, None]


def make(**options: Any) -> SinkhornAttention:
    torch.manual_seed(0)
    config = parse(SinkhornAttention.Config, {"block_size": 2, **options})
    return SinkhornAttention(config, dim=8, num_heads=2).double().eval()


def states(length: int = 9, seed: int = 1) -> Tensor:
    return torch.randn(4, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options", [{"num_blocks": 1}, {"block_size": 9}, {"block_size": 9, "sortcut": 2}, {"num_blocks": 1, "sortcut": 1}]
)
def test_one_block_is_full_attention(options: dict[str, Any]) -> None:
    attention, x = make(**options), states().requires_grad_()
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({name: p for name, p in attention.state_dict().items() if name.startswith("project")})
    found, expected = attention(x, x, VALID), full(x, x, VALID)
    torch.testing.assert_close(found[VALID], expected[VALID], rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(y[VALID].square().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


EACH_FORM = pytest.mark.parametrize("options", [{}, {"sortcut": 2}, {"causal": True}, {"iterations": 1}])


@EACH_FORM
def test_a_row_does_not_depend_on_its_batch_or_on_padding(options: dict[str, Any]) -> None:
    attention, x = make(**options), states().masked_fill(~VALID[:, :, None], 7.0)
    together = attention(x, x, VALID)
    for row, length in enumerate(VALID.sum(dim=1).tolist()):
        part = x[row : row + 1, :length]
        torch.testing.assert_close(attention(part, part, None)[0], together[row, :length], rtol=0, atol=1e-12)


@EACH_FORM
def test_gradients(options: dict[str, Any]) -> None:
    attention, x = make(**options), states(6)[:2].requires_grad_()
    valid = torch.arange(6) < torch.tensor([6, 5])[:, None]
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid)[valid], (x,), fast_mode=True)
    attention(x, x, valid).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_causal_sees_nothing_of_what_comes_later() -> None:
    attention, x = make(causal=True), states()[:1].requires_grad_()
    found = attention(x, x, None)
    for position in range(9):
        (gradient,) = torch.autograd.grad(found[0, position].square().sum(), x, retain_graph=True)
        assert not gradient[0, position + 1 :].any()
        part = x[:, : position + 1]
        torch.testing.assert_close(attention(part, part, None), found[:, : position + 1], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found[0, 8].square().sum(), x)
    assert (gradient[0].abs().sum(dim=1) > 0).all()  # all that is earlier


def test_without_causal_later_positions_are_seen() -> None:
    attention, x = make(), states()[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(attention(x, x, None)[0, 0].square().sum(), x)
    assert gradient[0, 8].abs().sum() > 0


def test_only_causal_blocks_limit_the_length() -> None:
    assert make(causal=True, num_blocks=5).max_length == 10
    attention = make(num_blocks=5)
    assert attention.max_length is None
    x = states(50)
    assert attention(x, x, None).shape == x.shape


def test_noise_and_dropout_are_for_training() -> None:
    x, plain = states(), make()
    for options in ({"noise": 1.0}, {"dropout": 0.5}):
        attention = make(**options)
        assert torch.equal(attention(x, x, VALID), plain(x, x, VALID))
        assert not torch.equal(attention.train()(x, x, VALID), attention(x, x, VALID))


def test_a_low_temperature_sorts_harder() -> None:
    x = states()
    largest = []
    for temperature in (1.0, 0.1, 0.01):
        attention = make(temperature=temperature)
        positions, inside = attention.blocks(torch.full((4,), 9), 9)
        largest.append(attention.order(x, positions, inside).max(dim=-1).values.mean().item())
    assert largest == sorted(largest)
    assert largest[-1] > 0.8 > 0.6 > largest[0]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"num_blocks": 0}, "num_blocks=0: must be at least 1"),
        ({"block_size": 0}, "block_size=0: must be at least 1"),
        ({"iterations": 0}, "iterations=0: must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0: must be more than 0"),
        ({"noise": -0.1}, "noise=-0.1: must be at least 0"),
        ({"sortcut": 0}, "sortcut=0: must be at least 1"),
        ({"sortcut": 3, "num_blocks": 2}, "sortcut=3: must be at most num_blocks=2"),
        ({"sortcut": 2, "causal": True}, "sortcut=2: the first sorted blocks look ahead; null with causal=true"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and less than 1"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(SinkhornAttention.Config, option)
