"""The one way in which figures are written, and the pictures that have no other test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nat.drawing.circles import Circle, write_circles
from nat.drawing.polygons import write_polygons
from nat.drawing.style import INK, MARKERS, PALETTE, VARIABLES, color, marker, new_axes, style, svg_element, write_svg

pytest.importorskip("matplotlib")


def test_colours_and_markers_come_again_but_not_together() -> None:
    looks = [(color(look), marker(look)) for look in range(len(PALETTE) * len(MARKERS))]
    assert len(set(looks)) == len(looks)
    assert (color(len(looks)), marker(len(looks))) == looks[0]


def test_the_same_figure_is_the_same_text_and_has_no_date(tmp_path: Path) -> None:
    texts = []
    for name in ("a.svg", "b.svg"):
        with style():
            figure, axes = new_axes(2, 1)
            axes.plot([1, 2], [1, 2], color=color(0), label="$x$ & <b>")
            axes.legend()
        write_svg(figure, tmp_path / name)
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert "$x$ &amp; &lt;b&gt;" in texts[0]  # text, whatever it holds
    assert "<dc:date>" not in texts[0] and "<dc:creator>" not in texts[0]


def test_an_element_for_a_page_has_the_page_s_colours_and_its_own_ids() -> None:
    with style():
        figure, axes = new_axes(2, 1)
        axes.plot([1, 2], [1, 2], color=color(1))
    svg = svg_element(figure, "loss")
    assert svg.startswith("<svg ") and VARIABLES[color(1)] in svg and VARIABLES[INK] in svg
    assert not any(f": {colour}" in svg for colour in VARIABLES)
    assert all(
        name.startswith("loss-") for name in re.findall(r'\bid="([^"]*)"|href="#([^"]*)"', svg) for name in name if name
    )
    assert not re.search(r'^<svg[^>]* (width|height)="', svg)


def test_polygons_right_and_wrong(tmp_path: Path) -> None:
    points = "0.1,0.1 0.9,0.1 0.5,0.9"
    write_polygons([points] * 3, ["0 1 2", "0 2 1 7", ""], ["0 1 2"] * 3, tmp_path / "hulls.svg")
    text = (tmp_path / "hulls.svg").read_text(encoding="utf-8")
    assert (text.count(">right<"), text.count(">WRONG<")) == (1, 2)
    assert color(0) in text and color(1) in text


def test_names_of_circles_do_not_lie_on_one_another(tmp_path: Path) -> None:
    circles = [Circle(f"kind {i}", f"family {i % 2}", 1000.0, 10.0 * (i + 1), 50.0) for i in range(3)]
    write_circles({"score": circles, "other": circles[:1]}, tmp_path / "kinds.svg")
    text = (tmp_path / "kinds.svg").read_text(encoding="utf-8")
    found = re.findall(r'<g id="kind \d, score">.*?<text[^>]* y="([\d.]+)"', text, flags=re.DOTALL)
    heights = [float(height) for height in found]
    assert len(heights) == 3
    assert min(abs(a - b) for i, a in enumerate(heights) for b in heights[:i]) > 9  # points
