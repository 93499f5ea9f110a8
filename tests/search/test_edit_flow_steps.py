"""Steps of Edit Flows on a canvas, over lists."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import draft_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.nn.rng import RowRandom
from nat.ops.edit_flow import Rates
from nat.search.canvas import Canvas, Fate
from nat.search.edit_flow import Edits, allowed, edited
from nat.search.editing import GIVEN, from_draft, traced, with_deleted

Action = st.tuples(st.booleans(), st.sampled_from(["keep", "substitute", "delete"]))
Rows = st.lists(st.lists(Action, min_size=1, max_size=6), min_size=1, max_size=4)  # of the begin, then of each token


def canvas_of(rows: list[list[int]]) -> Canvas:
    return traced(from_draft(draft_of(rows)))


def step(rows: list[list[tuple[bool, str]]]) -> tuple[Canvas, Canvas]:
    """Before and after. Token i of a row is 10 + i; 30 + i is inserted behind it (30: behind the begin), 50 + i written
    in its place."""
    before = canvas_of([[10 + i for i in range(1, len(row))] for row in rows])
    shape = (len(rows), before.tokens.size(1) + 1)
    flags = {name: torch.zeros(shape, dtype=torch.bool) for name in ("inserted", "substitute", "delete")}
    for row, actions in enumerate(rows):
        for place, (inserts, action) in enumerate(actions):
            flags["inserted"][row, place] = inserts
            if place > 0 and action != "keep":
                flags[action][row, place] = True
    places = torch.arange(shape[1]).expand(shape)
    tokens, scores = torch.stack((places + 30, places + 50), dim=2), torch.stack((-places - 1.0, -places - 0.5), dim=2)
    edits = Edits(flags["inserted"], flags["substitute"], flags["delete"])
    return before, edited(before, edits, edits.inserted.long(), tokens, scores)


@settings(deadline=None, max_examples=100)
@given(Rows)
def test_all_edits_happen_at_once(rows: list[list[tuple[bool, str]]]) -> None:
    before, after = step(rows)
    shown = with_deleted(before, after)
    for row, actions in enumerate(rows):
        expected: list[tuple[int, Fate, float]] = []
        history: list[tuple[int, Fate]] = []
        for place, (inserts, action) in enumerate(actions):
            if place > 0 and action == "keep":
                expected.append((10 + place, Fate.KEPT, 0.0))
                history.append((10 + place, Fate.KEPT))
            elif place > 0:
                history.append((10 + place, Fate.DELETED))
                if action == "substitute":
                    expected.append((50 + place, Fate.WRITTEN, -place - 0.5))
                    history.append((50 + place, Fate.WRITTEN))
            if inserts:
                expected.append((30 + place, Fate.INSERTED, -place - 1.0))
                history.append((30 + place, Fate.INSERTED))
        valid = after.valid[row]
        found = zip(*(t[row][valid].tolist() for t in (after.tokens, after.fate, after.scores)), strict=True)
        assert list(found) == expected
        assert after.positions[GIVEN][row][valid].tolist() == [fate == Fate.KEPT for _, fate, _ in expected]
        assert not after.tokens[row][~valid].any() and not after.fate[row][~valid].any()
        assert shown.tokens[row][shown.valid[row]].tolist() == [token for token, _ in in_order(history)]
        assert shown.fate[row][shown.valid[row]].tolist() == [int(fate) for _, fate in in_order(history)]


def in_order(history: list[tuple[int, Fate]]) -> list[tuple[int, Fate]]:
    """As `with_deleted` has it: what is inserted stands after the tokens that are deleted behind it."""
    found: list[tuple[int, Fate]] = []
    waiting: list[tuple[int, Fate]] = []
    replaced = {token - 40 for token, fate in history if fate is Fate.WRITTEN}
    for token, fate in history:
        if fate is Fate.INSERTED:
            waiting.append((token, fate))
            continue
        if fate is Fate.KEPT or token in replaced:
            found, waiting = [*found, *waiting], []
        found.append((token, fate))
    return found + waiting


def rates_of(values: Tensor) -> Rates:
    return Rates(*values.unbind(dim=2))


def test_edits_happen_with_their_probabilities() -> None:
    number = 20000
    rates = rates_of(torch.tensor([[[0.7, 0.0, 0.0], [0.0, 0.9, 0.3], [2.0, 0.0, 5.0]]]).expand(number, 3, 3))
    ids = torch.arange(number)[:, None]
    drawn = Edits.drawn(rates, 0.5, RowRandom.of((ids, ids >= 0), seed=1))
    inserted, substituted, deleted = (
        part.double().mean(dim=0) for part in (drawn.inserted, drawn.substituted, drawn.deleted)
    )
    assert inserted.tolist() == pytest.approx([1 - math.exp(-0.35), 0.0, 1 - math.exp(-1.0)], abs=0.015)
    acts = 1 - math.exp(-0.6)
    assert substituted.tolist() == pytest.approx([0.0, acts * 0.75, 0.0], abs=0.015)
    assert deleted.tolist() == pytest.approx([0.0, acts * 0.25, 1 - math.exp(-2.5)], abs=0.015)
    assert not (drawn.substituted & drawn.deleted).any()


COUNTS = rates_of(torch.tensor([[[1.8, 0.0, 0.0], [0.4, 0.2, 0.7], [0.6, 0.3, 0.25], [0.0, 0.1, 0.1]]]))


def test_an_edit_is_made_where_it_is_expected_and_of_a_token_the_likelier_one() -> None:
    edits = Edits.expected(COUNTS, threshold=0.5)
    assert edits.inserted.tolist() == [[True, False, True, False]]
    assert edits.substituted.tolist() == [[False, False, True, False]]
    assert edits.deleted.tolist() == [[False, True, False, False]]
    assert not Edits.expected(COUNTS, threshold=2.0).written.any()


@pytest.mark.parametrize(
    ("share", "first"),
    [
        (0.01, {"deleted 1"}),
        (0.4, {"deleted 1", "inserted 2"}),  # of 1.8 + 0.9 + 0.6 + 0.55 expected, 1.54
        (0.7, {"deleted 1", "inserted 2", "inserted 0"}),
        (1.0, {"deleted 1", "inserted 2", "inserted 0", "substituted 2"}),
    ],
)
def test_the_likeliest_come_first(share: float, first: set[str]) -> None:
    """Their own rates: 0.7 deleted, 0.6 x 0.9 and 1.8 x 0.25 inserted, 0.3 x 0.5 substituted."""
    probs = torch.tensor([[[0.25, 1.0], [1.0, 1.0], [0.9, 0.5], [1.0, 1.0]]])
    edits = Edits.expected(COUNTS, threshold=0.5).likeliest(COUNTS, probs.log(), share)
    found = {
        f"{name} {place}"
        for name in ("inserted", "substituted", "deleted")
        for place in getattr(edits, name)[0].nonzero().flatten().tolist()
    }
    assert found == first


def test_fixed_tokens_and_closed_gaps_have_no_rates() -> None:
    draft = draft_of([[7, 8, 9], [7]])
    draft.fixed[0, 1] = draft.closed[0, 0] = draft.closed[0, 2] = draft.closed[1, 1] = True
    rates = allowed(rates_of(torch.ones(2, 4, 3)), from_draft(draft))
    assert rates.insertion.tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    assert rates.substitution.tolist() == rates.deletion.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]


def test_a_translation_has_words() -> None:
    none = Edits(*(torch.zeros(3, 2, dtype=torch.bool) for _ in range(3)))
    canvas = canvas_of([[], [7], []])
    assert none.of_words(canvas).inserted.tolist() == [[True, False], [False, False], [True, False]]
    closed = replace(canvas, sealed=torch.tensor([True, False, False]))
    assert none.of_words(closed).inserted.tolist() == [[False, False], [False, False], [True, False]]
