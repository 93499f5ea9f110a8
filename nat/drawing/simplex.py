"""Each system's sentences in the simplex of three languages, side by side, as Zhou et al. 2020 have them in section 3.1
(https://arxiv.org/abs/1911.02727): a corner is a language, what lies on an edge or inside are mixed sentences, and the
area of a mark is how many they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from nat.drawing.style import INK, LINE, color, marker, style, write_png, write_svg
from nat.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
LARGEST = 1200.0  # area of all sentences in one place, in square points
NEAR = 2  # digits of the shares of sentences that are one mark
LABEL = 0.17  # from a corner to its name: beyond the largest mark
COLUMNS = 4
SIDE, TITLE = 2.3, 0.35  # inches of a panel, and of the two lines above it


@dataclass(frozen=True, eq=False)
class Panel:
    """shares: places of N sentences in the simplex of three languages. main: number of each one's language."""

    title: str
    note: str
    shares: Float[np.ndarray, "N 3"]
    main: Int[np.ndarray, " N"]


def drawable(names: Sequence[str]) -> bool:
    """Whether there is a triangle to draw."""
    return len(names) == len(CORNERS)


def check_simplex(names: Sequence[str]) -> None:
    """Raises ConfigError where there is none."""
    if not drawable(names):
        raise ConfigError(f"plots=true: the simplex is drawn of three languages, data.target names {len(names)}")


def places(shares: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
    """Points of the triangle whose barycentric coordinates are the shares."""
    return shares @ CORNERS


def draw_simplex(panels: Sequence[Panel], names: Sequence[str]) -> Figure:
    """Small multiples, COLUMNS in a row."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    height = SIDE + TITLE
    with style():
        figure = Figure(figsize=(SIDE * columns, height * rows))
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            bottom = (rows - 1 - row) / rows
            draw_panel(figure.add_axes((column / columns, bottom, 1 / columns, SIDE / height / rows)), panel, names)
    return figure


def draw_panel(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    axes.set(aspect="equal", xlim=(-0.25, 1.25), ylim=(-0.3, 1.15))
    axes.axis("off")
    axes.set_title(f"{panel.title}\n{panel.note}", fontsize=8)
    axes.fill(*CORNERS.T, facecolor="none", edgecolor=INK, linewidth=0.8)
    for corner in CORNERS:  # lines of equal shares meet in the middle
        foot = (CORNERS.sum(axis=0) - corner) / 2
        axes.plot(*zip(corner, foot, strict=True), color=LINE, linewidth=0.6, zorder=0)
    for number, name in enumerate(names):
        here = panel.shares[panel.main == number]
        spots, counts = np.unique(here.round(NEAR), axis=0, return_counts=True)
        across, up = places(spots).T
        axes.scatter(
            across, up, s=LARGEST * counts / max(1, len(panel.shares)), color=color(number),
            marker=marker(number), alpha=0.6, linewidths=0, clip_on=False, zorder=2,
        )  # fmt: skip
        share = len(here) / max(1, len(panel.shares))
        x, y = CORNERS[number]
        axes.annotate(
            f"{name} {100 * share:.0f} %", (x, y + (LABEL if y else -LABEL)), ha="center",
            va="bottom" if y else "top", fontsize=7, color=INK,
        )  # fmt: skip


def write_simplex(panels: Sequence[Panel], names: Sequence[str], folder: Path) -> None:
    """simplex.png and simplex.svg. Raises DataError where they cannot be written."""
    figure = draw_simplex(panels, names)
    write_png(figure, folder / "simplex.png")
    write_svg(figure, folder / "simplex.svg")
