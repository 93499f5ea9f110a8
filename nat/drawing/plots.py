"""Plots for reports and benchmarks, by matplotlib (extra `plot`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from nat.errors import ConfigError
from nat.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGE = "matplotlib"
PICTURES = 12
# Okabe & Ito 2008: told apart by the colour-blind, and of different lightness in print
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442")
LARGEST = 900.0  # area of the largest circle, in square points
FONT = 9.0  # points


def has_plots() -> bool:
    return find_spec(PACKAGE) is not None


def check_plots(option: str = "plots=true") -> None:
    """Raises ConfigError, naming the option that asks for a plot, where the package is missing."""
    if not has_plots():
        raise ConfigError(f"{option}: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


def check_pictures(path: str, *, points: bool) -> None:
    """Raises ConfigError where there is nothing to draw, or nothing to draw it with."""
    if not points:
        raise ConfigError(f"pictures={path}: are drawn of points (data.tokenizer.kind=points), this run has text")
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"pictures={path}: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


def write_svg(figure: Figure, path: Path) -> None:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())


def plot_polygons(sources: Sequence[str], outputs: Sequence[str], references: Sequence[str], path: Path) -> None:
    """The first PICTURES answers side by side, as SVG: the points, the true polygon filled, the one found as a line;
    those that are not right are marked by colour and word."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    count = min(PICTURES, len(sources))
    figure = Figure(figsize=(12, 3 * -(-count // 4)), layout="constrained")
    FigureCanvasSVG(figure)
    for number in range(count):
        axes = figure.add_subplot(-(-count // 4), 4, number + 1, aspect="equal", xticks=[], yticks=[])
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        points = [[float(part) for part in word.split(",")] for word in sources[number].split()]
        found, truth = ([int(word) for word in side[number].split()] for side in (outputs, references))
        right = found == truth
        axes.set_title("right" if right else "WRONG", fontsize="small")
        axes.fill(*zip(*(points[i] for i in truth), strict=True), color="0.88")
        corners = [points[i] for i in (*found, *found[:1]) if i < len(points)]
        if corners:
            axes.plot(*zip(*corners, strict=True), color="C0" if right else "C3", linestyle="-" if right else "--")
        axes.plot(*zip(*points, strict=True), color="black", linestyle="none", marker=".", markersize=4)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())


# --- kinds of attention -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Circle:
    """A kind in the picture: family (the file that it comes from), speed, peak memory, and score in percent or BLEU."""

    name: str
    family: str
    tokens_per_second: float
    megabytes: float
    score: float


def plot_kinds(panels: Mapping[str, Sequence[Circle]], path: Path) -> None:
    """Speed, score and, as the area of a circle, memory of each kind, as SVG: a panel for each score, a colour for each
    family (again from the first after eight), names beside the circles (after Tay et al. 2021, figure 3, https://arxiv.org/abs/2011.04006)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6 * len(panels)), layout="constrained")
    FigureCanvasSVG(figure)
    families = list(dict.fromkeys(circle.family for circles in panels.values() for circle in circles))
    colours = {family: COLOURS[number % len(COLOURS)] for number, family in enumerate(families)}
    for number, (label, circles) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, number, xlabel="tokens/s, forward and backward", ylabel=label)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.margins(0.2, 0.15)
        most = max(circle.megabytes for circle in circles)
        for circle in sorted(circles, key=lambda circle: -circle.megabytes):  # the small ones before the large
            area = LARGEST * circle.megabytes / most
            spot = (circle.tokens_per_second, circle.score)
            axes.scatter(*spot, s=area, color=colours[circle.family], alpha=0.6, edgecolors="black")
        axes.set_title(f"circle area: peak memory; the largest is {most:.3g} MB", fontsize=FONT)
        _name(axes, circles, most)
    write_svg(figure, path)


def _name(axes: Axes, circles: Sequence[Circle], most: float) -> None:
    """Names right of the circles, moved up and down until none lies on another; a line leads back."""
    from matplotlib.patheffects import withStroke

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes
    scale = 72.0 / figure.dpi  # points a pixel
    spots = [axes.transData.transform((circle.tokens_per_second, circle.score)) * scale for circle in circles]
    starts = [x + (LARGEST * c.megabytes / most / 3.14) ** 0.5 + 3 for (x, _), c in zip(spots, circles, strict=True)]
    heights = [y for _, y in spots]
    for _ in range(200):
        for i, j in combinations(sorted(range(len(circles)), key=lambda k: heights[k]), 2):
            near = starts[i] < starts[j] + 0.6 * FONT * len(circles[j].name) and (
                starts[j] < starts[i] + 0.6 * FONT * len(circles[i].name)
            )
            lacking = 1.3 * FONT - (heights[j] - heights[i])
            if near and lacking > 0:
                heights[i], heights[j] = heights[i] - lacking / 2, heights[j] + lacking / 2
    for circle, (x, y), start, height in zip(circles, spots, starts, heights, strict=True):
        axes.annotate(
            circle.name,
            (circle.tokens_per_second, circle.score),
            xytext=(start - x, height - y),
            textcoords="offset points",
            va="center",
            fontsize=FONT,
            gid=f"{circle.name}, {axes.get_ylabel()}",
            path_effects=[withStroke(linewidth=2, foreground="white")],  # readable where a circle lies behind
            arrowprops=None if abs(height - y) < FONT else {"arrowstyle": "-", "linewidth": 0.5},
        )
