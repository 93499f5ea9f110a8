"""The mixture of generating and copying against loops over positions and vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.mixture import first_positions, mix_with_copies

FEW = settings(deadline=None, max_examples=20)
VOCABULARY, FORBIDDEN = 6, 0  # token 0 has probability 0 in the vocabulary, and is never copied
ROWS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=4, max_size=4), min_size=1, max_size=3)


def problem(rows: list[list[int]], *, length: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, scores of the source's positions, gate, tokens, and what may be copied: not 0, which also pads."""
    generator = torch.Generator().manual_seed(sum(map(sum, rows)))
    tokens = torch.tensor(rows)

    def noise(*shape: int) -> Tensor:
        return 2 * torch.randn(len(rows), length, *shape, generator=generator, dtype=torch.float64)

    return noise(VOCABULARY), noise(tokens.size(1)), noise(), tokens, tokens != FORBIDDEN


def distributions(logits: Tensor, scores: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities over the vocabulary, weights over the source."""
    never = torch.arange(VOCABULARY) == FORBIDDEN
    weights = scores.exp() * allowed[:, None]
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-300)
    return logits.masked_fill(never, -math.inf).log_softmax(dim=2), weights


def mixed_by_loops(log_probs: Tensor, weights: Tensor, gate: Tensor, tokens: Tensor, allowed: Tensor) -> Tensor:
    """P(w), from equation 9, one number at a time."""
    found = torch.zeros_like(log_probs)
    for b in range(log_probs.size(0)):
        for t in range(log_probs.size(1)):
            generate = torch.sigmoid(gate[b, t]) if allowed[b].any() else torch.tensor(1.0, dtype=torch.float64)
            for w in range(log_probs.size(2)):
                copies = [weights[b, t, s] for s in range(tokens.size(1)) if tokens[b, s] == w and allowed[b, s]]
                found[b, t, w] = generate * log_probs[b, t, w].exp() + (1 - generate) * sum(copies)
    return found


@given(ROWS)
@FEW
def test_the_mixture_is_that_of_loops_and_sums_to_one(rows: list[list[int]]) -> None:
    logits, scores, gate, tokens, allowed = problem(rows)
    log_probs, weights = distributions(logits, scores, allowed)
    found = mix_with_copies(log_probs, weights, gate, tokens, allowed)
    assert torch.allclose(found.exp(), mixed_by_loops(log_probs, weights, gate, tokens, allowed), atol=1e-12)
    assert torch.allclose(found.exp().sum(dim=2), torch.ones_like(gate), atol=1e-12)
    assert (found[:, :, FORBIDDEN] == -math.inf).all()


@given(ROWS)
@FEW
def test_gradients_are_those_of_loops(rows: list[list[int]]) -> None:
    assume(any(any(row) for row in rows))
    logits, scores, gate, tokens, allowed = problem(rows)
    leaves = [logits.requires_grad_(), scores.requires_grad_(), gate.requires_grad_()]
    log_probs, weights = distributions(logits, scores, allowed)
    factors = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    possible = torch.arange(VOCABULARY) != FORBIDDEN

    given_to = (log_probs, weights, gate, tokens, allowed)
    mine = (mix_with_copies(*given_to)[:, :, possible] * factors[:, :, possible]).sum()
    theirs = (mixed_by_loops(*given_to)[:, :, possible].log() * factors[:, :, possible]).sum()
    found = torch.autograd.grad(mine, leaves, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(theirs, leaves), strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_the_limits_of_the_gate_are_generating_and_copying() -> None:
    logits, scores, gate, tokens, allowed = problem([[3, 1, 3, 0]])
    log_probs, weights = distributions(logits, scores, allowed)
    generated = mix_with_copies(log_probs, weights, torch.full_like(gate, 1e3), tokens, allowed)
    assert torch.allclose(generated, log_probs, atol=1e-12)
    copied = mix_with_copies(log_probs, weights, torch.full_like(gate, -1e3), tokens, allowed).exp()
    assert torch.allclose(copied[0, :, 3], weights[0, :, 0] + weights[0, :, 2])
    assert torch.allclose(copied[0, :, 1], weights[0, :, 1])
    assert (copied[0, :, [0, 2, 4, 5]] == 0).all()


def test_a_source_without_anything_to_copy_is_generated_from() -> None:
    logits, scores, gate, tokens, allowed = problem([[0, 0, 0, 0], [1, 2, 3, 4]])
    log_probs, weights = distributions(logits, scores, allowed)
    found = mix_with_copies(log_probs, weights, gate, tokens, allowed)
    assert torch.equal(found[0], log_probs[0])
    assert not torch.allclose(found[1, :, 1:], log_probs[1, :, 1:])


def test_weights_that_underflow_leave_finite_values_and_gradients() -> None:
    weights = torch.tensor([[[1.0, 0.0, 0.0]]], requires_grad=True)
    logits = torch.tensor([[[-math.inf, 0.0, -90.0, 1.0]]])
    gate = torch.tensor([[-200.0]], requires_grad=True)
    log_probs = logits.log_softmax(dim=2).requires_grad_()
    found = mix_with_copies(log_probs, weights, gate, torch.tensor([[1, 2, 3]]), torch.tensor([[True] * 3]))
    found[:, :, 1:].sum().backward()
    assert torch.isfinite(found[:, :, 1:]).all()
    for leaf in (weights, gate, log_probs):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@given(st.lists(st.lists(st.integers(-1, 3), min_size=5, max_size=5), min_size=1, max_size=4))
def test_first_positions_are_those_of_a_search(rows: list[list[int]]) -> None:
    assert first_positions(torch.tensor(rows)).tolist() == [[row.index(token) for token in row] for row in rows]


@pytest.mark.parametrize("length", [1, 7])
def test_nothing_is_as_large_as_positions_times_source_times_vocabulary(length: int) -> None:
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            sizes.extend([result.numel()] if isinstance(result, Tensor) else [])
            return result

    tokens = torch.arange(5)[None] % 3
    weights = torch.full((1, length, 5), 0.2)
    with Watch():
        mix_with_copies(torch.zeros(1, length, 50), weights, torch.zeros(1, length), tokens, tokens >= 0)
    assert max(sizes) <= length * 50
