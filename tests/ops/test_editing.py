"""Insertion and deletion of positions against lists."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.data.batch import Target
from nat.ops.editing import NEW, bracket, deletion, gaps, insertion, rearrange

ROW = st.lists(st.integers(0, 3), min_size=1, max_size=6)  # counts of the gaps of a row of one position less


@given(st.lists(ROW, min_size=1, max_size=4))
def test_insertion_keeps_the_order_and_makes_room(counts: list[list[int]]) -> None:
    rows = [list(range(10, 10 + len(row) - 1)) for row in counts]
    target = Target.from_lists(rows)
    padded = torch.zeros(len(rows), target.tokens.size(1) + 1, dtype=torch.long)
    for i, row in enumerate(counts):
        padded[i, : len(row)] = torch.tensor(row)
    origin, valid = insertion(padded, target.valid)
    moved = rearrange(target.tokens, origin).masked_fill(origin == NEW, NEW)
    expected = [
        [
            *(NEW for _ in range(row[0])),
            *(x for token, n in zip(old, row[1:], strict=True) for x in (token, *[NEW] * n)),
        ]
        for old, row in zip(rows, counts, strict=True)
    ]
    assert [row[keep].tolist() for row, keep in zip(moved, valid, strict=True)] == expected
    assert valid.size(1) == max(1, *(len(row) for row in expected), 1)
    assert (valid.int().diff(dim=1) <= 0).all()


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_deletion_keeps_what_is_kept_in_order(keep: list[list[bool]]) -> None:
    values = torch.arange(10, 13).expand(len(keep), 3)
    origin, valid = deletion(torch.tensor(keep))
    kept = rearrange(values, origin)
    expected = [[10 + i for i, kept in enumerate(row) if kept] for row in keep]
    assert [row[real].tolist() for row, real in zip(kept, valid, strict=True)] == expected
    assert valid.size(1) == max(1, *(sum(row) for row in keep), 1)


def test_values_of_any_kind_are_moved_and_new_ones_are_nothing() -> None:
    origin = torch.tensor([[1, NEW, 0]])
    assert rearrange(torch.tensor([[True, True]]), origin).tolist() == [[True, False, True]]
    vectors = torch.arange(4.0).view(1, 2, 2)
    assert rearrange(vectors, origin).tolist() == [[[2.0, 3.0], [0.0, 0.0], [0.0, 1.0]]]


def test_both_ends_are_marked_and_gaps_are_one_more_than_positions() -> None:
    target = Target.from_lists([[7, 8], [], [9]])
    tokens, valid = bracket(target.tokens, target.valid, first=2, last=3)
    assert tokens.tolist() == [[2, 7, 8, 3], [2, 3, 0, 0], [2, 9, 3, 0]]
    assert valid.sum(dim=1).tolist() == [4, 2, 3]
    assert gaps(target.valid).tolist() == [[True, True, True], [True, False, False], [True, True, False]]
