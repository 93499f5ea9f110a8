"""How every figure of nat looks, and how it is written, by matplotlib (extra `plot`).

The palette is that of Okabe & Ito 2008 (https://jfly.uni-koeln.de/color): told apart by the colour-blind. In the SVG
of a page every colour is a variable of the page's style sheet: the page has a light and a dark one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nat.errors import ConfigError
from nat.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGE = "matplotlib"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.")
INK, LINE = "#1b1f23", "#c9ced3"
VARIABLES = {color: f"var(--s{i})" for i, color in enumerate(PALETTE)} | {INK: "var(--ink)", LINE: "var(--line)"}
SETTINGS: dict[Any, Any] = {  # names of systems are text, whatever signs they hold
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


def has_plots() -> bool:
    return find_spec(PACKAGE) is not None


def check_plots(option: str = "plots=true") -> None:
    """Raises ConfigError, naming the option that asks for a figure, where the package is missing."""
    if not has_plots():
        raise ConfigError(f"{option}: {PACKAGE} is missing; pip install 'nat-translation[plot]'")


def color(look: int) -> str:
    """look: number of a system or family, from 0; after the last colour comes the first again."""
    return PALETTE[look % len(PALETTE)]


def marker(look: int) -> str:
    """look: see `color`; fewer colours than markers, so that 56 pairs differ."""
    return MARKERS[look % len(MARKERS)]


@contextmanager
def style() -> Iterator[None]:
    """Figures are made in this context."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Empty, of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def write_png(figure: Figure, path: Path) -> None:
    """On white, for print. Raises DataError where it cannot be written."""
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=150, facecolor="white"))


def write_svg(figure: Figure, path: Path) -> None:
    """On white; text stays text. Raises DataError where it cannot be written."""
    write_text(path, svg_of(figure, transparent=False))


def svg_element(figure: Figure, name: str) -> str:
    """An <svg> element for a page: the background is the page's, ids begin with `name`."""
    svg = svg_of(figure, transparent=True)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    for side in ("height", "width"):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = re.sub(rf"(?<=: ){color}\b", variable, svg)
    return svg


def svg_of(figure: Figure, *, transparent: bool) -> str:
    """The same figure gives the same text."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return text.getvalue()
