"""Local heads and strided heads."""

from __future__ import annotations

import pytest
import torch
from oracles import masked_attention

from nat.config import build, parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.strided import StridedAttention

VALID = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def make(*, num_heads: int = 4, **options: int | float) -> StridedAttention:
    torch.manual_seed(0)
    return StridedAttention(parse(StridedAttention.Config, options), dim=8, num_heads=num_heads).double()


def states() -> torch.Tensor:
    return torch.randn(3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_with_stride_1_and_a_long_window_it_is_full_attention() -> None:
    strided = make(stride=1, window=8)
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=4).double()
    full.load_state_dict(strided.state_dict())
    x = states()
    torch.testing.assert_close(strided(x, x, VALID)[VALID], full(x, x, VALID)[VALID])


@pytest.mark.parametrize("options", [{"num_local_heads": 1, "stride": 4}, {}])
def test_heads_see_a_window_or_a_stride(options: dict[str, int]) -> None:
    strided = make(window=1, **options)
    x, number = states(), options.get("num_local_heads", 2)
    i, j = torch.arange(9)[:, None], torch.arange(9)
    stride = options.get("stride", 3)  # the square root of 9
    near, far = (i - j).abs() <= 1, (i - j) % stride == 0
    seen = torch.stack([near] * number + [far] * (4 - number)).expand(3, -1, -1, -1)
    torch.testing.assert_close(strided(x, x, None), strided.merge(masked_attention(*strided.project(x), seen)))


def test_two_layers_lead_from_any_position_to_any_other() -> None:
    strided = make(window=2)
    x = torch.randn(1, 25, 8, dtype=torch.float64, requires_grad=True)
    found = strided(x, x, None)
    again = strided(found, found, None)
    (gradient,) = torch.autograd.grad(again[0, 12].square().sum(), x)
    assert (gradient[0].abs().sum(dim=-1) > 0).all()


def test_gradients() -> None:
    strided, x = make(window=1, stride=2), states()[:2, :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: strided(x, x, VALID[1:, :4])[VALID[1:, :4]], (x,))


def test_dropout_is_for_both_groups_and_for_training() -> None:
    strided, x = make(dropout=0.5), states()
    usual = make()
    torch.manual_seed(0)
    strided.project_out = usual.project_out = torch.nn.Identity()  # type: ignore[assignment]
    apart = (strided(x, x, None) - usual(x, x, None)).abs().amax(dim=(0, 1)) > 1e-9
    assert apart.all()
    torch.testing.assert_close(strided.eval()(x, x, None), usual(x, x, None))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="num_heads=1: strided attention needs 2 at least, local and strided heads"):
        make(num_heads=1)
    assert make(num_heads=2).num_local == 1
    with pytest.raises(ConfigError, match=r"attention\.num_local_heads=4: must be less than num_heads=4"):
        make(num_local_heads=4)
    with pytest.raises(ConfigError, match="stride=0: must be at least 1"):
        build({"_target_": "nat.nn.attention.strided.StridedAttention", "stride": 0})
