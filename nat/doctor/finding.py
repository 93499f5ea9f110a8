"""What a check finds, and the limits that it judges by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from nat.doctor.facts import Facts


class Severity(Enum):
    """How much is lost: the run is worth little as it is; points of BLEU; little, or only certainty."""

    SEVERE = "severe"
    COSTLY = "costly"
    MINOR = "minor"


@dataclass(frozen=True)
class Threshold:
    """A limit, and where it comes from."""

    value: float
    reason: str


@dataclass(frozen=True)
class Finding:
    """what: a sentence with its figures. figure: the number that was judged. advice: what to do; override: an option to
    try, with its command."""

    severity: Severity
    what: str
    figure: float
    threshold: Threshold
    advice: str
    override: str


Check = Callable[[Facts], Finding | None]


def percent(share: float) -> str:
    """0.1234 -> '12.3 %'."""
    return f"{100 * share:.1f} %"
