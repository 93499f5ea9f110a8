"""The figures of nat-bench attention: exponents, tables, and scores beside them for the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

from nat.bench.attention import AttentionSizes, Curve, Point
from nat.drawing.circles import Circle, write_circles
from nat.drawing.style import check_plots
from nat.errors import DataError
from nat.files import read_json
from nat.table import markdown_table, rounded


def rows_of(curves: Sequence[Curve], *, fit_from: int) -> list[dict[str, Any]]:
    """Plain figures of each kind, beside full attention's at the same length."""
    full = {point.length: point for point in curves[0].points}
    return [
        {
            "name": curve.name,
            "family": curve.family,
            "parameters": curve.parameters,
            "time_exponent": exponent(curve.points, "milliseconds", fit_from),
            "memory_exponent": exponent(curve.points, "megabytes", fit_from),
            "fitted_lengths": [point.length for point in curve.points if point.length >= fit_from],
            "points": [
                {
                    "length": point.length,
                    "milliseconds": point.milliseconds,
                    "rounds": point.rounds,
                    "megabytes": point.megabytes,
                    "time_ratio": _ratio(point, full.get(point.length), "milliseconds"),
                    "memory_ratio": _ratio(point, full.get(point.length), "megabytes"),
                }
                for point in curve.points
            ],
            "left_out": {str(length): reason for length, reason in curve.left_out.items()},
        }
        for curve in curves
    ]


def exponent(points: Sequence[Point], name: str, fit_from: int) -> float | None:
    """The slope of log `name` against log N by least squares, over lengths from `fit_from`; None below two of them."""
    chosen = [point for point in points if point.length >= fit_from and getattr(point, name) > 0]
    if len(chosen) < 2:
        return None
    return linear_regression(
        [math.log(point.length) for point in chosen], [math.log(getattr(point, name)) for point in chosen]
    ).slope


def _ratio(point: Point, full: Point | None, name: str) -> float | None:
    return None if full is None or not getattr(full, name) else getattr(point, name) / getattr(full, name)


def describe_kinds(figures: Mapping[str, Any]) -> str:
    """The figures as tables, with what one needs to judge them."""
    sizes = figures["sizes"]
    rows = [row for row in figures["results"] if row["points"]]
    lengths = sorted({point["length"] for row in rows for point in row["points"]})

    def table(title: str, name: str, digits: int, exponent_of: str | None) -> str:
        headings = [title, *([] if exponent_of is None else ["exponent"]), *(f"N={length}" for length in lengths)]
        cells = []
        for row in rows:
            values = {point["length"]: point[name] for point in row["points"]}
            fit = [] if exponent_of is None else [rounded(row[exponent_of], 2)]
            cells.append([row["name"], *fit, *(rounded(values.get(length), digits) for length in lengths)])
        return markdown_table(headings, cells) + "\n"

    fitted = [length for length in lengths if length >= sizes["fit_from"]]
    fit = f"fitted over N={fitted[0]} to {fitted[-1]} where measured" if len(fitted) > 1 else "not fitted"
    where = f"{figures['device']}, {figures['num_threads']} CPU threads, torch {figures['torch']}"
    shape = f"B={sizes['batch_size']}, D={sizes['dim']}, {sizes['num_heads']} heads, padding {sizes['padding']:g}"
    clock = " in CPU time" if sizes["cpu_time"] else ""
    left_out = [
        f"{row['name']} left out at N={length}: {reason}"
        for row in figures["results"]
        for length, reason in list(row["left_out"].items())[:1]  # the longer ones for the same reason
    ]
    return "\n".join(
        [
            table("milliseconds", "milliseconds", 1, "time_exponent"),
            table("time over full's", "time_ratio", 3, None),
            table("peak MB", "megabytes", 1, "memory_exponent"),
            "One layer's attention with its projections, forward and backward; medians of at most "
            f"{figures['repeats']} passes{clock}, the kinds taking turns; peak of tensors above parameters and input. "
            f"Exponents: {fit}. {shape}, {'bf16' if sizes['bf16'] else 'float32'}; {where}.",
            *left_out,
            "",
        ]
    )


# --- the picture --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panels:
    """The scores to be shown (label -> kind -> score), one panel each, and the file of the picture."""

    scores: dict[str, dict[str, float]]
    path: Path | None

    @classmethod
    def read(cls, sizes: AttentionSizes, kinds: Sequence[str]) -> Panels:
        """The scores of these kinds. Raises ConfigError or DataError where scores, package or folder are missing."""
        if sizes.picture is None:
            return cls({}, None)
        check_plots("attention.picture")
        scores = {}
        if sizes.accuracy is not None:
            shares = read_scores("attention.accuracy", sizes.accuracy, kinds, "exact_match")
            scores["exact match, %"] = {kind: 100.0 * share for kind, share in shares.items()}
        if sizes.bleu is not None:
            scores["BLEU"] = read_scores("attention.bleu", sizes.bleu, kinds, "bleu")
        return cls(scores, Path(sizes.picture))

    def draw(self, figures: Mapping[str, Any]) -> str:
        """Writes the picture; what it shows, in words."""
        if self.path is None:
            return ""
        measured = {label: circles(figures, scores) for label, scores in self.scores.items()}
        write_circles(
            {f"{label} (speed and memory at N={n})": shown for label, (n, shown) in measured.items()}, self.path
        )
        names = dict.fromkeys(circle.name for _, shown in measured.values() for circle in shown)
        rows = [[name, *(rounded(self.scores[label].get(name), 1) for label in measured)] for name in names]
        return "\n".join(["", markdown_table(["kind", *measured], rows), "", f"picture: {self.path}", ""])


def read_figures(path: Path) -> dict[str, Any]:
    """What an earlier nat-bench attention wrote. Raises DataError."""
    figures = read_json(path)
    if not isinstance(figures, dict) or figures.get("benchmark") != "attention":
        raise DataError(f"{path}: no figures of nat-bench attention")
    return figures


def circles(figures: Mapping[str, Any], scores: Mapping[str, float]) -> tuple[int, list[Circle]]:
    """A circle of each kind that has a score and was measured, at the longest length at which all of these were.
    Raises DataError where there is none."""
    rows = [row for row in figures["results"] if row["name"] in scores and row["points"]]
    measured = [{point["length"]: point for point in row["points"]} for row in rows]
    common = set.intersection(*map(set, measured)) if measured else set()
    if not common:
        raise DataError("attention.picture: no length at which every kind with a score was measured")
    length = max(common)
    tokens = figures["sizes"]["batch_size"] * length
    return length, [
        Circle(
            row["name"],
            row["family"],
            1000.0 * tokens / points[length]["milliseconds"],
            points[length]["megabytes"],
            scores[row["name"]],
        )
        for row, points in zip(rows, measured, strict=True)
    ]


def read_scores(key: str, pattern: str, kinds: Sequence[str], name: str) -> dict[str, float]:
    """The figure `name` of nat-decode's JSON file of each kind that has one; KIND in the pattern stands for the kind's
    name. Raises DataError where no kind has a file, or a file lacks the figure."""
    scores = {}
    for kind in kinds:
        path = Path(pattern.replace("KIND", kind))
        if path.exists():
            report = read_json(path)
            value = report.get(name) if isinstance(report, dict) else None
            if not isinstance(value, (int, float)):
                raise DataError(f"{key}: {path} has no {name}; what nat-decode writes beside references is needed")
            scores[kind] = float(value)
    if not scores:
        raise DataError(f"{key}={pattern}: there is no such file of any kind ({', '.join(kinds)})")
    return scores
