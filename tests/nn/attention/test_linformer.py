"""Attention to learned mixtures of the keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import check_padding, make_attention, states

from nat.config import Component, parse
from nat.errors import ConfigError, DataError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.linformer import LinformerAttention

EACH = pytest.mark.parametrize("sharing", ["none", "headwise", "key_value", "layerwise"])


def make(**options: Any) -> LinformerAttention:
    (attention,) = make_attention("linformer", **({"max_length": 6, "num_keys": 3} | options))
    assert isinstance(attention, LinformerAttention)
    return attention


@EACH
def test_is_that_of_a_loop(sharing: str) -> None:
    attention = make(sharing=sharing)
    x, valid = states([6, 4, 1])
    found = attention(x, x, valid)
    first = attention.shorten_keys.weight
    second = first if attention.shorten_values is None else attention.shorten_values.weight
    for row, length in enumerate([6, 4, 1]):
        queries, keys, values = (part[0] for part in attention.project(x[row : row + 1, :length]))
        mixed = []
        for head in range(2):
            of_keys, of_values = (part[head if sharing == "none" else 0, :, :length] for part in (first, second))
            scores = queries[head] @ (of_keys @ keys[head]).T / 4**0.5
            mixed.append(scores.softmax(dim=-1) @ (of_values @ values[head]))
        torch.testing.assert_close(found[row, :length], attention.merge(torch.stack(mixed)[None])[0])


@EACH
def test_with_the_identity_it_is_full_attention(sharing: str) -> None:
    attention = make(max_length=5, num_keys=5, sharing=sharing)
    with torch.no_grad():
        for part in (attention.shorten_keys, attention.shorten_values):
            if part is not None:
                part.weight.copy_(torch.eye(5))
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({key: part for key, part in attention.state_dict().items() if key.startswith("project")})
    x, _ = states([5, 5])
    torch.testing.assert_close(attention(x, x, None), full(x, x, None), rtol=0, atol=1e-12)


@EACH
def test_padding_changes_nothing(sharing: str) -> None:
    """Two columns of padding go beyond max_length."""
    check_padding(make(sharing=sharing), lengths=[6, 4, 1])


@EACH
def test_gradients(sharing: str) -> None:
    attention = make(sharing=sharing)
    x, valid = states([3, 1])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid), (x.requires_grad_(),))
    attention(x, x, valid).square().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(("sharing", "projections"), [("none", 8), ("headwise", 4), ("key_value", 2), ("layerwise", 1)])
def test_what_is_shared(sharing: str, projections: int) -> None:
    layers = make_attention("linformer", layers=2, max_length=6, num_keys=3, sharing=sharing)
    names = {id(p): p for layer in layers for name, p in layer.named_parameters() if name.startswith("shorten")}
    assert sum(p.numel() for p in names.values()) == projections * 6 * 3


def test_mixtures_of_the_longest_sequence_keep_their_size() -> None:
    attention = make(max_length=400, num_keys=50)
    mixed = attention.shorten_keys(torch.randn(1, 2, 400, 4, dtype=torch.float64))
    assert mixed.std().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("valid", [None, torch.arange(8) < torch.tensor([7, 2])[:, None]])
def test_a_longer_sequence_is_refused(valid: torch.Tensor | None) -> None:
    attention = make()
    assert attention.max_length == 6
    x = torch.zeros(2, 8, 8, dtype=torch.float64)
    length = 8 if valid is None else 7
    with pytest.raises(DataError, match=rf"a sequence of {length} positions exceeds attention\.max_length=6 of this"):
        attention(x, x, valid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_keys": 7}, "attention.num_keys=7: must be at most max_length=6"),
        ({"num_keys": 0}, "attention.num_keys=0: must be at least 1"),
        ({"max_length": 0}, "attention.max_length=0: must be at least 1"),
        ({"sharing": "all"}, "attention.sharing=all: allowed are none, headwise, key_value, layerwise"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    node = {"_target_": "nat.nn.attention.linformer.LinformerAttention", "max_length": 6, "num_keys": 3} | options
    with pytest.raises(ConfigError, match=message):
        parse(Component, node, "attention")
