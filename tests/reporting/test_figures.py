"""What figures show."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nat.drawing.chart import MOST_TOGETHER, Chart, Guide, Series
from nat.drawing.charts import draw, overlap
from nat.drawing.style import svg_element
from nat.reporting.figures import charts, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    numbers = dict(enumerate(points, start=1))
    front = pareto_front(numbers)
    for i, (cost, quality) in numbers.items():
        better = [j for j, (c, q) in numbers.items() if (c < cost and q >= quality) or (c <= cost and q > quality)]
        assert (i in front) == (not better)
    assert [numbers[i][0] for i in front] == sorted(numbers[i][0] for i in front)


def row(name: str, **values: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "run_dir": f"runs/{name}",
        "model": "CTC",
        "bleu": 20.0,
        "ms_per_sentence_p50": 5.0,
        "ms_per_sentence_p95": 9.0,
        "sentences_per_second": 100.0,
        "passes_by_length": [{"length": 3, "sentences": 2, "passes": 1.5}],
        "bleu_by_source_words": [{"from": 1, "to": 3, "mean_words": 2.5, "sentences": 4, "bleu": 31.0}],
    }
    return {"name": name} | usual | values


CURVES = {
    "runs/a": [
        {"kind": "train", "update": 1, "tokens": 10_000_000, "seconds": 1.0, "nll": 2.0},
        {"kind": "train", "update": 2, "tokens": 20_000_000, "seconds": 2.0, "nll": None},
        {"kind": "train", "update": 3, "tokens": 0, "seconds": 2.0, "nll": 1.0},
        {"kind": "valid", "update": 1, "tokens": 10_000_000, "seconds": 1.0, "bleu": None, "nll": 2.0},
        {"kind": "valid_average", "update": 1, "tokens": 10_000_000, "seconds": 1.0, "bleu": 8.5},
    ]
}


def test_every_chart_has_its_points() -> None:
    rows = [row("a"), row("b", bleu=10.0), row("c", bleu=30.0, ms_per_sentence_p50=7.0, run_dir="runs/a")]
    found = {chart.name: chart for chart in charts(rows, CURVES)}
    assert found["quality_against_latency"].guide == Guide("Pareto front", [(5.0, 20.0), (7.0, 30.0)])
    assert found["quality_against_latency"].series[2].points == [(7.0, 30.0), (9.0, 30.0)]
    assert found["quality_against_throughput"].guide == Guide("Pareto front", [(100.0, 30.0)])
    assert found["quality_against_throughput"].series[1].points == [(100.0, 10.0)]
    assert found["bleu_by_source_length"].series[0].points == [(2.5, 31.0)]
    assert "1-3 words, 4 sentences" in found["bleu_by_source_length"].caption
    assert found["passes_by_length"].series[1].points == [(3, 1.5)]
    assert found["passes_by_length"].guide == Guide("balanced tree", [(1, 2), (2, 3), (3, 3)])
    (run,) = found["training_loss"].series  # systems 1 and 3 are of one run
    assert (run.number, run.points) == (1, [(10.0, 2.0)])
    assert "validation_bleu" not in found  # no point has one


def test_what_is_not_known_is_left_out() -> None:
    unknown = dict.fromkeys(("bleu", "bleu_by_source_words", "ms_per_sentence_p50"))
    found = {chart.name: chart for chart in charts([row("a", **unknown), row("b")], {})}
    assert [series.number for series in found["quality_against_latency"].series] == [2]
    assert [series.number for series in found["quality_against_throughput"].series] == [2]
    assert [series.number for series in found["passes_by_length"].series] == [1, 2]
    assert [chart.name for chart in charts([row("a", **unknown)], {})] == ["passes_by_length"]


# --- many systems ------------------------------------------------------------------------------------


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
