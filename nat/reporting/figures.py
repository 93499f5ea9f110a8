"""What the figures of a report show, as plain data: `nat.drawing.charts` draws it, figures.json holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nat.drawing.chart import Chart, Guide, Series
from nat.reporting.tables import Row

Curves = Mapping[str, Sequence[Mapping[str, Any]]]  # by name of a run folder, see `read_metrics`


def series_of(number: int, row: Row, points: list[tuple[float, float]], notes: list[str]) -> Series:
    """Of a system's row."""
    return Series(number, row["name"], row["model"], points, notes)


def charts(rows: Sequence[Row], curves: Curves) -> list[Chart]:
    """All that have something to show."""
    by_row = [make(rows) for make in (latency_chart, throughput_chart, source_length_chart, passes_chart)]
    return [chart for chart in (*by_row, *training_charts(rows, curves)) if chart.series]


def pareto_front(points: Mapping[int, tuple[float, float]]) -> tuple[int, ...]:
    """Of (cost, quality) by number, those that no other beats in one without losing in the other, cheapest first."""
    best = [
        number
        for number, (cost, quality) in points.items()
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points.values())
    ]
    return tuple(sorted(best, key=lambda number: points[number]))


def front_of(points: Mapping[int, tuple[float, float]], *, more_is_better: bool = False) -> Guide:
    """The front through (x, quality). more_is_better: x is a speed, and no cost."""
    sign = -1 if more_is_better else 1
    front = pareto_front({number: (sign * x, quality) for number, (x, quality) in points.items()})
    return Guide("Pareto front", [points[number] for number in front])


def numbered(rows: Sequence[Row], *names: str) -> list[tuple[int, Row]]:
    """The rows that have all of these fields, with their numbers."""
    return [(i, row) for i, row in enumerate(rows, start=1) if all(row.get(name) is not None for name in names)]


def latency_chart(rows: Sequence[Row]) -> Chart:
    known = numbered(rows, "bleu", "ms_per_sentence_p50", "ms_per_sentence_p95")
    speeds = ("ms_per_sentence_p50", "ms_per_sentence_p95")
    return Chart(
        name="quality_against_latency",
        title="Quality against latency",
        caption="BLEU against the median time of a sentence by itself; the thin line ends at the 95th percentile. The "
        "dotted line is the Pareto front: no system is both better and faster than one on it.",
        x="ms per sentence, batch 1 (log)",
        y="BLEU",
        series=[
            series_of(i, row, [(row[name], row["bleu"]) for name in speeds], ["median", "95th percentile"])
            for i, row in known
        ],
        x_base=10,
        joined=False,
        guide=front_of({i: (row["ms_per_sentence_p50"], row["bleu"]) for i, row in known}),
    )


def throughput_chart(rows: Sequence[Row]) -> Chart:
    known = numbered(rows, "bleu", "sentences_per_second")
    return Chart(
        name="quality_against_throughput",
        title="Quality against throughput",
        caption="BLEU against sentences a second in batches, with all threads; right and above is better.",
        x="sentences per second, in batches (log)",
        y="BLEU",
        series=[series_of(i, row, [(row["sentences_per_second"], row["bleu"])], [""]) for i, row in known],
        x_base=10,
        joined=False,
        guide=front_of({i: (row["sentences_per_second"], row["bleu"]) for i, row in known}, more_is_better=True),
    )


def source_length_chart(rows: Sequence[Row]) -> Chart:
    series = []
    for i, row in numbered(rows, "bleu_by_source_words"):
        groups = row["bleu_by_source_words"]
        points = [(group["mean_words"], group["bleu"]) for group in groups]
        notes = [f"{group['from']}-{group['to']} words, {group['sentences']} sentences" for group in groups]
        series.append(series_of(i, row, points, notes))
    counts = series[0].notes if series else []
    return Chart(
        name="bleu_by_source_length",
        title="BLEU by source length",
        caption=f"Sentences in groups by the words of the source, each point at the group's mean: {'; '.join(counts)}.",
        x="words of the source",
        y="BLEU",
        series=series,
    )


def passes_chart(rows: Sequence[Row]) -> Chart:
    series = []
    for i, row in numbered(rows, "passes_by_length"):
        groups = row["passes_by_length"]
        points = [(group["length"], group["passes"]) for group in groups]
        notes = [f"{group['sentences']} sentences" for group in groups]
        series += [series_of(i, row, points, notes)] if points else []
    longest = max((int(x) for each in series for x, _ in each.points), default=1)
    return Chart(
        name="passes_by_length",
        title="Passes against target length",
        caption="Mean decoder passes of translations of each length. Dotted: a perfect balanced tree of insertions, "
        "floor(log2 n) + 1 passes and one that finds nothing more (Stern et al. 2019, section 4.2).",
        x="tokens of the translation (log)",
        y="passes",
        series=series,
        x_base=2,
        guide=Guide("balanced tree", [(n, n.bit_length() + 1) for n in range(1, longest + 1)]),
    )


def training_charts(rows: Sequence[Row], curves: Curves) -> list[Chart]:
    """Validation BLEU and training loss of each run, once however many systems it serves."""
    first: dict[str, tuple[int, Row]] = {}
    for i, row in enumerate(rows, start=1):
        first.setdefault(row["run_dir"], (i, row))

    def series(kind: str, value: str) -> list[Series]:
        drawn = []
        for run, (number, row) in first.items():
            lines = [line for line in curves.get(run, ()) if line["kind"] == kind and line.get(value) is not None]
            # no zero on a logarithmic axis
            points = [(line["tokens"] / 1e6, line[value]) for line in lines if (line.get("tokens") or 0) > 0]
            if points:
                drawn.append(series_of(number, row, points, [""] * len(points)))
        return drawn

    bleu = Chart(
        name="validation_bleu",
        title="Validation BLEU in training",
        caption="On the run's own validation sentences, which may differ from run to run, decoded as in training.",
        x="millions of target tokens seen (log)",
        x_base=10,
        y="BLEU on validation",
        series=series("valid", "bleu"),
    )
    loss = Chart(
        name="training_loss",
        title="Training loss",
        caption="Negative log-likelihood a predicted symbol, without label smoothing. What a symbol is differs by "
        "method (a token, a slot, a masked position), so levels compare within a method alone.",
        x="millions of target tokens seen (log)",
        x_base=10,
        y="nll",
        series=series("train", "nll"),
        y_base=10,
    )
    return [bleu, loss]
