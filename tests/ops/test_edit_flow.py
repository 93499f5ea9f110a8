"""The process of Edit Flows over lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.data.batch import Target
from nat.ops.alignment import align
from nat.ops.edit_flow import OnTheWay, Rates, hazard, share_done, time_of

Sequences = st.lists(st.integers(7, 9), max_size=6)
Pairs = st.lists(st.tuples(Sequences, Sequences), min_size=1, max_size=5)


def on_the_way(pairs: list[tuple[list[int], list[int]]], share: float, seed: int) -> OnTheWay:
    one, other = (Target.from_lists([pair[side] for pair in pairs]) for side in (0, 1))
    alignment = align(one.tokens, one.valid, other.tokens, other.valid)
    noise = torch.rand(alignment.old.shape, generator=torch.Generator().manual_seed(seed))
    return OnTheWay.of(one.tokens, other.tokens, alignment, noise < share)


@settings(deadline=None, max_examples=100)
@given(Pairs, st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(0, 9))
def test_the_edits_that_are_left_give_the_target(
    pairs: list[tuple[list[int], list[int]]], share: float, seed: int
) -> None:
    """Each done where its place says: behind the begin, or behind or in the token of this number."""
    way = on_the_way(pairs, share, seed)
    for row, (one, other) in enumerate(pairs):
        sequence = way.tokens[row][way.present[row]].tolist()
        behind: list[list[int]] = [[] for _ in range(len(sequence) + 1)]
        own: list[list[int]] = [[], *([token] for token in sequence)]
        for column in range(way.tokens.size(1)):
            place, token = int(way.place[row, column]), int(way.wanted[row, column])
            edits = [bool(kind[row, column]) for kind in (way.inserted, way.substituted, way.deleted)]
            assert sum(edits) <= 1
            if edits[0]:
                behind[place].append(token)
            elif edits[1]:
                assert own[place] != [token]
                own[place] = [token]
            elif edits[2]:
                own[place] = []
        assert [token for place in zip(own, behind, strict=True) for part in place for token in part] == other
        if share == 0.0:
            assert sequence == one
        if share == 1.0:
            assert sequence == other


def test_the_hazard_is_what_ends_the_share_that_is_left() -> None:
    time = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(-(1 - share_done(time)).log().sum(), time)
    assert torch.allclose(slope, hazard(time.detach()))
    assert torch.allclose(time_of(share_done(time.detach())), time.detach())
    assert hazard(0.5) == pytest.approx(0.75 / 0.875)


def test_rates_are_none_where_there_is_no_place() -> None:
    valid = torch.tensor([[True, True, False], [False, False, False]])
    rates = Rates.of(torch.ones(2, 4, 3), valid)
    assert rates.insertion.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert rates.substitution.tolist() == rates.deletion.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]
    assert rates.total.tolist() == [7, 1]
    assert rates.acting.tolist() == [[0, 2, 2, 0], [0, 0, 0, 0]]
