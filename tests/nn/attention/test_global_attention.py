"""Global tokens of the sequence's own, and extra ones."""

from __future__ import annotations

import pytest
import torch
from oracles import masked_attention

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.global_tokens import GlobalAttention

VALID = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def make(**options: int | float) -> GlobalAttention:
    torch.manual_seed(0)
    return GlobalAttention(parse(GlobalAttention.Config, options), dim=8, num_heads=2).double()


def states(length: int = 9) -> torch.Tensor:
    return torch.randn(3, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{"num_tokens": 9, "window": 0}, {"num_tokens": 1, "window": 8}])
def test_with_all_tokens_global_or_a_long_window_it_is_full_attention(options: dict[str, int]) -> None:
    attention = make(**options)
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict(attention.state_dict())
    x = states()
    torch.testing.assert_close(attention(x, x, VALID)[VALID], full(x, x, VALID)[VALID])
    torch.testing.assert_close(attention(x, x, None), full(x, x, None))


def test_what_is_global_joins_all_positions_in_two_layers() -> None:
    for options in ({"num_tokens": 1}, {"num_tokens": 0, "num_extra": 1}):
        attention = make(window=1, **options)
        x = states(40).requires_grad_()
        once = attention(x, x, None)
        twice = attention(once, once, None)
        (gradient,) = torch.autograd.grad(twice[0, 30].square().sum(), x)
        assert (gradient[0].abs().sum(dim=-1) > 0).all()


def test_extra_tokens_look_and_are_looked_at() -> None:
    attention = make(num_tokens=0, num_extra=3, window=1)
    assert attention.extra is not None
    x, tokens = states(), attention.extra.tokens
    own, (queries, keys, values) = attention.project(tokens.expand(3, -1, -1)), attention.project(x)
    seen = torch.cat((torch.ones(3, 1, 3, 3), VALID[:, None, None].expand(-1, -1, 3, -1)), dim=-1).bool()
    taken = masked_attention(own[0], torch.cat((own[1], keys), dim=2), torch.cat((own[2], values), dim=2), seen)
    became = attention.project(attention.extra.norm(tokens + attention.merge(taken)))
    near = (torch.arange(9)[:, None] - torch.arange(9)).abs() <= 1
    near = torch.nn.functional.pad((near & VALID[:, None])[:, None], (3, 0), value=True)
    expected = masked_attention(
        queries, torch.cat((became[1], keys), dim=2), torch.cat((became[2], values), dim=2), near
    )
    torch.testing.assert_close(attention(x, x, VALID)[VALID], attention.merge(expected)[VALID])


def test_gradients() -> None:
    attention, x = make(num_tokens=1, num_extra=2, window=1), states()[:2, :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, x, VALID[1:, :4])[VALID[1:, :4]], (x,))
    attention(x, x, VALID[1:, :4]).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_padding_changes_nothing_beside_extra_tokens() -> None:
    attention, x = make(num_tokens=2, num_extra=2, window=1), states()
    junk = x.masked_fill(~VALID[:, :, None], 50.0)
    torch.testing.assert_close(attention(junk, junk, VALID)[VALID], attention(x, x, VALID)[VALID])
    short = x[1:2, :4]
    torch.testing.assert_close(attention(x, x, VALID)[1, :4], attention(short, short, None)[0])


def test_dropout_is_for_training() -> None:
    x = states()
    for options in ({"num_tokens": 2}, {"num_extra": 2}):
        attention, usual = make(dropout=0.5, **options), make(**options)
        assert not torch.allclose(attention(x, x, None), usual(x, x, None))
        torch.testing.assert_close(attention.eval()(x, x, None), usual(x, x, None))


def test_refusals() -> None:
    with pytest.raises(
        ConfigError, match="num_tokens=0: needs num_extra; without global tokens it is the kind `local`"
    ):
        make(num_tokens=0)
