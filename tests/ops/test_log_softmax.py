"""Parts of a log-softmax against the whole of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.ops import log_softmax
from nat.ops.log_softmax import softmax_parts

ROWS, CLASSES = torch.tensor([0, 0, 3, 4, 1, 1, 0]), torch.tensor([0, 5, 5, 6, 7, 7, 5])


def whole(logits: Tensor, forbidden: list[int]) -> tuple[Tensor, ...]:
    log_probs = torch.log_softmax(logits, dim=1)
    possible = [i for i in range(logits.size(1)) if i not in forbidden]
    return log_probs[ROWS, CLASSES], log_probs[:, possible].mean(dim=1), torch.logsumexp(logits, dim=1)


@pytest.mark.parametrize("forbidden", [[], [2], [1, 2, 4], [10]])
@pytest.mark.parametrize("piece", [1, 23, 10_000])
def test_values_and_gradients_are_those_of_the_whole(
    forbidden: list[int], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_softmax, "PIECE", piece)  # one row at a time, two rows, all
    logits = torch.randn(5, 11, dtype=torch.float64).index_fill(1, torch.tensor(forbidden).long(), -torch.inf)
    logits.requires_grad_()
    parts = softmax_parts(logits, ROWS, CLASSES, with_mean=True, forbidden=forbidden)
    expected = whole(logits, forbidden)
    factors = [torch.randn_like(value) for value in expected]
    gradients = []
    for values in (parts, expected):
        pairs = zip(values, factors, strict=True)
        finite = torch.cat([(value * factor).masked_fill(value == -torch.inf, 0.0) for value, factor in pairs])
        gradients += torch.autograd.grad(finite.sum(), logits)
    for one, other in zip(parts, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    possible = [i for i in range(11) if i not in forbidden]
    assert torch.allclose(gradients[0][:, possible], gradients[1][:, possible], rtol=0, atol=1e-12)


def test_without_the_mean_it_is_zero_and_nothing_else_changes() -> None:
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    with_mean, without = (softmax_parts(logits, ROWS, CLASSES, with_mean=asked) for asked in (True, False))
    assert torch.equal(with_mean.at, without.at) and torch.equal(with_mean.normaliser, without.normaliser)
    assert (without.mean == 0).all() and (with_mean.mean != 0).all()
    (gradient,) = torch.autograd.grad(without.at.sum() + without.mean.sum(), logits)
    (expected,) = torch.autograd.grad(torch.log_softmax(logits, dim=1)[ROWS, CLASSES].sum(), logits)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.randn(3, 5000).bfloat16().requires_grad_()
    parts = softmax_parts(logits, torch.arange(3), torch.tensor([1, 2, 3]), with_mean=True)
    assert {value.dtype for value in parts} == {torch.float32}
    expected = torch.log_softmax(logits.float(), dim=1)
    assert torch.allclose(parts.at, expected[torch.arange(3), torch.tensor([1, 2, 3])], atol=1e-5)
    (gradient,) = torch.autograd.grad(parts.at.sum(), logits)
    assert gradient.dtype == torch.bfloat16


def test_no_row_gives_nothing() -> None:
    none = torch.zeros(0, dtype=torch.long)
    logits = torch.zeros(0, 7, requires_grad=True)
    parts = softmax_parts(logits, none, none, with_mean=True)
    assert [len(value) for value in parts] == [0, 0, 0]
    parts.at.sum().backward()
    assert logits.grad is not None and logits.grad.shape == (0, 7)
