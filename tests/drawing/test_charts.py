"""Charts of few and of many systems."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nat.drawing.chart import MOST_TOGETHER, Chart, Guide, Series
from nat.drawing.charts import draw, overlap
from nat.drawing.style import svg_element


def chart_of(count: int, **options: Any) -> Chart:
    """Systems of three families in turn, the points of each pair of them the same."""
    series = [
        Series(i, f"system {i}", "ABC"[i % 3], [(1.0 + i // 2, 10.0 + i // 2), (20.0, 10.0)], ["", ""])
        for i in range(1, count + 1)
    ]
    return Chart("name", "title", "caption", "x", "y", series, **options)


def test_few_systems_are_in_one_plot_and_many_in_a_panel_for_each_family() -> None:
    few, many = chart_of(MOST_TOGETHER), chart_of(MOST_TOGETHER + 1)
    assert not few.crowded and many.crowded
    assert {name: [series.number for series in members] for name, members in many.families.items()} == {
        "B": [1, 4, 7, 10, 13], "C": [2, 5, 8, 11], "A": [3, 6, 9, 12],
    }  # fmt: skip
    assert len(draw(few).axes) == 1
    panels = draw(many).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["B", "C", "A"]
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in panels]  # type: ignore[union-attr]
    assert legends[0] == [f"{i} system {i}" for i in (1, 4, 7, 10, 13)]
    assert legends[1] == [f"{i} system {i}" for i in (2, 5, 8, 11, 1)]  # the first system is in each


@pytest.mark.parametrize("count", [MOST_TOGETHER, 40])
def test_points_of_many_systems_have_numbers_that_cover_nothing(count: int) -> None:
    figure = draw(chart_of(count, joined=False, guide=Guide("front", [(20.0, 29.0), (1.0, 10.0)])))
    (axes,) = figure.axes
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    numbers = [text.get_text() for text in axes.texts]
    if count == MOST_TOGETHER:
        assert names == [*(f"{i} system {i}" for i in range(1, count + 1)), "front"]
        assert numbers == [str(i) for i in range(1, count + 1)]
        return
    assert names == ["B", "C", "A", "front"]
    assert numbers[:2] == ["1", "38"]  # those of the front have the first choice
    assert len(numbers) == len(set(numbers)) > count // 2
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    inner = [(box.x0 + 2, box.y0 + 2, box.x1 - 2, box.y1 - 2) for box in boxes]
    assert not any(overlap(one, other) for i, one in enumerate(inner) for other in inner[:i])


def test_long_names_stand_in_one_column() -> None:
    short, long = chart_of(4), chart_of(4)
    long.series[2] = Series(3, "a name that needs more than half a line", "A", [(1.0, 2.0)], [""])
    assert [draw(chart).legends[0]._ncols for chart in (short, long)] == [2, 1]  # type: ignore[attr-defined]
    assert re.search(r'viewBox="0 0 [\d.]+ [\d.]+"', svg_element(draw(long), "long"))
