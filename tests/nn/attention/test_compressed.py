"""Attention to keys that a strided convolution makes fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import check_padding, make_attention, states
from torch import Tensor

from nat.config import Component, parse
from nat.errors import ConfigError
from nat.nn.attention.compressed import CompressedAttention, StridedConvolution
from nat.nn.attention.full import FullAttention

VARIANTS = pytest.mark.parametrize(
    "options",
    [{}, {"factor": 2, "kernel": 3}, {"factor": 1, "kernel": 4}, {"max_keys": 2}, {"factor": 2, "max_keys": 2}],
)


def make(**options: Any) -> CompressedAttention:
    (attention,) = make_attention("compressed", **options)
    assert isinstance(attention, CompressedAttention)
    return attention


def by_hand(x: Tensor, part: StridedConvolution, max_keys: int | None) -> Tensor:
    """The fewer keys of one sequence (N, I): cells, then windows, one at a time."""
    limit = len(x) if max_keys is None else max_keys * part.factor
    size = -(-len(x) // limit)
    cells = torch.stack([x[start : start + size].mean(dim=0) for start in range(0, len(x), size)])
    found = []
    for start in range(0, len(cells), part.factor):
        first = start - (part.kernel - part.factor) // 2
        window = [
            cells[i] if 0 <= i < len(cells) else torch.zeros_like(cells[0]) for i in range(first, first + part.kernel)
        ]
        found.append(part.mix(torch.cat(window)))
    return torch.stack(found)


@VARIANTS
def test_is_that_of_a_loop(options: dict[str, Any]) -> None:
    attention = make(**options)
    lengths = [11, 7, 6, 4, 1]
    x, valid = states(lengths)
    found = attention(x, x, valid)
    for row, length in enumerate(lengths):
        queries, keys, values = attention.project_in(x[row, :length]).chunk(3, dim=-1)
        keys = by_hand(keys, attention.shorten_keys, options.get("max_keys"))
        values = by_hand(values, attention.shorten_values, options.get("max_keys"))
        if "max_keys" in options:
            assert len(keys) <= options["max_keys"]
        else:
            assert len(keys) == -(-length // options.get("factor", 3))
        heads = [part[None].unflatten(-1, (2, 4)).transpose(1, 2) for part in (queries, keys, values)]
        expected = attention.merge((heads[0] @ heads[1].transpose(2, 3) / 2).softmax(dim=-1) @ heads[2])[0]
        torch.testing.assert_close(found[row, :length], expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_with_factor_1_and_the_identity_it_is_full_attention(kernel: int) -> None:
    attention = make(factor=1, kernel=kernel, max_keys=5)
    identity = torch.zeros(8, kernel, 8)
    identity[:, kernel // 2] = torch.eye(8)
    for part in (attention.shorten_keys, attention.shorten_values):
        part.mix.weight.data.copy_(identity.flatten(1))
        part.mix.bias.data.zero_()
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({key: part for key, part in attention.state_dict().items() if key.startswith("project")})
    x, valid = states([5, 3, 1])
    torch.testing.assert_close(attention(x, x, valid)[valid], full(x, x, valid)[valid], rtol=0, atol=1e-12)


def test_a_convolution_like_that_of_torch() -> None:
    part = StridedConvolution(width=4, factor=2, kernel=4).double()
    x = states([8], dim=4)[0]
    weight = part.mix.weight.unflatten(1, (4, 4)).transpose(1, 2)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight, part.mix.bias, stride=2, padding=1)
    torch.testing.assert_close(part(x), expected.transpose(1, 2))


@VARIANTS
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    check_padding(make(**options), lengths=[11, 7, 6, 4, 1])


@VARIANTS
def test_gradients(options: dict[str, Any]) -> None:
    attention = make(**options)
    x, valid = states([4, 1])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid), (x.requires_grad_(),))
    attention(x, x, valid).square().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 2}, "attention.kernel=2: must be at least factor=3, or keys are skipped"),
        ({"factor": 0}, "attention.factor=0: must be at least 1"),
        ({"max_keys": 0}, "attention.max_keys=0: must be at least 1"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    node = {"_target_": "nat.nn.attention.compressed.CompressedAttention"} | options
    with pytest.raises(ConfigError, match=message):
        parse(Component, node, "attention")
