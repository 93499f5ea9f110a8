"""Draws what a model of points answers: its polygons, beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nat.drawing.style import INK, LINE, check_plots, color, new_figure, style, write_svg
from nat.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES, COLUMNS = 12, 4
SIDE = 3.0  # inches


def check_pictures(path: str, *, points: bool) -> None:
    """Raises ConfigError where there is nothing to draw, or nothing to draw it with."""
    if not points:
        raise ConfigError(f"pictures={path}: are drawn of points (data.tokenizer.kind=points), this run has text")
    check_plots(f"pictures={path}")


def write_polygons(sources: Sequence[str], outputs: Sequence[str], references: Sequence[str], path: Path) -> None:
    """The first PICTURES answers side by side, as SVG. Raises DataError where it cannot be written."""
    answers = list(zip(sources, outputs, references, strict=True))[:PICTURES]
    rows = -(-len(answers) // COLUMNS)
    with style():
        figure = new_figure(SIDE * COLUMNS, SIDE * rows)
        for number, answer in enumerate(answers, start=1):
            axes = figure.add_subplot(rows, COLUMNS, number, aspect="equal", xticks=[], yticks=[])
            draw_polygon(axes, *answer)
    write_svg(figure, path)


def draw_polygon(axes: Axes, source: str, output: str, reference: str) -> None:
    """The points, the true polygon filled, the answer as a line; what is not right is marked by colour and word."""
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    points = [[float(part) for part in word.split(",")] for word in source.split()]
    answer, truth = ([int(word) for word in line.split()] for line in (output, reference))
    right = answer == truth
    axes.set_title("right" if right else "WRONG")
    axes.fill(*zip(*(points[i] for i in truth), strict=True), color=LINE)
    corners = [points[i] for i in (*answer, *answer[:1]) if i < len(points)]
    if corners:
        axes.plot(*zip(*corners, strict=True), color=color(0 if right else 1), linestyle="-" if right else "--")
    axes.plot(*zip(*points, strict=True), color=INK, linestyle="none", marker=".", markersize=4)
