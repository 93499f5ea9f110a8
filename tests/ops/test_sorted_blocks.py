"""Sinkhorn normalisation, and attention to sorted blocks against loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nat.ops.partition import cut, num_parts, spread
from nat.ops.sinkhorn import block_means, means_up_to, sinkhorn, sorted_attention

LENGTHS = torch.tensor([7, 5, 1, 0])
BLOCKS = spread(LENGTHS, num_parts(LENGTHS, most=3, least=2), most=3, size=4)
FIXED = cut(LENGTHS, most=4, size=2)


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def all_allowed(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool)


# --- normalisation ----------------------------------------------------------------------------------


def test_columns_and_rows_are_divided_in_turn() -> None:
    scores = vectors(2, 4, 4)
    expected = scores.exp()
    for _ in range(3):
        expected = expected / expected.sum(dim=1, keepdim=True)
        expected = expected / expected.sum(dim=2, keepdim=True)
    torch.testing.assert_close(sinkhorn(scores, all_allowed(scores), iterations=3), expected, rtol=0, atol=1e-12)


def test_the_limit_is_doubly_stochastic() -> None:
    scores = 2 * vectors(3, 5, 5)
    found = sinkhorn(scores, all_allowed(scores), iterations=200)
    ones = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(found.sum(dim=1), ones, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=2), ones, rtol=0, atol=1e-12)


def test_at_a_low_temperature_it_is_the_best_permutation() -> None:
    for seed in range(5):
        scores = vectors(4, 4, seed=seed)
        best = max(itertools.permutations(range(4)), key=lambda p: sum(scores[i, j].item() for i, j in enumerate(p)))
        found = sinkhorn(scores / 0.005, all_allowed(scores), iterations=600)
        assert found.argmax(dim=1).tolist() == list(best)
        assert found.max(dim=1).values.min() > 0.9


def test_what_is_not_allowed_is_0_and_has_no_part() -> None:
    scores = vectors(4, 4).requires_grad_()
    allowed = torch.zeros(4, 4, dtype=torch.bool)
    allowed[:3, :3] = True
    found = sinkhorn(scores, allowed, iterations=5)
    small = sinkhorn(scores[:3, :3], allowed[:3, :3], iterations=5)
    torch.testing.assert_close(found[:3, :3], small, rtol=0, atol=1e-12)
    assert not found[3].any() and not found[:, 3].any()
    (gradient,) = torch.autograd.grad(found.square().sum(), scores)
    assert torch.isfinite(gradient).all()
    assert not gradient[~allowed].any()


def test_causal_rows_are_those_of_the_rows_above_alone() -> None:
    scores = vectors(5, 5).requires_grad_()
    earlier = torch.ones(5, 5, dtype=torch.bool).tril(-1)
    found = sinkhorn(scores, earlier, iterations=4, causal=True)
    expected = scores.exp() * earlier
    for _ in range(4):
        columns = expected.cumsum(dim=0)
        expected = torch.where(earlier, expected / columns.clamp(min=1e-300), 0.0)
        expected = torch.where(earlier, expected / expected.sum(dim=1, keepdim=True).clamp(min=1e-300), 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for row in range(5):
        (gradient,) = torch.autograd.grad(found[row].square().sum(), scores, retain_graph=True)
        assert not gradient[row + 1 :].any()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, earlier, iterations=2, causal=True), (scores,))


# --- blocks -----------------------------------------------------------------------------------------


def test_blocks_are_described_by_their_means() -> None:
    x, (positions, inside) = vectors(4, 7, 3), BLOCKS
    found = block_means(x, positions, inside)
    up_to = means_up_to(x, positions[:, :, 0])
    for b in range(4):
        for k in range(3):
            places = positions[b, k][inside[b, k]]
            expected = x[b, places].mean(dim=0) if len(places) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(found[b, k], expected)
            if len(places):
                torch.testing.assert_close(up_to[b, k], x[b, : places[0] + 1].mean(dim=0))


def by_loop(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, blocks: list[list[int]], *, first: int | None, causal: bool
) -> Tensor:
    """One head of one row, with weighted keys: exp(score) times how much of a slot is there."""
    size = max((len(block) for block in blocks), default=0)
    moved = []
    for weights in order:
        for slot in range(size):
            holders = [(w, block[slot]) for w, block in zip(weights, blocks, strict=False) if slot < len(block)]
            mass = sum(w for w, _ in holders)
            if holders and mass > 0:  # type: ignore[operator]
                moved.append((mass, sum(w * k[j] for w, j in holders), sum(w * v[j] for w, j in holders)))
            else:
                moved.append((torch.zeros(()).double(), torch.zeros_like(k[0]), torch.zeros_like(v[0])))
    found = torch.zeros_like(v)
    for place, block in enumerate(blocks):
        for i in block:
            seen = moved[place * size : (place + 1) * size] if first is None else moved[: first * size]
            if first is None:
                seen = seen + [(torch.ones(()).double(), k[j], v[j]) for j in block if j <= i or not causal]
            shares = torch.stack([mass * (key @ q[i] / q.size(1) ** 0.5).exp() for mass, key, _ in seen])  # type: ignore[operator, union-attr]
            found[i] = (shares / shares.sum()) @ torch.stack([value for *_, value in seen])  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("first", "causal"), [(None, False), (1, False), (2, False), (None, True)])
def test_attention_is_that_of_a_loop(first: int | None, causal: bool) -> None:
    q, k, v = (vectors(4, 2, 7, 4, seed=i).requires_grad_() for i in range(3))
    positions, inside = FIXED if causal else BLOCKS
    filled = inside.any(dim=2)
    allowed = (filled[:, :, None] & filled[:, None])[:, None].expand(-1, 2, -1, -1)
    allowed = allowed.tril(-1) if causal else allowed
    scores = vectors(*allowed.shape, seed=3).requires_grad_()
    order = sinkhorn(scores, allowed, iterations=2, causal=causal)
    found = sorted_attention(q, k, v, order, positions, inside, causal=causal, first=first)
    expected = torch.stack(
        [
            torch.stack(
                [
                    by_loop(
                        q[b, h],
                        k[b, h],
                        v[b, h],
                        order[b, h],
                        [p[i].tolist() for p, i in zip(positions[b], inside[b], strict=True) if i.any()],
                        first=first,
                        causal=causal,
                    )
                    for h in range(2)
                ]
            )
            for b in range(4)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    upstream = vectors(4, 2, 7, 4, seed=5)
    ours, theirs = (
        torch.autograd.grad((y * upstream).sum(), (q, k, v, scores), retain_graph=True) for y in (found, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
