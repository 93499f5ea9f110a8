"""The driver of several passes with steps whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.rows import Rows
from nat.search.canvas import Canvas, Fate
from nat.search.refine import History, Refined, as_it_is, refine, unchanged

MAX = 5
FEW = settings(deadline=None, max_examples=25)  # a deadline would measure the machine
GOALS = st.lists(st.integers(0, 7), min_size=1, max_size=5)


@dataclass(frozen=True)
class Goals(Rows):
    row: Tensor
    goal: Tensor


def start(goals: list[int], width: int = 2) -> tuple[Canvas, Goals]:
    rows, tokens = torch.arange(len(goals)), torch.zeros(len(goals), width, dtype=torch.long)
    valid = torch.ones_like(tokens, dtype=torch.bool)
    inputs = torch.zeros(len(goals), width, 2)
    canvas = replace(Canvas.start(tokens, valid), rows={"row": rows}, positions={"inputs": inputs})
    return canvas, Goals(rows, torch.tensor(goals))


class Count:
    """Every pass adds 1 to the tokens of a row until they are its goal: so a row changes in `goal` passes."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, canvas: Canvas, memory: Goals, number: int) -> tuple[Canvas, int]:
        assert canvas.rows["row"].tolist() == memory.row.tolist()
        self.seen.append(canvas.rows["row"].tolist())
        assert number == len(self.seen)
        tokens = (canvas.tokens + 1).minimum(memory.goal[:, None])
        fate = torch.where(tokens == canvas.tokens, int(Fate.KEPT), int(Fate.WRITTEN))
        inputs = tokens[:, :, None] * torch.tensor([1.0, -1.0])
        return replace(canvas, tokens=tokens, scores=-tokens.float(), fate=fate, positions={"inputs": inputs}), 1


def test_rows_leave_canvas_and_memory_at_their_fixpoint() -> None:
    step = Count()
    found = refine(step, *start([2, 0, 4, 1]), max_passes=10, finished=unchanged)
    assert step.seen == [[0, 1, 2, 3], [0, 2, 3], [0, 2], [2], [2]]
    assert found.calls.tolist() == [3, 1, 5, 2]
    assert found.finished.all()
    assert found.canvas.rows["row"].tolist() == [0, 1, 2, 3]
    assert found.canvas.tokens.tolist() == [[2, 2], [0, 0], [4, 4], [1, 1]]
    assert found.canvas.positions["inputs"][:, :, 1].tolist() == [[-2, -2], [0, 0], [-4, -4], [-1, -1]]
    assert found.canvas.scores.tolist() == [[-2, -2], [0, 0], [-4, -4], [-1, -1]]
    assert found.history(as_it_is) is None


@FEW
@given(GOALS, st.integers(1, MAX))
def test_the_limit_is_a_number_of_decoder_calls(goals: list[int], limit: int) -> None:
    step = Count()
    found = refine(step, *start(goals), max_passes=limit, finished=unchanged)
    assert found.calls.tolist() == [min(goal + 1, limit) for goal in goals]
    assert found.finished.tolist() == [goal + 1 <= limit for goal in goals]
    assert found.canvas.tokens[:, 0].tolist() == [min(goal, limit) for goal in goals]
    assert len(step.seen) == min(limit, max(goals) + 1)
    assert step.seen == [[i for i, goal in enumerate(goals) if goal >= t] for t in range(len(step.seen))]


def test_ten_passes_are_ten_calls() -> None:
    step = Count()
    assert refine(step, *start([99, 99]), max_passes=10, finished=unchanged).calls.tolist() == [10, 10]
    assert len(step.seen) == 10
    with pytest.raises(AssertionError):
        refine(Count(), *start([1]), max_passes=0, finished=unchanged)


def test_the_method_says_when_a_row_is_finished() -> None:
    def at_two(before: Canvas, after: Canvas) -> Tensor:
        assert (before.tokens < after.tokens).all()
        return after.tokens[:, 0] >= 2

    found = refine(Count(), *start([5, 9]), max_passes=10, finished=at_two)
    assert found.calls.tolist() == [2, 2]


def test_steps_see_no_gradient() -> None:
    def step(canvas: Canvas, memory: Goals, number: int) -> tuple[Canvas, int]:
        assert not torch.is_grad_enabled()
        return canvas, 1

    refine(step, *start([1]), max_passes=1, finished=unchanged)


# --- canvases that grow -----------------------------------------------------------------------------


def grow(canvas: Canvas, memory: Goals, number: int) -> tuple[Canvas, int]:
    """A row gets one more position in each pass, with its number + 10 as token, until it has `goal` of them."""
    more = canvas.lengths < memory.goal
    wide = canvas.inserted(torch.zeros(len(canvas), canvas.tokens.size(1) + 1).long(), token=0)
    counts = (
        torch.zeros(len(wide), wide.tokens.size(1) + 1).long().scatter(1, wide.lengths[:, None], more[:, None].long())
    )
    wide = wide.inserted(counts, token=0)
    new = wide.fate == Fate.INSERTED
    return replace(
        wide,
        tokens=wide.tokens + new * (wide.rows["row"][:, None] + 10),
        scores=wide.scores.masked_fill(new, -1.0),
        positions={"inputs": wide.positions["inputs"] + new[:, :, None] * number},
    ), 1


def grown(goals: list[int], **options: Any) -> Refined[Canvas]:
    canvas, memory = start(goals, width=1)
    empty = replace(canvas, valid=torch.zeros_like(canvas.valid))
    return refine(grow, empty, memory, **({"max_passes": 9, "finished": unchanged} | options))


def test_canvases_of_all_widths_are_gathered_in_order() -> None:
    found = grown([2, 0, 3, 1])
    canvas = found.canvas
    assert found.calls.tolist() == [3, 1, 4, 2]
    assert canvas.tokens[:, :3].tolist() == [[10, 10, 0], [0, 0, 0], [12, 12, 12], [13, 0, 0]]
    assert canvas.valid[:, :3].tolist() == [[True, True, False], [False] * 3, [True] * 3, [True, False, False]]
    assert not canvas.valid[:, 3:].any()
    assert canvas.positions["inputs"][:, :3, 0].tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 3], [1, 0, 0]]
    assert canvas.scores[:, :3].tolist() == [[-1, -1, 0], [0, 0, 0], [-1, -1, -1], [-1, 0, 0]]
    assert canvas.rows["row"].tolist() == [0, 1, 2, 3]
    assert canvas.positions["inputs"].shape == (*canvas.tokens.shape, 2)


def test_history_holds_every_position_of_every_pass_and_nothing_after_the_end() -> None:
    found = grown([2, 0, 3, 1], history=True)
    history = found.history(as_it_is)
    assert isinstance(history, History)
    assert history.tokens.shape == history.confidence.shape == history.fate.shape
    assert history.tokens.shape[:2] == (4, 4)
    none, kept, new = int(Fate.NONE), int(Fate.KEPT), int(Fate.INSERTED)
    assert history.fate[0, :, :3].tolist() == [[new, none, none], [kept, new, none], [kept, kept, none], [none] * 3]
    assert history.tokens[2, :, :3].tolist() == [[12, 0, 0], [12, 12, 0], [12, 12, 12], [12, 12, 12]]
    assert history.confidence[2, :, :3].tolist() == [[-1, 0, 0], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1]]
    for row, passes in enumerate(found.calls.tolist()):
        for table in (history.tokens, history.confidence, history.fate):
            assert (table[row, passes:] == 0).all()
    assert grown([2, 0, 3, 1], history=True, max_passes=1).history(as_it_is).fate[0].any()  # type: ignore[union-attr]


@settings(FEW, max_examples=10)
@given(GOALS, st.integers(1, MAX))
def test_a_row_is_refined_as_if_alone(goals: list[int], limit: int) -> None:
    together = grown(goals, max_passes=limit, history=True)
    for i, goal in enumerate(goals):
        alone = grown([goal], max_passes=limit, history=True)
        keep = together.canvas.valid[i]
        assert keep.sum() == alone.canvas.valid.sum() == min(goal, limit)
        assert (together.canvas.tokens[i][keep] == 10 + i).all()
        assert together.calls[i] == alone.calls[0]
        fates = [together.history(as_it_is).fate[i], alone.history(as_it_is).fate[0]]  # type: ignore[union-attr]
        common = [min(sizes) for sizes in zip(*(fate.shape for fate in fates), strict=True)]
        assert torch.equal(*(fate[: common[0], : common[1]] for fate in fates))


def test_unchanged_looks_at_valid_positions_and_at_their_number() -> None:
    def canvas(rows: list[list[int]], width: int, junk: int = 0) -> Canvas:
        tokens = torch.tensor([row + [junk] * (width - len(row)) for row in rows])
        valid = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        return Canvas.start(tokens, valid)

    before = canvas([[8, 9], [8, 9], [8], [8, 9], [8, 0]], 2)
    after = canvas([[8, 9], [8, 7], [8], [8], [8, 0, 0]], 4, junk=3)
    assert unchanged(before, after).tolist() == [True, False, True, False, False]
    assert unchanged(after, before).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("least", [1, 3, MAX])
def test_before_the_least_passes_nobody_is_asked_whether_a_row_has_ended(least: int) -> None:
    asked: list[int] = []

    def finished(before: Canvas, after: Canvas) -> Tensor:
        asked.append(len(before))
        return unchanged(before, after)

    step = Count()
    found = refine(step, *start([0, 2, 4]), max_passes=MAX, finished=finished, least_passes=least)
    assert found.calls.tolist() == [max(least, passes) for passes in (1, 3, 5)]
    assert len(asked) == MAX - least + 1
    assert found.finished.all()
    assert found.canvas.tokens[:, 0].tolist() == [0, 2, 4]
