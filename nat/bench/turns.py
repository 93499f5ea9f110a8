"""Contenders that take turns in one process, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nat.evaluation.speed import synchronize
from nat.table import markdown_table, rounded

WARM_UP = 2  # rounds before the clock counts


@dataclass(frozen=True)
class Contender:
    """What is timed. limit: how many times the first contender's median it may take; None: the first itself."""

    name: str
    work: Callable[[], object]
    limit: float | None = None


@dataclass(frozen=True)
class Measured:
    """milliseconds: median of a contender. ratio: over the first contender's; limit: what the ratio may be."""

    name: str
    milliseconds: float
    ratio: float
    limit: float | None


def compare(
    contenders: Sequence[Contender],
    *,
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] | None = None,
) -> list[Measured]:
    """Medians over `repeats` rounds, in each of which every contender works once. clock: tells the seconds; None: those
    of the wall."""
    clock = clock or time.perf_counter
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(WARM_UP + repeats):
        for row, contender in zip(times, contenders, strict=True):
            synchronize(device)
            began = clock()
            contender.work()
            synchronize(device)
            if number >= WARM_UP:
                row.append(1000.0 * (clock() - began))
    medians = [statistics.median(row) for row in times]
    return [
        Measured(contender.name, median, median / medians[0], contender.limit)
        for contender, median in zip(contenders, medians, strict=True)
    ]


def describe_turns(figures: Mapping[str, Any]) -> str:
    """The figures as a table, with what one needs to judge them; with peak memory where it was measured."""
    with_memory = all("peak_megabytes" in row for row in figures["results"])
    rows = [
        [row["name"], rounded(row["milliseconds"], 1), rounded(row["ratio"], 3)]
        + ["" if row["limit"] is None else f"{row['limit']:g}"]
        + ([rounded(row["peak_megabytes"], 1)] if with_memory else [])
        for row in figures["results"]
    ]
    table = markdown_table(["", "ms", "ratio", "at most", *(["peak MB"] if with_memory else [])], rows)
    sizes = ", ".join(f"{name}={value}" for name, value in figures["sizes"].items())
    where = f"{figures['device']}, {figures['num_threads']} CPU threads, torch {figures['torch']}"
    return f"{table}\n\nmedians of {figures['repeats']}, taking turns; float32; {sizes}; {where}\n"
