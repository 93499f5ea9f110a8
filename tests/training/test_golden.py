"""Short loss curves from weights that a formula gives: numerics as text that a reviewer can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import MODELS, loss_curve

LOSSES = Path(__file__).parent.parent / "golden" / "losses.json"


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_curve_is_the_golden_one(name: str) -> None:
    """Make it anew by tests/golden/renew.py."""
    golden = json.loads(LOSSES.read_text(encoding="utf-8"))[name]
    found = loss_curve(name)
    assert found == pytest.approx(golden, abs=1e-4)
    assert found[-1] < found[0]
