"""The simplex: barycentric places, and a picture that shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nat.drawing.simplex import CORNERS, Panel, check_simplex, drawable, places, write_simplex
from nat.errors import ConfigError


def test_places_are_barycentric() -> None:
    shares = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    found = places(shares)
    np.testing.assert_allclose(found[:3], CORNERS)
    np.testing.assert_allclose(found[3], CORNERS.mean(axis=0))
    np.testing.assert_allclose(found[4], [0.5, 0.0], atol=1e-12)
    # the share of a corner is the distance from the side that faces it, over the height
    heights = [np.linalg.det(np.array([b - a, found[5] - a])) / np.sqrt(0.75) for a, b in sides()]
    np.testing.assert_allclose(heights, shares[5])
    lengths = [np.linalg.norm(a - b) for a, b in sides()]
    np.testing.assert_allclose(lengths, 1.0)


def sides() -> list[tuple[np.ndarray, np.ndarray]]:
    """The side that faces each corner, counter-clockwise."""
    a, b, c = CORNERS
    return [(b, c), (c, a), (a, b)]


def test_the_picture_shows_every_system_and_its_languages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    random = np.random.default_rng(1)
    panels = [
        Panel(f"system {i} | $x$", f"mixing {i} %", random.dirichlet([1, 1, 1], size=30), random.integers(0, 3, 30))
        for i in range(2)
    ]
    panels.append(Panel("nothing", "", np.empty((0, 3)), np.empty(0, dtype=int)))
    write_simplex(panels, ["de", "fr", "es"], tmp_path)
    assert (tmp_path / "simplex.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "simplex.svg").read_text(encoding="utf-8")
    assert all(panel.title in svg for panel in panels)
    share = 100 * (panels[0].main == 0).mean()
    assert f">de {share:.0f} %<" in svg


def test_a_triangle_has_three_languages() -> None:
    assert drawable(["de", "fr", "es"])
    assert not drawable(["de", "fr"])
    with pytest.raises(
        ConfigError, match=r"^plots=true: the simplex is drawn of three languages, data\.target names 2$"
    ):
        check_simplex(["de", "fr"])
