"""Kinds by groups of heads, and by layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nat.config import Component, parse
from nat.errors import ConfigError
from nat.nn.attention.base import Attention, attention_stack
from nat.nn.attention.full import FullAttention
from nat.nn.attention.local import LocalAttention
from nat.nn.attention.mixed import MixedAttention

FULL: dict[str, Any] = {"_target_": "nat.nn.attention.full.FullAttention"}
LOCAL: dict[str, Any] = {"_target_": "nat.nn.attention.local.LocalAttention", "window": 1}
VALID = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]


def stack(node: dict[str, Any], *, num_layers: int = 2, num_heads: int = 4) -> list[Attention]:
    torch.manual_seed(0)
    return attention_stack(parse(Component, node, "attention"), num_layers=num_layers, dim=8, num_heads=num_heads)


def mixed(*groups: tuple[dict[str, Any], int]) -> dict[str, Any]:
    parts = [{"attention": kind, "num_heads": number} for kind, number in groups]
    return {"_target_": "nat.nn.attention.mixed.MixedAttention", "groups": parts}


def layered(*kinds: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "nat.nn.attention.mixed.LayeredAttention", "layers": list(kinds)}


def as_one(attention: MixedAttention) -> FullAttention:
    """Full attention with the weights of all groups."""
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=4)
    groups = [group for group in attention.groups if isinstance(group, FullAttention | LocalAttention)]
    parts = [[part.chunk(3) for part in (g.project_in.weight, g.project_in.bias)] for g in groups]

    def together(number: int) -> Tensor:
        """Queries of all groups, their keys, their values; of the weights or of the biases."""
        return torch.cat([part[number][i] for i in range(3) for part in parts])

    with torch.no_grad():
        full.project_in.weight.copy_(together(0))
        full.project_in.bias.copy_(together(1))
        full.project_out.weight.copy_(torch.cat([g.project_out.weight for g in groups], dim=1))
        full.project_out.bias.copy_(sum(g.project_out.bias for g in groups))
    return full.double()


@pytest.mark.parametrize("groups", [[(FULL, 1), (FULL, 3)], [(FULL, 2), (LOCAL | {"window": 4}, 2)], [(FULL, 4)]])
def test_the_sum_of_groups_that_see_everything_is_full_attention(groups: list[tuple[dict[str, Any], int]]) -> None:
    (attention,) = stack(mixed(*groups), num_layers=1)
    assert isinstance(attention, MixedAttention)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    expected = as_one(attention)(x, x, VALID)
    torch.testing.assert_close(attention.double()(x, x, VALID)[VALID], expected[VALID])


def test_each_group_looks_in_its_own_way() -> None:
    (attention,) = stack(mixed((FULL, 2), (LOCAL, 2)), num_layers=1)
    assert isinstance(attention, MixedAttention)
    x = torch.randn(1, 5, 8, requires_grad=True)
    for group, reaches in zip(attention.groups, (True, False), strict=True):
        (gradient,) = torch.autograd.grad(group(x, x, None)[0, 0].sum(), x)
        assert bool(gradient[0, 4].any()) is reaches


@pytest.mark.parametrize("numbers", [(2, 1), (4, 4)])
def test_heads_that_do_not_add_up_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"groups: {numbers[0]} \+ {numbers[1]} heads, but size.num_heads=4"):
        stack(mixed((FULL, numbers[0]), (LOCAL, numbers[1])))


def test_no_group_and_no_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"attention\.groups=\[\]: one group of heads at least is needed"):
        stack(mixed())
    with pytest.raises(ConfigError, match=r"attention\.layers=\[\]: one kind at least is needed"):
        stack(layered())
    with pytest.raises(ConfigError, match=r"attention\.groups\[0\]\.num_heads=0: must be at least 1"):
        stack(mixed((FULL, 0), (LOCAL, 4)))


def test_layers_alternate() -> None:
    kinds = [type(layer) for layer in stack(layered(LOCAL, FULL), num_layers=5)]
    assert kinds == [LocalAttention, FullAttention, LocalAttention, FullAttention, LocalAttention]
    assert [type(layer) for layer in stack(layered(LOCAL, FULL), num_layers=2)] == kinds[:2]


def test_more_kinds_than_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"attention\.layers: 2 kinds, but the stack has num_layers=1"):
        stack(layered(LOCAL, FULL), num_layers=1)


def test_one_in_the_other() -> None:
    layers = stack(layered(mixed((FULL, 3), (LOCAL, 1)), LOCAL), num_layers=3)
    assert [type(layer) for layer in layers] == [MixedAttention, LocalAttention, MixedAttention]
    bigbird = {"_target_": "nat.nn.attention.bigbird.BigBirdAttention"}
    first, second = (layer.keys for layer in stack(layered(bigbird), num_layers=2))
    assert not torch.equal(torch.as_tensor(first), torch.as_tensor(second))  # of one stack, with a layer's own blocks
