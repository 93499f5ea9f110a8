"""Losses against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nat.losses import CrossEntropy, cross_entropy, token_log_probs

FORBIDDEN = [0, 2, 5]


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 3, 4, 6], [7, 3, 0, 0], [4, 0, 0, 0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    return logits, labels, valid


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("normalised", [True, False])
def test_cross_entropy_is_torchs_over_the_allowed_classes(smoothing: float, normalised: bool) -> None:
    logits, labels, valid = case()
    logits[:, :, FORBIDDEN] = -torch.inf
    logits.requires_grad_()
    total, nll, count = cross_entropy(
        logits.log_softmax(dim=2) if normalised else logits,
        labels,
        valid,
        label_smoothing=smoothing,
        forbidden=FORBIDDEN,
    )
    allowed = [i for i in range(8) if i not in FORBIDDEN]
    new_labels = torch.tensor([allowed.index(i) for i in labels[valid].tolist()])
    reference = F.cross_entropy(logits[valid][:, allowed], new_labels, label_smoothing=smoothing, reduction="sum")
    plain = F.cross_entropy(logits[valid][:, allowed], new_labels, reduction="sum")
    assert total.item() == pytest.approx(reference.item(), abs=1e-10)
    assert nll.item() == pytest.approx(plain.item(), abs=1e-10)
    assert count.item() == 7
    (found,) = torch.autograd.grad(total, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(reference, logits)
    assert torch.allclose(found, expected, atol=1e-10)


def test_without_forbidden_classes_it_is_plain_torch() -> None:
    logits, labels, valid = case()
    total, _, _ = cross_entropy(logits.log_softmax(dim=2), labels, valid, label_smoothing=0.2)
    reference = F.cross_entropy(logits[valid], labels[valid], label_smoothing=0.2, reduction="sum")
    assert total.item() == pytest.approx(reference.item(), abs=1e-10)


def test_nothing_valid_is_zero_with_zero_gradient() -> None:
    logits, labels, valid = case()
    logits[:, :, FORBIDDEN] = -torch.inf
    logits.requires_grad_()
    total, nll, count = cross_entropy(
        logits.log_softmax(dim=2), labels * 0, valid & False, label_smoothing=0.1, forbidden=FORBIDDEN
    )
    total.backward()
    assert (total.item(), nll.item(), count.item()) == (0, 0, 0)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_token_log_probs_are_zero_where_not_valid() -> None:
    logits, labels, valid = case()
    found = token_log_probs(logits.log_softmax(dim=2), labels, valid)
    assert (found[~valid] == 0).all()
    assert found[1, 1].item() == pytest.approx(logits[1, 1].log_softmax(0)[3].item())


def test_the_mean_over_layers_is_of_totals_and_the_last_one_counts() -> None:
    layers = [CrossEntropy(*(torch.tensor(float(n * factor)) for factor in (1, 10, 100))) for n in (1, 3)]
    assert [value.item() for value in CrossEntropy.of_layers(layers)] == [2, 30, 300]
