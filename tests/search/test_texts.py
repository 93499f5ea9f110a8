"""Two texts that grow together, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.data.batch import Draft, Target
from nat.ops.editing import gaps
from nat.search.canvas import Canvas, Fate
from nat.search.editing import from_draft
from nat.search.insertion import Choice, Texts, all_grown

SOURCES = [[7, 8], [], [9], []]
TARGETS = [[10, 11, 12], [13], [], []]


def draft(rows: list[list[int]], closed: list[list[int]] | None = None) -> Draft:
    side = Target.from_lists(rows)
    table = torch.zeros(len(rows), side.tokens.size(1) + 1, dtype=torch.bool)
    for row, chosen in enumerate(closed or []):
        table[row, chosen] = True
    return Draft(side.tokens, side.valid, side.valid, table)


def lists(canvas: Canvas) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(canvas.tokens, canvas.valid, strict=True)]


def pair() -> Texts:
    return Texts.of(from_draft(draft(SOURCES)), from_draft(draft(TARGETS)))


def slots_of(texts: Texts) -> Tensor:
    return texts.in_a_row([gaps(canvas.valid) for canvas in texts.canvases])


def test_the_gaps_of_both_texts_stand_in_a_row_without_padding_between() -> None:
    texts = pair()
    assert texts.lengths.tolist() == [5, 1, 1, 0]
    assert slots_of(texts).sum(dim=1).tolist() == [7, 3, 3, 2]
    values = [torch.arange(1.0, 4).expand(4, 3)[:, :, None], torch.arange(10.0, 50, 10).expand(4, 4)[:, :, None]]
    joined = texts.in_a_row(values).squeeze(2)
    assert joined.tolist() == [
        [1, 2, 3, 10, 20, 30, 40],
        [1, 10, 20, 0, 0, 0, 0],
        [1, 2, 10, 0, 0, 0, 0],
        [1, 10, 0, 0, 0, 0, 0],
    ]
    assert slots_of(texts.select(torch.tensor([2]))).tolist() == [[True] * 3]
    for canvas, found, given in zip(texts.canvases, texts.of_each(joined), values, strict=True):
        real = gaps(canvas.valid)
        assert torch.equal(found[real], given.squeeze(2)[real])


def test_closed_gaps_of_both_texts_stay_closed_where_they_meet_too() -> None:
    source = draft(SOURCES, [[0, 2], [0], [], []])
    target = draft(TARGETS, [[1], [], [0], [0]])
    open_gaps = Texts.of(from_draft(source), from_draft(target)).open_gaps
    assert open_gaps[0].tolist() == [False, True, False, True, False, True, True]
    assert open_gaps[1, :3].tolist() == [False, True, True]
    assert open_gaps[2, :3].tolist() == [True, True, False]
    assert open_gaps[3, :2].tolist() == [True, False]
    assert not open_gaps[1:, 3:].any()


def test_a_limit_holds_for_its_own_text() -> None:
    texts = pair()
    ranks = torch.arange(7.0).expand(4, 7)  # the right ones are the most probable
    choice = Choice(
        torch.arange(20, 27).expand(4, 7), -ranks, ranks, slots_of(texts), torch.zeros(4, 7, dtype=torch.bool)
    )
    after = all_grown(texts, choice, torch.tensor([[3, 5], [9, 0], [1, 9], [0, 0]]))
    source, target = after.canvases
    assert lists(source) == [[7, 8, 22], [20], [9], []]
    assert lists(target) == [[10, 11, 25, 12, 26], [13], [22], []]
    assert target.scores[0].tolist() == [0, 0, -5, 0, -6]
    assert source.fate[0].tolist() == [Fate.KEPT, Fate.KEPT, Fate.INSERTED]
    assert after.cut.tolist() == [True, True, True, True]


@pytest.mark.parametrize("row", range(4))
def test_a_row_alone_grows_as_with_others(row: int) -> None:
    texts, index = pair(), torch.tensor([row])
    numbers = torch.arange(28.0).view(4, 7)
    choice = Choice(numbers.long(), -numbers, numbers, slots_of(texts), ~slots_of(texts))
    together = all_grown(texts, choice, torch.full((4, 2), 9))
    alone = all_grown(texts.select(index), choice.select(index), torch.full((1, 2), 9))
    for one, all_rows in zip(alone.canvases, together.canvases, strict=True):
        assert lists(one) == lists(all_rows)[row : row + 1]
