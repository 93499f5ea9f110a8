"""Features whose products stand for attention weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nat.ops import features
from nat.ops.features import (
    elu_features,
    fourier_features,
    gaussian_directions,
    in_pieces,
    mix_by_features,
    mix_by_log_features,
    positive_log_features,
    separate_softmaxes,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_order_of_multiplication_changes_nothing() -> None:
    queries, keys, values = numbers(2, 3, 5, 4).exp(), numbers(2, 3, 7, 4, seed=1).exp(), numbers(2, 3, 7, 6, seed=2)
    keys[1, :, 4:] = 0.0  # keys that do not count
    weights = queries @ keys.transpose(2, 3)
    expected = weights / weights.sum(dim=-1, keepdim=True) @ values
    for pieces in (lambda x: [x], lambda x: x.split(2, dim=2)):
        torch.testing.assert_close(mix_by_features(pieces(queries), pieces(keys), values), expected)
        torch.testing.assert_close(mix_by_log_features(pieces(queries.log()), pieces(keys.log()), values), expected)


def test_pieces_are_the_features_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PIECE", 3)
    x, valid = numbers(2, 3, 8, 4), torch.arange(8) < torch.tensor([[5], [8]])
    pieces = list(in_pieces(elu_features, x, valid, padding=-1.0))
    assert [piece.size(2) for piece in pieces] == [3, 3, 2]
    assert torch.equal(torch.cat(pieces, dim=2), elu_features(x).masked_fill(~valid[:, None, :, None], -1.0))
    assert torch.equal(torch.cat(list(in_pieces(elu_features, x)), dim=2), elu_features(x))
    assert [piece.shape for piece in in_pieces(elu_features, x[:, :, :0])] == [(2, 3, 0, 4)]


@pytest.mark.parametrize("size", [300.0, -300.0])
def test_exponentials_that_float32_cannot_hold(size: float) -> None:
    """In float32, exp(300) is infinite and exp(-300) zero; nothing of it is seen in the quotient."""
    queries, keys = numbers(1, 1, 3, 4).float() + size, numbers(1, 1, 5, 4, seed=1).float() + size
    queries[..., 0] -= 150  # features of different sizes: the largest key's and the largest query's are not the same
    keys[..., 1:] -= 150
    values = numbers(1, 1, 5, 2, seed=2).float()
    scores = (queries.double()[:, :, :, None] + keys.double()[:, :, None]).logsumexp(dim=-1)
    expected = scores.softmax(dim=-1) @ values.double()
    torch.testing.assert_close(mix_by_log_features([queries], [keys], values).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mix", [mix_by_features, mix_by_log_features])
def test_without_any_key_there_is_nothing_and_gradients_are_finite(mix: object) -> None:
    none = 0.0 if mix is mix_by_features else -torch.inf
    queries, keys, values = (numbers(1, 1, 2, 3).requires_grad_() for _ in range(3))
    found = mix([queries], [keys.masked_fill(torch.ones(1, 1, 2, 1, dtype=torch.bool), none)], values)  # type: ignore[operator]
    assert torch.equal(found, torch.zeros_like(found))
    for gradient in torch.autograd.grad(found.sum(), (queries, keys, values)):
        assert torch.isfinite(gradient).all()


def test_sums_are_held_above_the_least() -> None:
    queries, keys, values = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 0.5), torch.ones(2, 1, 1, 1)
    found = mix_by_features([queries], [keys], values, least=torch.tensor([0.25, 2.0])[:, None, None, None])
    assert found.flatten().tolist() == [1.0, 0.25]


def test_elu_features() -> None:
    x = torch.tensor([-30.0, -1.0, 0.0, 2.0], requires_grad=True)
    torch.testing.assert_close(
        elu_features(x), torch.tensor([math.exp(-30), math.exp(-1), 1.0, 3.0]), atol=0, rtol=1e-6
    )
    assert torch.autograd.gradcheck(elu_features, (numbers(6).requires_grad_(),))


def test_rows_of_separate_softmaxes_sum_to_one() -> None:
    queries, keys = numbers(2, 2, 4, 3), numbers(2, 2, 4, 3, seed=1)
    valid = torch.tensor([[True, True, True, False], [True, False, False, False]])
    looks, sees = separate_softmaxes(queries, keys, valid)
    torch.testing.assert_close(looks, queries.softmax(dim=-1))
    torch.testing.assert_close(sees[0, :, :3], keys[0, :, :3].softmax(dim=1))
    assert not sees.transpose(1, 2)[~valid].any()
    torch.testing.assert_close((looks @ sees.transpose(2, 3)).sum(dim=-1), torch.ones(2, 2, 4, dtype=torch.float64))


# --- random features --------------------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal", [True, False])
def test_products_of_random_features_are_unbiased(orthogonal: bool) -> None:
    """The mean over independent draws, against its own standard error."""
    x, y = (0.6 * numbers(1, 1, 3, 4, seed=seed).expand(1, 4000, 3, 4) for seed in (0, 1))
    draws = gaussian_directions(4000, 4, 4, seed=3, orthogonal=orthogonal).double()  # a head is a draw
    fourier = (fourier_features(x, draws) * fourier_features(y, draws)).sum(dim=-1)[0]  # (draws, 3)
    positive = (positive_log_features(x, draws) + positive_log_features(y, draws)).exp().sum(dim=-1)[0]
    expected = (-(x - y).square().sum(dim=-1) / 2).exp()[0, 0], (x * y).sum(dim=-1).exp()[0, 0]
    for found, truth in zip((fourier, positive), expected, strict=True):
        error = found.std(dim=0) / math.sqrt(len(draws))
        assert ((found.mean(dim=0) - truth).abs() < 4 * error).all()
        assert (error < 0.05 * truth).all()


def test_directions_are_orthogonal_within_blocks() -> None:
    found = gaussian_directions(2, 7, 3, seed=1, orthogonal=True).double()
    assert found.shape == (2, 7, 3)
    for head in found:
        for block in (head[:3], head[3:6]):
            products = block @ block.T
            torch.testing.assert_close(products, products.diagonal().diag(), rtol=0, atol=1e-5)
    assert not torch.allclose(found[0, :3], found[0, 3:6]) and not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("orthogonal", [True, False])
def test_directions_have_the_moments_of_a_normal_distribution(orthogonal: bool) -> None:
    found = gaussian_directions(4000, 3, 3, seed=5, orthogonal=orthogonal).double()
    rows = found.flatten(0, 1)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.04)
    torch.testing.assert_close(rows.T @ rows / len(rows), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)
    assert rows.square().sum(dim=1).var().item() == pytest.approx(6, abs=0.5)  # of chi^2 with 3 degrees of freedom


def test_directions_are_those_of_the_seed() -> None:
    first = gaussian_directions(2, 5, 4, seed=1, orthogonal=True)
    torch.randn(3)
    assert torch.equal(gaussian_directions(2, 5, 4, seed=1, orthogonal=True), first)
    assert not torch.equal(gaussian_directions(2, 5, 4, seed=2, orthogonal=True), first)


def test_orthogonal_features_estimate_better() -> None:
    """Choromanski et al. 2021, theorem 2: their mean squared error is smaller."""
    x, y = (0.15 * numbers(1, 1, 8, 8, seed=seed).expand(1, 2000, 8, 8) for seed in (0, 1))
    errors = []
    for orthogonal in (True, False):
        draws = gaussian_directions(2000, 8, 8, seed=2, orthogonal=orthogonal).double()
        found = (positive_log_features(x, draws) + positive_log_features(y, draws)).exp().sum(dim=-1)
        errors.append((found / (x * y).sum(dim=-1).exp() - 1).square().mean().item())
    assert errors[0] < 0.95 * errors[1]
