"""Kinds in linear time, against their N x N form and against softmax attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import check_padding, make_attention, states
from torch import Tensor

from nat.config import Component, parse
from nat.errors import ConfigError
from nat.nn.attention.base import HeadAttention
from nat.nn.attention.full import FullAttention

EACH = pytest.mark.parametrize("name", ["linear", "efficient", "random_feature", "performer"])


def make(name: str, **options: Any) -> HeadAttention:
    (attention,) = make_attention(name, **options)
    assert isinstance(attention, HeadAttention)
    return attention


def similarity(name: str, attention: HeadAttention, head: int, q: Tensor, k: Tensor) -> Tensor:
    """What a query of a head gives to a key, before the sum to one."""
    if name == "linear":
        return (F.elu(q) + 1) @ (F.elu(k) + 1)
    directions = attention.directions[head]  # type: ignore[index]
    if name == "performer":
        q, k = q / 4**0.25, k / 4**0.25
        return (directions @ (q + k) - q.square().sum() / 2 - k.square().sum() / 2).exp().mean()
    scaled = directions * attention.scale[head]  # type: ignore[index]
    return (scaled @ (q / q.norm() - k / k.norm())).cos().mean()  # cos(a - b) = sin a sin b + cos a cos b


def full_weights(name: str, attention: HeadAttention, head: int, queries: Tensor, keys: Tensor) -> Tensor:
    """The N x N weights of a head, entry by entry."""
    if name == "efficient":
        return queries.softmax(dim=-1) @ keys.softmax(dim=0).T
    weights = torch.stack([torch.stack([similarity(name, attention, head, q, k) for k in keys]) for q in queries])
    return weights / weights.sum(dim=-1, keepdim=True)


@EACH
def test_is_its_form_with_n_by_n_weights(name: str) -> None:
    attention = make(name)
    x, valid = states([5, 3, 1])
    found = attention(x, x, valid)
    for row, length in enumerate([5, 3, 1]):
        queries, keys, values = (part[0] for part in attention.project(x[row : row + 1, :length]))
        weights = [full_weights(name, attention, head, queries[head], keys[head]) for head in range(2)]
        expected = attention.merge((torch.stack(weights) @ values)[None])[0]
        torch.testing.assert_close(found[row, :length], expected)


@EACH
def test_padding_changes_nothing(name: str) -> None:
    check_padding(make(name), lengths=[5, 3, 1])


@EACH
def test_gradients(name: str) -> None:
    attention = make(name)
    x, valid = states([3, 1])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid), (x.requires_grad_(),))
    attention(x, x, valid).square().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@EACH
def test_bf16_is_close_to_float32(name: str) -> None:
    attention = make(name).float()
    x, valid = states([40, 3])
    x = x.float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, x, valid)
    torch.testing.assert_close(rough.float()[valid], attention(x, x, valid)[valid], atol=0.1, rtol=0)


def softmax_twin(name: str, attention: HeadAttention, x: Tensor, valid: Tensor) -> Tensor:
    """What many features converge to: softmax attention, for Fourier features between unit vectors."""
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({key: part for key, part in attention.state_dict().items() if key.startswith("project")})
    if name == "performer":
        return full(x, x, valid)
    queries, keys, values = full.project(x)
    return full.attend(2 * F.normalize(queries, dim=-1), F.normalize(keys, dim=-1), values, valid)  # 2 = sqrt(E)


@pytest.mark.parametrize("name", ["random_feature", "performer"])
def test_converges_to_softmax_attention_as_features_grow(name: str) -> None:
    """Root mean squared errors over seeds."""
    x, valid = states([9, 4])
    x, errors = x / 2, []  # the positive features' variance grows with the exponential of the norms
    for number in (16, 256, 4096):
        squares = []
        for seed in range(8):
            attention = make(name, num_features=number, seed=seed)
            torch.nn.init.zeros_(attention.project_in.bias)
            squares.append((attention(x, x, valid) - softmax_twin(name, attention, x, valid))[valid].square().mean())
        errors.append(torch.stack(squares).mean().sqrt().item())
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2  # with 1 / sqrt(M), each is a quarter
    assert errors[2] < 0.01


@pytest.mark.parametrize("name", ["random_feature", "performer"])
def test_large_states_give_finite_numbers_in_float32(name: str) -> None:
    attention = make(name).float()
    x = (100 * states([7, 3])[0]).float().requires_grad_()
    valid = states([7, 3])[1]
    found = attention(x, x, valid)
    largest = attention.merge(attention.project(x)[2]).abs().max()
    assert found.abs().max() < 100 * largest
    assert torch.isfinite(torch.autograd.grad(found.square().sum(), x)[0]).all()


def test_an_estimate_of_nothing_stays_in_bounds() -> None:
    """One frequency: weights are cosines, and their sum may be zero."""
    attention = make("random_feature", num_features=1)
    x, valid = states(list(range(1, 60)))
    attention.scale.data.fill_(50.0)  # type: ignore[operator, union-attr]
    queries, keys, values = attention.project(x)
    mixed = attention.mix(queries, keys, values, valid)  # type: ignore[operator]
    sums = attention.mix(queries, keys, torch.ones_like(values), valid)  # type: ignore[operator]
    assert (sums[:, 0][valid] < 0).any()  # an estimated sum below zero
    assert mixed.transpose(1, 2)[valid].abs().max() <= 2**0.5 * values.transpose(1, 2)[valid].abs().max()


# --- random features of a stack ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random_feature", "performer"])
def test_each_layer_and_head_has_features_of_its_own_fixed_by_the_seed(name: str) -> None:
    first, second = make_attention(name, layers=2, num_features=4)
    assert first.directions.shape == (2, 4, 4)
    assert not torch.equal(first.directions, second.directions)
    assert not torch.equal(first.directions[0], first.directions[1])
    again, other = make(name, num_features=4), make(name, num_features=4, seed=2)
    assert torch.equal(again.directions, first.directions)  # type: ignore[arg-type]
    assert not torch.equal(other.directions, first.directions)  # type: ignore[arg-type]
    assert "directions" in first.state_dict()


def test_number_of_features_by_default() -> None:
    assert make("performer", dim=128).directions.shape == (2, 267, 64)  # type: ignore[union-attr]
    assert make("performer", dim=2).directions.shape == (2, 1, 1)  # type: ignore[union-attr]
    assert make("random_feature").directions.shape == (2, 128, 4)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["RandomFeatureAttention", "PerformerAttention"])
@pytest.mark.parametrize(("option", "value", "least"), [("num_features", 0, 1), ("seed", -1, 0)])
def test_impossible_values_are_refused(name: str, option: str, value: int, least: int) -> None:
    node = {"_target_": f"nat.nn.attention.linear.{name}", option: value}
    with pytest.raises(ConfigError, match=f"attention.{option}={value}: must be at least {least}"):
        parse(Component, node, "attention")


@EACH
@torch.no_grad()
def test_sums_are_exact_under_autocast(name: str) -> None:
    attention = make(name).float()
    q, k, v = (torch.randn(2, 2, 9, 4, generator=torch.Generator().manual_seed(n)) for n in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention.mix(q, k, v, None)  # type: ignore[operator]
    assert torch.equal(found, attention.mix(q, k, v, None))  # type: ignore[operator]
