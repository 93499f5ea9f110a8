"""Rows reach every tensor, however deeply it is nested; batches of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nat.data.batch import Source
from nat.rows import Rows


@dataclass(frozen=True)
class Inner(Rows):
    x: Tensor
    name: str = "inner"


@dataclass(frozen=True)
class Outer(Rows):
    inner: Inner
    layers: tuple[Inner, ...]
    maybe: Tensor | None
    factor: float


def record() -> Outer:
    base = torch.arange(6).view(3, 2)
    return Outer(Inner(base), (Inner(base + 10), Inner(base + 20)), None, 0.5)


def test_select_takes_indices_in_order_and_masks() -> None:
    by_index = record().select(torch.tensor([2, 0]))
    assert by_index.inner.x.tolist() == [[4, 5], [0, 1]]
    assert [layer.x.tolist() for layer in by_index.layers] == [[[14, 15], [10, 11]], [[24, 25], [20, 21]]]
    assert (by_index.maybe, by_index.factor, by_index.inner.name) == (None, 0.5, "inner")
    by_mask = record().select(torch.tensor([True, False, True]))
    assert by_mask.inner.x.tolist() == [[0, 1], [4, 5]]


def test_select_of_nothing_keeps_the_shape() -> None:
    assert record().select(torch.tensor([], dtype=torch.long)).inner.x.shape == (0, 2)


def test_repeat_rows_puts_copies_side_by_side() -> None:
    assert record().repeat_rows(2).layers[1].x.tolist() == [[20, 21]] * 2 + [[22, 23]] * 2 + [[24, 25]] * 2
    assert len(record().repeat_rows(3)) == 9


@dataclass(frozen=True)
class Counted(Rows):
    """Rows that stand for twice as many."""

    x: Tensor

    def select(self, rows: Tensor) -> Counted:
        return Counted(self.x[rows // 2])

    def repeat_rows(self, n: int) -> Counted:
        return Counted(self.x * n)


def test_records_within_records_are_asked_in_their_own_way() -> None:
    @dataclass(frozen=True)
    class Holder(Rows):
        inner: Counted
        more: tuple[Counted, ...]

    holder = Holder(Counted(torch.arange(3)), (Counted(torch.arange(3) + 5),))
    chosen = holder.select(torch.tensor([5, 1]))
    assert (chosen.inner.x.tolist(), chosen.more[0].x.tolist()) == ([2, 0], [7, 5])
    assert holder.repeat_rows(2).more[0].x.tolist() == [10, 12, 14]


def test_len_and_device_come_from_the_first_tensor() -> None:
    assert len(record()) == 3
    assert record().device == torch.device("cpu")
    moved = record().to("meta")
    assert moved.device.type == moved.layers[1].x.device.type == "meta"


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        record().factor = 1.0  # type: ignore[misc]


def test_tokens_from_lists_and_back() -> None:
    rows = [[7, 8, 9], [], [7]]
    tokens = Source.from_lists(rows)
    assert tokens.tokens.tolist() == [[7, 8, 9], [0, 0, 0], [7, 0, 0]]
    assert tokens.lengths.tolist() == [3, 0, 1]
    assert tokens.to_lists() == rows
    assert Source.from_lists([[], []]).tokens.shape == (2, 1)


def test_compact_moves_padding_to_the_right_and_keeps_the_order_of_tokens() -> None:
    valid = torch.tensor([[False, True, False, True], [True, True, False, False], [False] * 4])
    tokens = Source(torch.tensor([[9, 7, 9, 8], [7, 8, 9, 9], [9, 9, 9, 9]]), valid).compact()
    assert tokens.tokens.tolist() == [[7, 8, 0, 0], [7, 8, 0, 0], [0, 0, 0, 0]]
    assert tokens.lengths.tolist() == [2, 2, 0]


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(Exception, match="valid"):
        Source(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))


def test_parts_of_different_widths_are_concatenated() -> None:
    @dataclass(frozen=True)
    class Named(Rows):
        parts: tuple[Inner, ...]
        names: dict[str, Tensor]
        factor: float = 2.0

    def part(rows: int, width: int) -> Named:
        wide = torch.ones(rows, width, 2)
        return Named((Inner(wide[:, :, 0]),), {"flat": torch.arange(rows), "wide": wide})

    both = Named.concatenated([part(2, 1), part(1, 3)])
    assert both.parts[0].x.tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert both.names["flat"].tolist() == [0, 1, 0]
    assert both.names["wide"][:, :, 1].tolist() == both.parts[0].x.tolist()
    assert both.select(torch.tensor([2])).names["flat"].tolist() == [0]
    assert (len(both), both.factor) == (3, 2.0)
