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


def check_plots() -> None:
    """Raises ConfigError where the package is missing."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"plots=true: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


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
