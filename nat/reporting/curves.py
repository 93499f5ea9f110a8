"""Training curves, as metrics.jsonl of a run folder tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nat.errors import DataError

TRAIN, VALID = ("update", "tokens", "seconds", "nll"), ("update", "tokens", "seconds", "bleu", "chrf", "nll")


def read_curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Points of training and validation, in order; a field that a line lacks is null. Both are empty where the run has
    no metrics.jsonl. A last line that is not whole, of a run that is still written, is left out. Raises DataError if
    another line is damaged."""
    curves: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    path = folder / "metrics.jsonl"
    if not path.exists():
        return curves
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            point = json.loads(line)
            names = {"train": TRAIN, "valid": VALID}.get(point["kind"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: damaged or unreadable ({error})") from None
        if names is not None:
            curves[point["kind"]].append({name: point.get(name) for name in names})
    return curves
