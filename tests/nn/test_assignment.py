"""The cheapest assignment against an enumeration of all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch

from nat.nn.assignment import best_order


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_order_is_the_best_of_all_permutations(size: int) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        log_probs = torch.randn(1, size, size, generator=generator, dtype=torch.float64).log_softmax(dim=2)
        permutations = torch.tensor(list(itertools.permutations(range(size))))
        sums = log_probs[0].gather(1, permutations.T).sum(dim=0)
        found = best_order(log_probs, torch.ones(1, size, dtype=torch.bool))[0]
        assert found.tolist() == permutations[sums.argmax()].tolist()


def test_positions_that_are_not_asked_for_keep_their_own_and_rows_do_not_see_each_other() -> None:
    log_probs = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1)).log_softmax(dim=2)
    where = torch.tensor([[True, True, True, False, False], [False, True, False, True, True], [False] * 5])
    together = best_order(log_probs, where)
    positions = torch.arange(5)
    for row in range(3):
        assert torch.equal(together[row][~where[row]], positions[~where[row]])
        assert together[row][where[row]].sort().values.tolist() == positions[where[row]].tolist()
        assert torch.equal(best_order(log_probs[row : row + 1], where[row : row + 1])[0], together[row])
    places = where[1].nonzero().squeeze(1)
    alone = best_order(log_probs[1][places][:, places][None], torch.ones(1, 3, dtype=torch.bool))[0]
    assert torch.equal(together[1][places], places[alone])


def test_what_is_impossible_is_avoided_and_what_is_not_a_number_fails_later() -> None:
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    impossible = torch.tensor([[[0.0, -torch.inf], [-1.0, -50.0]]])
    assert best_order(impossible, everywhere).tolist() == [[0, 1]]
    assert best_order(torch.full((1, 2, 2), torch.nan), everywhere).sort().values.tolist() == [[0, 1]]
