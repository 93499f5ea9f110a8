"""Draws the figures of a report, by matplotlib (extra `plot`): PNG for paper, SVG for the page.

Systems differ in colour, marker and number, so that no one has to tell colours apart; the palette is that of Okabe &
Ito 2008 (https://jfly.uni-koeln.de/color). In the SVG every colour is a variable of the page's style sheet: the page
has a light and a dark one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nat.evaluation.figures import Chart, Series
from nat.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.")
INK, LINE = "#1b1f23", "#c9ced3"
VARIABLES = {color: f"var(--s{i})" for i, color in enumerate(PALETTE)} | {INK: "var(--ink)", LINE: "var(--line)"}
GUIDE: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1.2, "zorder": 0}
RATES = (
    ("repetition_rate", 100.0, "repetition %"),
    ("unknown_rate", 100.0, "unknown %"),
    ("length_ratio", 1.0, "length ratio"),
)
WIDTH, HEIGHT, LEGEND = 4.8, 3.1, 0.18  # inches: the plot, and a line of its legend


def draw(chart: Chart) -> Figure:
    """A figure of this chart."""
    with style():
        figure, axes = blank(rows=(len(chart.series) + 1) // 2)
        axes.set(xlabel=chart.x, ylabel=chart.y)
        (lines if chart.joined else scatter)(axes, chart)
        if chart.guide is not None:
            axes.plot(*zip(*chart.guide.points, strict=True), label=chart.guide.name, **GUIDE)
        for base, axis, rescale in (
            (chart.x_base, axes.xaxis, axes.set_xscale),
            (chart.y_base, axes.yaxis, axes.set_yscale),
        ):
            if base is not None:
                rescale("log", base=base)
                plain_ticks(axis, base)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, handlelength=2.2)
    return figure


def scatter(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        xs, ys = zip(*series.points, strict=True)
        axes.plot(xs, ys, color=color_of(series), linewidth=0.8)
        axes.plot(xs[:1], ys[:1], color=color_of(series), marker=marker_of(series), linestyle="", label=label(series))
        axes.annotate(
            str(series.number), (xs[0], ys[0]), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8
        )


def lines(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        xs, ys = zip(*series.points, strict=True)
        every = max(1, len(xs) // 12)
        axes.plot(
            xs, ys, color=color_of(series), marker=marker_of(series), markevery=every, markersize=4, linewidth=1.3,
            linestyle=LINES[(series.number - 1) // len(PALETTE) % len(LINES)], label=label(series),
        )  # fmt: skip


def draw_rates(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Repetition, unknown tokens and length ratio of every system, side by side."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(1.9 * WIDTH, 0.9 + 0.27 * len(rows)), layout="constrained")
        panels = figure.subplots(1, len(RATES), sharey=True)
        places = range(len(rows))
        for axes, (name, factor, title) in zip(panels, RATES, strict=True):
            values = [None if row[name] is None else factor * row[name] for row in rows]
            known = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
            for value, place in known:
                axes.plot(value, place, color=PALETTE[0], marker="o", linestyle="")
                axes.annotate(f"{value:.2f}", (value, place), xytext=(6, -3), textcoords="offset points", fontsize=8)
            if name == "length_ratio":
                axes.axvline(1.0, color=INK, linestyle=":", linewidth=1)
            else:
                axes.set_xlim(left=0, right=max(0.1, 1.25 * max((value for value, _ in known), default=0.1)))
            axes.margins(x=0.25)
            axes.set_title(title, fontsize=9)
        panels[0].set_yticks(list(places), [f"{i} {row['name']}" for i, row in enumerate(rows, start=1)])
        panels[0].invert_yaxis()
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """On white, for print. Raises DataError where it cannot be written."""
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=150, facecolor="white"))


def to_svg(figure: Figure, name: str) -> str:
    """An <svg> element for a page: text stays text, the background is the page's, ids begin with `name`."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    for color, variable in VARIABLES.items():
        svg = re.sub(rf"(?<=: ){color}\b", variable, svg)
    return svg


def draw_all(charts: Sequence[Chart], rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Every figure as NAME.png in the folder, and as an <svg> element, by name. Raises DataError where one cannot be
    written."""
    figures = {chart.name: draw(chart) for chart in charts} | {"rates": draw_rates(rows)}
    for name, figure in figures.items():
        write_png(figure, folder / f"{name}.png")
    return {name: to_svg(figure, name) for name, figure in figures.items()}


# --- style -----------------------------------------------------------------------------------------


@contextmanager
def style() -> Iterator[None]:
    """Names of systems are text, whatever signs they hold."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "nat",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.5,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(settings):
        yield


def blank(*, rows: int) -> tuple[Figure, Axes]:
    """rows: lines of the legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT + LEGEND * (rows + 1)), layout="constrained")
    return figure, figure.add_subplot()


def plain_ticks(axis: Axis, base: int) -> None:
    """10 and not 10 to the power of 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if base == 10 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def color_of(series: Series) -> str:
    return PALETTE[(series.number - 1) % len(PALETTE)]


def marker_of(series: Series) -> str:
    return MARKERS[(series.number - 1) % len(MARKERS)]


def label(series: Series) -> str:
    return f"{series.number} {series.name}"
