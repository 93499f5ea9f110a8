"""Two texts on one canvas, by hand."""

from __future__ import annotations

import torch

from nat.data.batch import Draft, Target
from nat.data.vocabulary import Symbol
from nat.nn.joint import Side
from nat.search.editing import EditCanvas, from_draft
from nat.search.insertion import SEPARATOR, Choice, InsertionCanvas, within
from nat.search.pair import boundary, by_gap, history_of, paired, slots_of, text_of
from nat.search.refine import Fate, History

SOURCES = [[7, 8], [], [9], []]
TARGETS = [[10, 11, 12], [13], [], []]


def draft(rows: list[list[int]], closed: list[list[int]] | None = None) -> Draft:
    side = Target.from_lists(rows)
    table = torch.zeros(len(rows), side.tokens.size(1) + 1, dtype=torch.bool)
    for row, chosen in enumerate(closed or []):
        table[row, chosen] = True
    return Draft(side.tokens, side.valid, side.valid, table)


def lists(canvas: EditCanvas) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(canvas.tokens, canvas.valid, strict=True)]


def pair() -> EditCanvas:
    return paired(from_draft(draft(SOURCES)), from_draft(draft(TARGETS)))


def test_a_pair_has_as_many_gaps_as_both_sides_have_slots() -> None:
    canvas = pair()
    assert lists(canvas) == [s + [SEPARATOR] + t for s, t in zip(SOURCES, TARGETS, strict=True)]
    assert boundary(canvas).squeeze(1).tolist() == [2, 0, 1, 0]
    assert slots_of(canvas, Side.SOURCE).sum(dim=1).tolist() == [3, 1, 2, 1]
    assert slots_of(canvas, Side.TARGET).sum(dim=1).tolist() == [4, 2, 1, 1]
    assert slots_of(canvas, Side.SOURCE)[0].tolist() == [True] * 3 + [False] * 4
    assert slots_of(canvas, Side.TARGET)[0].tolist() == [False] * 3 + [True] * 4
    assert lists(text_of(canvas, Side.SOURCE)) == SOURCES
    assert lists(text_of(canvas, Side.TARGET)) == TARGETS


def test_closed_gaps_of_both_sides_stay_closed_where_the_sides_meet_too() -> None:
    source = draft(SOURCES, [[0, 2], [0], [], []])
    target = draft(TARGETS, [[1], [], [0], [0]])
    canvas = paired(from_draft(source), from_draft(target))
    assert canvas.open_gaps[0].tolist() == [False, True, False, True, False, True, True]
    assert canvas.open_gaps[1, :3].tolist() == [False, True, True]
    assert canvas.open_gaps[2, :3].tolist() == [True, True, False]
    assert canvas.open_gaps[3, :2].tolist() == [True, False]
    assert not canvas.open_gaps[1:, 3:].any()


def test_values_of_slots_at_their_gaps() -> None:
    canvas = pair()
    values = {side: torch.arange(1.0, 5).expand(4, 4)[:, :, None] * (1 if side is Side.SOURCE else 10) for side in Side}
    found = [by_gap(canvas, side, values[side][:, : 3 + side]).squeeze(2) for side in Side]
    joined = found[0].where(slots_of(canvas, Side.SOURCE), found[1])
    assert joined[0].tolist() == [1, 2, 3, 10, 20, 30, 40]
    assert joined[1, :3].tolist() == [1, 10, 20]
    assert joined[2, :3].tolist() == [1, 2, 10]
    assert joined[3, :2].tolist() == [1, 10]


def test_a_limit_holds_for_its_own_side() -> None:
    canvas = InsertionCanvas.of(pair())
    every = torch.zeros(4, 7, dtype=torch.bool)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        every[row, : len(source) + len(target) + 2] = True
    ranks = torch.arange(7.0).expand(4, 7)  # the right ones are the most probable
    choice = Choice(torch.zeros_like(every).long(), ranks, ranks, every, torch.zeros_like(every))
    found = within(canvas, choice, torch.tensor([[3, 5], [9, 0], [1, 9], [0, 0]]))
    assert found[0].nonzero().squeeze(1).tolist() == [2, 5, 6]
    assert found[1].nonzero().squeeze(1).tolist() == [0]
    assert found[2].nonzero().squeeze(1).tolist() == [2]
    assert not found[3].any()


def test_the_history_of_a_side() -> None:
    tokens = torch.tensor([[[7, SEPARATOR, 0, 0], [7, 8, SEPARATOR, 9]], [[SEPARATOR, 5, 0, 0], [0, 0, 0, 0]]])
    fate = torch.tensor([[[1, 1, 0, 0], [1, 4, 1, 4]], [[1, 4, 0, 0], [0, 0, 0, 0]]])
    history = History(tokens, -tokens.float(), fate)
    source, target = (history_of(history, side) for side in Side)
    assert source.tokens.tolist() == [[[7, 0], [7, 8]], [[0, 0], [0, 0]]]
    assert source.fate.tolist() == [[[1, 0], [1, 4]], [[0, 0], [0, 0]]]
    assert target.tokens.tolist() == [[[0], [9]], [[5], [0]]]
    assert target.confidence.tolist() == [[[0], [-9]], [[-5], [0]]]
    assert int(Fate.INSERTED) == 4


def test_the_separator_is_no_token_of_any_text() -> None:
    assert SEPARATOR in {int(symbol) for symbol in Symbol} - {int(Symbol.UNK)}
