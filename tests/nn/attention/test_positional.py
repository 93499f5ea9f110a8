"""Positional attention and attention to the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.nn.attention.full import FullAttention
from nat.nn.attention.positional import OthersAttention, PositionalAttention
from nat.nn.embedding import sinusoids

KINDS = pytest.mark.parametrize("kind", [OthersAttention, PositionalAttention])
VALID = torch.arange(5) < torch.tensor([5, 3, 2, 1])[:, None]


def make(kind: type[FullAttention]) -> FullAttention:
    torch.manual_seed(0)
    attention = kind(FullAttention.Config(), dim=8, num_heads=2).double()
    torch.nn.init.normal_(attention.project_in.bias)
    torch.nn.init.normal_(attention.project_out.bias)
    return attention


def states(length: int = 5) -> Tensor:
    return torch.randn(4, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(attention: FullAttention, looks: Tensor, sees: Tensor, values: Tensor, allowed: list[list[int]]) -> Tensor:
    """One row, head by head and query by query. looks, sees: inputs of queries and keys (L, 8)."""
    weights, biases = attention.project_in.weight.chunk(3), attention.project_in.bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((looks, sees, values), weights, biases, strict=True))
    mixed = torch.zeros_like(values)
    for head in (slice(0, 4), slice(4, 8)):
        for i, keys in enumerate(allowed):
            if keys:
                shares = torch.softmax(k[keys, head] @ q[i, head] / 4**0.5, dim=0)
                mixed[i, head] = shares @ v[keys, head]
    return mixed @ attention.project_out.weight.T + attention.project_out.bias


def test_attention_to_the_others_is_that_of_a_loop() -> None:
    attention, x = make(OthersAttention), states()
    found = attention(x, x, VALID)
    for row, length in enumerate([5, 3, 2, 1]):
        allowed = [[j for j in range(length) if j != i] for i in range(length)]
        part = x[row, :length]
        assert torch.allclose(found[row, :length], by_hand(attention, part, part, part, allowed), rtol=0, atol=1e-12)


def test_positional_attention_is_that_of_a_loop() -> None:
    attention, x = make(PositionalAttention), states()
    found = attention(x, x, VALID)
    for row, length in enumerate([5, 3, 2, 1]):
        places = sinusoids(length, 8).double()
        expected = by_hand(attention, places, places, x[row, :length], [list(range(length))] * length)
        assert torch.allclose(found[row, :length], expected, rtol=0, atol=1e-12)


def test_a_position_that_has_no_other_receives_the_output_bias() -> None:
    attention, x = make(OthersAttention), states(1).requires_grad_()
    for valid in (None, torch.ones(4, 1, dtype=torch.bool)):
        found = attention(x, x, valid)
        assert torch.equal(found, attention.project_out.bias.expand(4, 1, 8))
        (gradient,) = torch.autograd.grad(found.sum(), x)
        assert torch.equal(gradient, torch.zeros_like(x))


def test_a_position_does_not_see_itself() -> None:
    attention, x = make(OthersAttention), states().requires_grad_()
    found = attention(x, x, VALID)
    for position in range(2):  # both are valid in row 2
        (gradient,) = torch.autograd.grad(found[2, position].square().sum(), x, retain_graph=True)
        # The query is made of the state itself; with one key to look at, it has no say either.
        assert torch.allclose(gradient[2, position], torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-12)
        assert gradient[2, 1 - position].abs().sum() > 0


@KINDS
def test_padding_changes_nothing_and_receives_no_gradient(kind: type[FullAttention]) -> None:
    attention, x = make(kind), states()
    short = x[1:2, :3]
    junk = x.masked_fill(~VALID[:, :, None], 7.0).requires_grad_()
    found = attention(junk, junk, VALID)
    assert torch.allclose(found[1, :3], attention(short, short, None)[0], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((found * VALID[:, :, None]).square().sum(), junk)
    assert torch.isfinite(gradient).all()
    assert (gradient[~VALID] == 0).all()


@KINDS
def test_gradients(kind: type[FullAttention]) -> None:
    attention, x = make(kind), states(3)[:2].requires_grad_()
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid), (x,))
    attention(x, x, valid).square().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@KINDS
def test_bf16_is_close_to_fp32(kind: type[FullAttention]) -> None:
    attention, x = make(kind).float(), states().float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, x, VALID)
    assert torch.allclose(rough.float(), attention(x, x, VALID), atol=0.1)
