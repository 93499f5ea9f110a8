"""What figures show."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nat.drawing.chart import Guide
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
