"""metrics.jsonl of a run folder: one JSON object a line, training curves and validation scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nat.errors import DataError
from nat.files import check_kinds

METRICS = "metrics.jsonl"
NUMBERS = ("update", "tokens", "seconds", "nll", "loss", "bleu", "chrf")  # or null


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Its lines in order, each with `kind` (train, valid ...) and `update` at least; [] where the run has no such file.

    A last line without an end, which was being written when the run was killed, is left out if it is not whole. Raises
    DataError, naming the line, if another one is damaged.
    """
    path = folder / METRICS
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    points = [_point(line, f"{path}, line {number}") for number, line in enumerate(whole, start=1) if line.strip()]
    try:
        return [*points, _point(last, str(path))] if last else points
    except DataError:
        return points


def _point(line: bytes, place: str) -> dict[str, Any]:
    try:
        point = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{place}: damaged or unreadable ({error})") from None
    if not isinstance(point, dict) or not isinstance(point.get("kind"), str) or type(point.get("update")) is not int:
        raise DataError(f"{place}: damaged or unreadable (not an object with a kind and an update)")
    known = {name: value for name, value in point.items() if value is not None}
    check_kinds(known, dict.fromkeys(NUMBERS, float), place)
    return point
