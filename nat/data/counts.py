"""Options of a generated task: whole numbers, of which some may be ranges such as 5-20."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from nat.errors import ConfigError

MOST_WORDS = 1 << 20  # of a text that a task makes


@dataclass(frozen=True)
class Range:
    """Whole numbers from low to high, both among them."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def read_counts(text: str, names: Sequence[str], ranges: Sequence[str]) -> dict[str, Any]:
    """The options in TASK?KEY=VALUE&KEY=VALUE, of those in `names`: whole numbers, or for those in `ranges` a Range,
    LOW-HIGH. Raises ConfigError."""
    task, _, query = text.partition("?")
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in names:
            raise ConfigError(f"task:{task} has no '{key}', it has {', '.join(names)}")
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", value, re.ASCII)
        if match is None or (match[2] and (key not in ranges or int(match[2]) < int(match[1]))):
            example = " or of a rising range, 5-20" if key in ranges else ""
            raise ConfigError(f"{key}={value}: a whole number is needed, such as {key}=5{example}")
        low, high = int(match[1]), int(match[2] or match[1])
        options[key] = Range(low, high) if key in ranges else low
    return options


def check_count(key: str, value: int | Range, low: int, high: int | None = None) -> None:
    """Raises ConfigError where a number lies outside low .. high."""
    smallest, largest = (value.low, value.high) if isinstance(value, Range) else (value, value)
    if smallest < low or (high is not None and largest > high):
        raise ConfigError(f"{key}={value}: must be at least {low}" + ("" if high is None else f" and at most {high}"))
