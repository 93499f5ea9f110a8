"""Attention without products of queries and keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import check_padding, make_attention, states
from torch import Tensor

from nat.config import Component, parse
from nat.errors import ConfigError, DataError
from nat.nn.attention.synthesizer import DenseSynthesizer, RandomSynthesizer, Synthesizer

VARIANTS = pytest.mark.parametrize(
    ("name", "options"),
    [
        ("synthesizer_dense", {}),
        ("synthesizer_dense", {"factorised": True}),
        ("synthesizer_random", {}),
        ("synthesizer_random", {"rank": 2}),
    ],
)


def make(name: str, **options: Any) -> Synthesizer:
    (attention,) = make_attention(name, **({"max_length": 7} | options))
    assert isinstance(attention, Synthesizer)
    return attention


def score(attention: Synthesizer, hidden: list[Tensor], head: int, i: int, j: int) -> Tensor:
    """What position i of a head gives to position j. hidden: (N, E) of this head, those before the values."""
    if isinstance(attention, RandomSynthesizer):
        if attention.columns is None:
            return attention.rows[head, i, j]
        return attention.rows[head, i] @ attention.columns[head, j]
    layers = [(layer.weight[head], layer.bias[head, 0]) for layer in attention.layers]
    lists = [states[i].relu() @ weight + bias for states, (weight, bias) in zip(hidden, layers, strict=True)]
    if len(lists) == 1:
        return lists[0][j]
    assert [len(numbers) for numbers in lists] == [3, 3]  # 3 * 3 >= 7
    return lists[0][j // 3] * lists[1][j % 3]


@VARIANTS
def test_is_that_of_a_loop(name: str, options: dict[str, Any]) -> None:
    attention = make(name, **options)
    lengths = [7, 4, 1]
    x, valid = states(lengths)
    found = attention(x, x, valid)
    for row, length in enumerate(lengths):
        *hidden, values = (part.unflatten(-1, (2, 4)) for part in attention.project_in(x[row, :length]).split(8, -1))
        mixed = []
        for head in range(2):
            own = [part[:, head] for part in hidden]
            scores = torch.stack(
                [torch.stack([score(attention, own, head, i, j) for j in range(length)]) for i in range(length)]
            )
            mixed.append(scores.softmax(dim=-1) @ values[:, head])
        torch.testing.assert_close(found[row, :length], attention.merge(torch.stack(mixed)[None])[0])


@VARIANTS
def test_padding_changes_nothing(name: str, options: dict[str, Any]) -> None:
    """Two columns of padding go beyond max_length."""
    check_padding(make(name, **options), lengths=[7, 4, 1])


@VARIANTS
def test_gradients(name: str, options: dict[str, Any]) -> None:
    attention = make(name, **options)
    x, valid = states([4, 1])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid), (x.requires_grad_(),))
    attention(x, x, valid).square().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@VARIANTS
def test_dropout_is_on_weights_in_training(name: str, options: dict[str, Any]) -> None:
    attention = make(name, dropout=0.999999, **options)
    x, valid = states([4, 2])
    assert not torch.equal(attention(x, x, valid)[0, 0], attention.project_out.bias)
    attention.train()
    torch.testing.assert_close(attention(x, x, valid)[0, 0], attention.project_out.bias)


@VARIANTS
def test_a_longer_sequence_is_refused(name: str, options: dict[str, Any]) -> None:
    attention = make(name, **options)
    assert attention.max_length == 7
    x, valid = states([8, 2])
    with pytest.raises(DataError, match=r"a sequence of 8 positions exceeds attention\.max_length=7"):
        attention(x, x, valid)


@pytest.mark.parametrize("max_length", [1, 2, 12, 17])
def test_factorised_scores_reach_every_position(max_length: int) -> None:
    attention = make("synthesizer_dense", factorised=True, max_length=max_length)
    x, valid = states([max_length])
    assert isinstance(attention, DenseSynthesizer)
    assert attention(x, x, valid).shape == x.shape
    sizes = [layer.weight.size(2) for layer in attention.layers]
    assert max_length <= sizes[0] * sizes[1] < max_length + max(sizes)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Dense", {"max_length": 0}, "attention.max_length=0: must be at least 1"),
        ("Random", {"rank": 0}, "attention.rank=0: must be at least 1"),
        ("Random", {"factorised": True}, "attention.factorised: no such option"),
    ],
)
def test_impossible_values_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    node = {"_target_": f"nat.nn.attention.synthesizer.{kind}Synthesizer"} | options
    with pytest.raises(ConfigError, match=message):
        parse(Component, node, "attention")


def test_scores_are_of_the_order_of_one_at_first() -> None:
    attention = make("synthesizer_dense", max_length=512)
    x = torch.randn(1, 512, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = [parameter for name, parameter in attention.named_parameters() if parameter.dim() == 3]
    assert x.shape and weights
    for weight in weights:  # (H, E, size)
        assert 0.5 < weight.std().item() * weight.size(1) ** 0.5 < 2.0
