"""Draws kinds of attention as circles: speed, score and, as the area of a circle, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from nat.drawing.style import INK, color, new_figure, style, write_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 900.0  # area of the largest circle, in square points
FONT = 9.0  # points


@dataclass(frozen=True)
class Circle:
    """A kind in the picture: family (the file that it comes from), speed, peak memory, and score in percent or BLEU."""

    name: str
    family: str
    tokens_per_second: float
    megabytes: float
    score: float


def write_circles(panels: Mapping[str, Sequence[Circle]], path: Path) -> None:
    """A panel for each score, as SVG; a colour for each family, names beside the circles (after Tay et al. 2021, figure
    3, https://arxiv.org/abs/2011.04006). Raises DataError where it cannot be written."""
    families = list(dict.fromkeys(circle.family for circles in panels.values() for circle in circles))
    with style():
        figure = new_figure(8, 6 * len(panels))
        for number, (label, circles) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(len(panels), 1, number, xlabel="tokens/s, forward and backward", ylabel=label)
            draw_circles(axes, circles, families)
        for axes, circles in zip(figure.axes, panels.values(), strict=True):
            write_names(axes, circles)
    write_svg(figure, path)


def draw_circles(axes: Axes, circles: Sequence[Circle], families: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.margins(0.2, 0.15)
    most = max(circle.megabytes for circle in circles)
    for circle in sorted(circles, key=lambda circle: -circle.megabytes):  # the small ones before the large
        axes.scatter(
            circle.tokens_per_second, circle.score, s=LARGEST * circle.megabytes / most,
            color=color(families.index(circle.family)), alpha=0.6, edgecolors=INK,
        )  # fmt: skip
    axes.set_title(f"circle area: peak memory; the largest is {most:.3g} MB", fontsize=FONT)


def write_names(axes: Axes, circles: Sequence[Circle]) -> None:
    """Names right of the circles, moved up and down until none lies on another; a line leads back."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes
    most = max(circle.megabytes for circle in circles)
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
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5},  # a circle may lie behind
            arrowprops=None if abs(height - y) < FONT else {"arrowstyle": "-", "linewidth": 0.5},
        )
