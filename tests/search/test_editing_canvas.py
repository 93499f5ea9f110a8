"""What a decoder that edits starts from."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from builders import draft_of, phrases_of
from hypothesis import given
from hypothesis import strategies as st

from nat.data.batch import Source
from nat.search.canvas import Canvas, Fate
from nat.search.editing import num_orders, orders, start, traced, with_deleted

PHRASES = [[[10, 11], [12]], [], [[13]]]


def source(rows: int, **given: object) -> Source:
    return replace(Source.from_lists([[20]] * rows), **given)


def lists(canvas: Canvas) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(canvas.tokens, canvas.valid, strict=True)]


def test_nothing_asked_is_an_empty_canvas_with_one_open_gap() -> None:
    canvas = start(source(2))
    assert lists(canvas) == [[], []]
    assert canvas.open_gaps.tolist() == [[True, False], [True, False]]


def test_phrases_are_fixed_and_whole_in_every_order() -> None:
    canvas = start(source(3, phrases=phrases_of(PHRASES)), copies=2)
    assert lists(canvas) == [[10, 11, 12], [12, 10, 11], [], [], [13], [13]]
    assert torch.equal(canvas.fixed, canvas.valid)
    assert canvas.open_gaps[:2].tolist() == [[True, False, True, True], [True, True, False, True]]
    assert canvas.open_gaps[4].tolist() == [True, True, False, False]


def test_a_phrase_in_the_draft_is_fixed_where_it_stands_and_a_missing_one_follows() -> None:
    given = source(3, draft=draft_of([[10, 9, 10, 11, 10, 11], [5], [12]]), phrases=phrases_of(PHRASES))
    canvas = start(given)
    assert lists(canvas) == [[10, 9, 10, 11, 10, 11, 12], [5], [12, 13]]
    assert canvas.fixed[0].tolist() == [False, False, True, True, False, False, True]
    assert canvas.open_gaps[0].tolist() == [True, True, True, False, True, True, True, True]
    assert canvas.fixed[1:].tolist() == [[False] * 7, [False, True] + [False] * 5]


def test_two_equal_phrases_take_two_places() -> None:
    given = source(1, draft=draft_of([[7, 10, 7]]), phrases=phrases_of([[[7], [7], [7]]]))
    canvas = start(given)
    assert lists(canvas) == [[7, 10, 7, 7]]
    assert canvas.fixed.tolist() == [[True, False, True, True]]


def test_closed_gaps_of_a_draft_stay_closed() -> None:
    draft = draft_of([[5, 6], [7]])
    closed = torch.tensor([[True, False, True], [False, True, False]])
    canvas = start(source(2, draft=replace(draft, closed=closed)))
    assert canvas.open_gaps.tolist() == [[False, True, False], [True, False, False]]
    counts = torch.tensor([[0, 2, 0], [1, 0, 0]])
    wider = canvas.inserted(counts, token=4)
    assert lists(wider) == [[5, 4, 4, 6], [4, 7]]
    assert wider.open_gaps.tolist() == [[False, True, True, True, False], [True, True, False, False, False]]
    assert wider.fate.tolist() == [[1, 4, 4, 1], [4, 1, 0, 0]]
    assert Fate.INSERTED == 4
    assert lists(wider.without(wider.tokens == 4)) == [[5, 6], [7]]


@given(st.integers(0, 7), st.integers(1, 30))
def test_orders_begin_with_the_given_one_and_differ(number: int, count: int) -> None:
    found = orders(number, count)
    assert len(found) == count
    assert found[0] == tuple(range(number))
    assert all(sorted(order) == list(range(number)) for order in found)
    distinct = len(set(itertools.permutations(range(min(number, 5))))) if number <= 5 else 720
    assert len(set(found)) == min(count, distinct)
    assert num_orders(phrases_of([[[9]] * number]), limit=count) == min(count, distinct if number else 1)
    assert num_orders(None, limit=count) == 1


def test_the_start_of_a_row_does_not_depend_on_its_batch() -> None:
    rows = [*PHRASES, [[14], [15], [16]], [[17], [18]]]
    for copies in (2, 3, 6):
        together = start(source(5, phrases=phrases_of(rows)), copies=copies)
        for i, row in enumerate(rows):
            alone = start(source(1, phrases=phrases_of([row])), copies=copies)
            assert lists(alone) == lists(together)[copies * i : copies * (i + 1)]


Edits = st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=5)


def plain_picture(edits: list[tuple[bool, int]], last: int) -> list[tuple[int, int]]:
    """(token, fate) after a pass over tokens 10, 11 ...; edits: of each, whether it is deleted and how many 7s are
    inserted before it (before the next that stays, if it goes); last: how many after all."""
    found, pending = [], 0
    for i, (gone, new) in enumerate(edits):
        pending += new
        if not gone:
            found += [(7, int(Fate.INSERTED))] * pending
            pending = 0
        found.append((10 + i, int(Fate.DELETED if gone else Fate.KEPT)))
    return found + [(7, int(Fate.INSERTED))] * (pending + last)


@given(st.lists(st.tuples(Edits, st.integers(0, 2)), min_size=1, max_size=4))
def test_what_a_pass_deleted_is_shown_where_it_stood(rows: list[tuple[list[tuple[bool, int]], int]]) -> None:
    begun = start(source(len(rows), draft=draft_of([[10 + i for i in range(len(edits))] for edits, _ in rows])))
    before = traced(replace(begun, scores=-begun.tokens.float()))
    dropped = torch.zeros_like(before.valid)
    for row, (edits, _) in enumerate(rows):
        dropped[row, : len(edits)] = torch.tensor([gone for gone, _ in edits], dtype=torch.bool)
    after = before.without(dropped)
    counts = torch.zeros(len(rows), after.tokens.size(1) + 1, dtype=torch.long)
    for row, (edits, last) in enumerate(rows):
        gap = 0
        for gone, new in edits:
            counts[row, gap] += new
            gap += not gone
        counts[row, gap] += last
    found = with_deleted(before, after.inserted(counts, token=7))
    for row, (edits, last) in enumerate(rows):
        expected = plain_picture(edits, last)
        real = found.valid[row]
        assert list(zip(found.tokens[row, real].tolist(), found.fate[row, real].tolist(), strict=True)) == expected
        assert found.scores[row, real].tolist() == [0.0 if token == 7 else -float(token) for token, _ in expected]
        assert not found.tokens[row, ~real].any() and not found.fate[row, ~real].any()
        assert not real[len(expected) :].any()
