"""Plots of a report's rows, by matplotlib (extra `plot`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nat.errors import ConfigError
from nat.files import write_text

PACKAGE = "matplotlib"
PICTURES = 12


def check_plots() -> None:
    """Raises ConfigError where the package is missing."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"plots=true: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


def check_pictures(path: str, *, points: bool) -> None:
    """Raises ConfigError where there is nothing to draw, or nothing to draw it with."""
    if not points:
        raise ConfigError(f"pictures={path}: are drawn of points (data.tokenizer.kind=points), this run has text")
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"pictures={path}: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


def several_passes(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of systems that take more than one pass."""
    return [row for row in rows if row["passes"] > 1]


def plot_passes(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mean passes against the length of the translation, a line for each system of several passes, as SVG; beside them
    what a perfect balanced tree of insertions takes: floor(log2 n) + 1 passes, and one that finds nothing to insert
    (Stern et al. 2019, section 4.2)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="length of the translation in tokens", ylabel="mean passes")
    longest = 1
    for row in several_passes(rows):
        lengths = [point["length"] for point in row["passes_by_length"]]
        longest = max([longest, *lengths])
        axes.plot(lengths, [point["passes"] for point in row["passes_by_length"]], marker=".", label=row["name"])
    ideal = range(1, longest + 1)
    axes.plot(ideal, [n.bit_length() + 1 for n in ideal], color="black", linestyle=":", label="balanced tree")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
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
