"""Draws the figures of a report: systems differ in colour, marker and number, so that no one has to tell colours
apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nat.drawing.chart import Chart, Series
from nat.drawing.style import (
    INK,
    LINES,
    PALETTE,
    color,
    marker,
    new_axes,
    new_figure,
    style,
    svg_element,
    write_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

GUIDE: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1.2, "zorder": 0}
RATES = (
    ("repetition_rate", 100.0, "repetition %"),
    ("unknown_rate", 100.0, "unknown %"),
    ("length_ratio", 1.0, "length ratio"),
)
WIDTH, HEIGHT, LEGEND = 4.8, 3.1, 0.18  # inches: the plot, and a line of its legend
WIDE = 1.9 * WIDTH
LONG_NAME = 26  # letters beyond which a legend has one column
PANELS = 3  # side by side
PLACES = ((0, 5), (0, -12), (9, -3), (-9, -3), (9, 5), (-9, 5), (9, -11), (-9, -11))  # of a number, in points


def draw(chart: Chart) -> Figure:
    """A figure of this chart."""
    if chart.crowded:
        return draw_panels(chart) if chart.joined else draw_crowd(chart)
    with style():
        columns = 1 if max((len(label_of(series)) for series in chart.series), default=0) > LONG_NAME else 2
        figure, axes = new_axes(WIDTH, HEIGHT + LEGEND * (1 + -(-len(chart.series) // columns)))
        axes.set(xlabel=chart.x, ylabel=chart.y)
        for series in chart.series:
            if chart.joined:
                draw_line(axes, series, series.number - 1)
            else:
                draw_point(axes, series, series.number - 1, name=label_of(series))
                write_number(axes, series, PLACES[0])
        finish_axes(axes, chart)
        legend_below(figure, axes, ncols=columns, handlelength=2.2)
    return figure


def draw_crowd(chart: Chart) -> Figure:
    """Many points: colour and marker tell the family, the number the system where it has room."""
    with style():
        figure, axes = new_axes(WIDE, 2 * HEIGHT)
        axes.set(xlabel=chart.x, ylabel=chart.y)
        for number, (family, members) in enumerate(chart.families.items()):
            for i, series in enumerate(members):
                draw_point(axes, series, number, name="" if i else family)
        finish_axes(axes, chart)
        legend_below(figure, axes, ncols=6)
        number_points(figure, axes, chart)
    return figure


def number_points(figure: Figure, axes: Axes, chart: Chart) -> None:
    """The number of each point beside it, where it covers no other number and no point; those of the guide first."""
    figure.draw_without_rendering()  # only then it is known where points are
    front = [] if chart.guide is None else chart.guide.points
    ordered = sorted(chart.series, key=lambda series: series.points[0] not in front)
    scale = 72 / figure.dpi
    at = {series.number: axes.transData.transform(series.points[0]) * scale for series in ordered}  # in points
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at.values()]
    for series in ordered:
        x, y = at[series.number]
        half = 2.5 * len(str(series.number))
        for dx, dy in PLACES:
            box = (x + dx - half, y + dy, x + dx + half, y + dy + 7)
            if not any(overlap(box, other) for other in taken):
                taken.append(box)
                write_number(axes, series, (dx, dy))
                break


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Of two boxes (left, bottom, right, top)."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def draw_panels(chart: Chart) -> Figure:
    """Many lines: a panel for each family, on the same axes, with the first system in each for comparison."""
    families, first = chart.families, chart.series[0]
    rows = -(-len(families) // PANELS)
    most = max(len(members) for members in families.values()) + 2
    with style():
        figure = new_figure(WIDE, rows * (0.7 * HEIGHT + 0.8 * LEGEND * most))
        panels = figure.subplots(rows, PANELS, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, (family, members) in zip(panels, families.items(), strict=False):
            for i, series in enumerate(members):
                draw_line(axes, series, i)
            if first not in members:
                axes.plot(*zip(*first.points, strict=True), color=INK, linewidth=0.8, label=label_of(first), zorder=0)
            finish_axes(axes, chart)
            axes.set_title(family, fontsize=9, loc="left")
            axes.tick_params(labelbottom=True)
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=7, borderaxespad=0.3)
        for axes in panels[len(families) :]:
            axes.set_axis_off()
        figure.supxlabel(chart.x, fontsize=9)
        figure.supylabel(chart.y, fontsize=9)
    return figure


def draw_point(axes: Axes, series: Series, look: int, *, name: str) -> None:
    """The first of the points, and a thin line to the others. look: number of its colour and marker."""
    xs, ys = zip(*series.points, strict=True)
    axes.plot(xs, ys, color=color(look), linewidth=0.8)
    axes.plot(xs[:1], ys[:1], color=color(look), marker=marker(look), linestyle="", label=name or "_")


def write_number(axes: Axes, series: Series, place: tuple[float, float]) -> None:
    axes.annotate(
        str(series.number), series.points[0], xytext=place, textcoords="offset points", ha="center", fontsize=8
    )


def draw_line(axes: Axes, series: Series, look: int) -> None:
    """look: number of its colour, marker and dashes."""
    xs, ys = zip(*series.points, strict=True)
    every = max(1, len(xs) // 12)
    axes.plot(
        xs, ys, color=color(look), marker=marker(look), markevery=every, markersize=4, linewidth=1.3,
        linestyle=LINES[look // len(PALETTE) % len(LINES)], label=label_of(series),
    )  # fmt: skip


def finish_axes(axes: Axes, chart: Chart) -> None:
    """The guide, and logarithmic axes."""
    if chart.guide is not None:
        axes.plot(*zip(*chart.guide.points, strict=True), label=chart.guide.name, **GUIDE)
    for base, axis, rescale in (
        (chart.x_base, axes.xaxis, axes.set_xscale),
        (chart.y_base, axes.yaxis, axes.set_yscale),
    ):
        if base is not None:
            rescale("log", base=base)
            plain_ticks(axis, base)


def draw_rates(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Repetition, unknown tokens and length ratio of every system, side by side."""
    with style():
        figure = new_figure(WIDE, 0.9 + 0.27 * len(rows))
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
        panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    return figure


def draw_all(charts: Sequence[Chart], rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Every figure as NAME.png in the folder, and as an <svg> element, by name. Raises DataError where one cannot be
    written."""
    figures = {chart.name: draw(chart) for chart in charts} | {"rates": draw_rates(rows)}
    for name, figure in figures.items():
        write_png(figure, folder / f"{name}.png")
    return {name: svg_element(figure, name) for name, figure in figures.items()}


def legend_below(figure: Figure, axes: Axes, **options: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, **options)


def plain_ticks(axis: Axis, base: int) -> None:
    """10 and not 10 to the power of 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if base == 10 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label_of(series: Series) -> str:
    return f"{series.number} {series.name}"
