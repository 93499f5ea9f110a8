"""Windows, dilated windows, and global tokens with projections of their own."""

from __future__ import annotations

import pytest
import torch
from oracles import masked_attention

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.longformer import LongformerAttention

VALID = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def make(**options: int | float) -> LongformerAttention:
    torch.manual_seed(0)
    return LongformerAttention(parse(LongformerAttention.Config, options), dim=8, num_heads=4).double()


def states(length: int = 9) -> torch.Tensor:
    return torch.randn(3, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("options", "dilated"), [({}, 2), ({"num_dilated_heads": 1, "dilation": 3}, 1)])
def test_heads_differ_and_global_tokens_have_their_projections(options: dict[str, int], dilated: int) -> None:
    attention, x = make(window=2, num_tokens=2, **options), states()
    i, j = torch.arange(9)[:, None], torch.arange(9)
    step = options.get("dilation", 2)
    plain = (i - j).abs() <= 2
    wide = ((i - j).abs() <= 2 * step) & ((i - j) % step == 0)
    seen = torch.stack([plain] * (4 - dilated) + [wide] * dilated) | (j < 2)
    expected = masked_attention(*attention.project(x), seen & VALID[:, None, None])
    own = (attention.split(part) for part in attention.project_global(x).chunk(3, dim=-1))
    rows = masked_attention(*own, VALID[:, None, None].expand(-1, -1, 9, -1))
    expected = torch.cat((rows[:, :, :2], expected[:, :, 2:]), dim=2)
    torch.testing.assert_close(attention(x, x, VALID)[VALID], attention.merge(expected)[VALID])


def test_with_all_tokens_global_and_equal_projections_it_is_full_attention() -> None:
    attention = make(num_tokens=9)
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=4).double()
    attention.project_global.load_state_dict(attention.project_in.state_dict())
    full.load_state_dict({key: value for key, value in attention.state_dict().items() if "global" not in key})
    x = states()
    torch.testing.assert_close(attention(x, x, VALID)[VALID], full(x, x, VALID)[VALID])


def test_gradients() -> None:
    attention, x = make(window=1), states()[:2, :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, x, VALID[1:, :4])[VALID[1:, :4]], (x,))


def test_all_heads_may_be_dilated() -> None:
    attention, x = make(window=1, num_dilated_heads=4), states(20)
    found = attention(x, x, None)
    changed = x.clone()
    changed[:, 11] += 1.0
    assert torch.equal(attention(changed, changed, None)[:, 10], found[:, 10])  # its neighbour is not seen
    assert not torch.equal(attention(changed, changed, None)[:, 9], found[:, 9])


def test_dropout_is_for_training() -> None:
    attention, usual, x = make(dropout=0.5, num_tokens=2), make(num_tokens=2), states()
    apart = (attention(x, x, None) - usual(x, x, None)).abs().amax(dim=-1) > 1e-9
    assert apart.all()
    torch.testing.assert_close(attention.eval()(x, x, None), usual(x, x, None))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"attention\.num_dilated_heads=5: must be at most num_heads=4"):
        make(num_dilated_heads=5)
    with pytest.raises(ConfigError, match="dilation=1: must be at least 2"):
        make(dilation=1)
