"""Dropout with cheap masks: the statistics of torch's."""

from __future__ import annotations

import pytest
import torch

from nat.nn.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_and_the_scale(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    out = Dropout(rate)(torch.ones(1001, 301, dtype=dtype))
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.004)
    assert kept.float().mean(dim=0).std().item() == pytest.approx((rate * (1 - rate) / 1001) ** 0.5, rel=0.2)
    assert out[kept].unique().numel() == 1
    assert out[kept][0].item() == pytest.approx(1 / (1 - rate), rel=1e-2 if dtype is torch.bfloat16 else 1e-3)
    pairs = (kept[:, 1:] & kept[:, :-1]).float().mean().item()  # neighbours of one random number are independent
    assert pairs == pytest.approx((1 - rate) ** 2, abs=0.005)


def test_a_gradient_passes_where_an_entry_was_kept() -> None:
    x = torch.ones(40, 5, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_evaluation_and_a_rate_of_zero_change_nothing() -> None:
    x = torch.randn(7, 3)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_a_seed_gives_the_same_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(33, 7)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_almost_all_may_be_dropped() -> None:
    assert (Dropout(1 - 1e-9)(torch.ones(100)) == 0).all()
