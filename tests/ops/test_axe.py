"""Aligned cross entropy against an enumeration of all alignments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nat.ops.axe import aligned_loss
from nat.ops.lattice import TargetScores, target_ids

EPS = 0


def random_log_probs(rows: int, positions: int, size: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, positions, size, generator=generator, dtype=torch.float64)).log_softmax(dim=-1)


def alignments(num_positions: int, num_tokens: int) -> Iterator[list[tuple[str, int, int]]]:
    """Every way to (num_positions, num_tokens): steps (kind, predictions, tokens) with what is done after each."""
    if num_positions == num_tokens == 0:
        yield []
        return
    for kind, down, right in (("align", 1, 1), ("prediction", 1, 0), ("token", 0, 1)):
        if num_positions >= down and num_tokens >= right:
            for way in alignments(num_positions - down, num_tokens - right):
                yield [*way, (kind, num_positions, num_tokens)]


def cost(
    log_probs: Tensor, target: list[int], way: list[tuple[str, int, int]], hidden: list[bool], delta: float
) -> Tensor:
    """Of one row and alignment; positions and tokens counted from 1, as in the paper."""
    total = log_probs.new_zeros(())
    for kind, j, i in way:
        given = j > 0 and not hidden[j - 1]
        if kind == "token":
            scorer = j + 1 if j == 0 or given else j  # the first prediction of the run scores what is skipped before it
            possible = scorer <= len(hidden) and hidden[scorer - 1]
            total = total - delta * log_probs[scorer - 1, target[i - 1]] if possible else total + math.inf
        elif given:
            total = total if kind == "align" and i == j else total + math.inf
        else:
            total = total - log_probs[j - 1, target[i - 1] if kind == "align" else EPS]
    return total


def least(log_probs: Tensor, target: list[int], hidden: list[bool], delta: float) -> Tensor:
    ways = alignments(len(hidden), len(target))
    return torch.stack([cost(log_probs, target, way, hidden, delta) for way in ways]).min()


def losses(
    log_probs: Tensor, targets: list[list[int]], hidden: list[list[bool]], *, delta: float = 1.0, wider: int = 0
) -> Tensor:
    """Of a padded batch; wider: columns of padding."""
    width, most = max(map(len, targets)) + wider, log_probs.size(1)
    tokens = torch.tensor([row + [3] * (width - len(row)) for row in targets])
    lengths = torch.tensor([len(row) for row in targets])
    ids = target_ids(tokens, lengths, blank=EPS)
    columns = log_probs.gather(2, ids[:, None].expand(-1, most, -1))
    scored = TargetScores.of(columns, ids, torch.tensor([len(row) for row in hidden]), lengths)
    where = torch.tensor([row + [False] * (most - len(row)) for row in hidden])
    return aligned_loss(scored, where, skip_target=delta)


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("positions", "target"), [(3, [1, 2, 3]), (1, [2]), (4, [1, 1, 2]), (2, [3, 1, 1, 2]), (3, [2, 2, 2])]
)
def test_the_loss_is_that_of_the_cheapest_of_all_alignments(positions: int, target: list[int], delta: float) -> None:
    for seed in range(5):
        log_probs = random_log_probs(1, positions, seed=seed).requires_grad_()
        hidden = [True] * positions
        found, wanted = (
            losses(log_probs, [target], [hidden], delta=delta)[0],
            least(log_probs[0], target, hidden, delta),
        )
        assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
        gradient, by_hand = (torch.autograd.grad(value, log_probs)[0] for value in (found, wanted))
        torch.testing.assert_close(gradient, by_hand)


@pytest.mark.parametrize("hidden", list(itertools.product([True, False], repeat=4))[:-1])
def test_given_positions_stand_for_their_own_token_and_cost_nothing(hidden: tuple[bool, ...]) -> None:
    target = [1, 2, 1, 1]
    for seed, delta in itertools.product(range(3), (0.2, 1.0)):
        log_probs = random_log_probs(1, 4, seed=seed).requires_grad_()
        found, wanted = (
            losses(log_probs, [target], [list(hidden)], delta=delta)[0],
            least(log_probs[0], target, list(hidden), delta),
        )
        assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
        gradient, by_hand = (torch.autograd.grad(value, log_probs)[0] for value in (found, wanted))
        torch.testing.assert_close(gradient, by_hand)
        assert not gradient[0][~torch.tensor(hidden)].any()


def test_a_given_position_is_not_skipped() -> None:
    """Though the prediction before it would rather stand for its token."""
    chances = torch.tensor([[[1e-6, 1e-6, 1.0], [1.0, 1e-6, 1e-6]]], dtype=torch.float64)
    found = losses(chances.log(), [[1, 2]], [[True, False]], delta=0.2)
    assert found.item() == pytest.approx(-math.log(1e-6))


def test_a_row_has_the_loss_that_it_has_alone_and_padding_has_no_gradient() -> None:
    targets, hidden = [[1, 2, 3], [2], [3, 3, 1, 2]], [[True] * 3, [True], [True, False, True, True]]
    log_probs = random_log_probs(3, 6).requires_grad_()
    found = losses(log_probs, targets, hidden, delta=2.0, wider=2)
    found.sum().backward()
    for row, (target, where) in enumerate(zip(targets, hidden, strict=True)):
        alone = losses(log_probs[row : row + 1, : len(where)].detach(), [target], [where], delta=2.0)
        assert found[row].item() == pytest.approx(alone.item(), abs=1e-12)
        assert log_probs.grad is not None
        assert not log_probs.grad[row, len(where) :].any()


def test_a_shifted_translation_costs_two_skips_and_not_every_token() -> None:
    """The paper's figure 1: predictions y_2 y_3 y_4 eps cost one token that is skipped."""
    sure = torch.full((1, 4, 5), 1e-3, dtype=torch.float64)
    for place, token in enumerate([2, 3, 4, EPS]):
        sure[0, place, token] = 1.0
    log_probs = (sure / sure.sum(dim=2, keepdim=True)).log()
    found = losses(log_probs, [[1, 2, 3, 4]], [[True] * 4])
    right = math.log(1.004)
    assert found.item() == pytest.approx(4 * right + math.log(1.004 / 1e-3))


def test_impossible_tokens_are_skipped_or_cost_a_finite_price() -> None:
    log_probs = random_log_probs(1, 2)
    log_probs[0, :, 1] = -torch.inf
    found = losses(log_probs.requires_grad_(), [[1, 2]], [[True, True]])
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert torch.isfinite(log_probs.grad).all() if log_probs.grad is not None else False
