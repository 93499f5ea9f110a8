"""nat-bench card: the two ceilings of a machine, matrix products and copies, to which everything is compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nat.config import option
from nat.runs.precision import Precision
from nat.table import markdown_table, rounded

TYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
SIZE = {"cuda": 8192, "cpu": 1024}  # M = N = K of a product that fills the device
COPY = {"cuda": 4 << 30, "cpu": 1 << 28}  # bytes
ROUNDS, WARM_UP = 10, 3


@dataclass(frozen=True)
class CardSizes:
    precision: Precision = option(Precision.BF16, "of the matrix product: fp32, bf16 or fp16")


def measure_card(sizes: CardSizes, device: torch.device) -> list[dict[str, Any]]:
    return [
        {"name": f"{sizes.precision.value} matrix product", "per_second": matrix_rate(device, sizes.precision)},
        {"name": "copied bytes, read and written", "per_second": copy_rate(device)},
    ]


def describe_card(figures: Mapping[str, Any]) -> str:
    rows = [[row["name"], rounded(row["per_second"], 3, 1e-12)] for row in figures["results"]]
    table = markdown_table(["", "10^12 a second"], rows)
    return "\n".join([table, "", f"{figures['device']}, torch {figures['torch']}", ""])


def matrix_rate(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of a large square matrix product of random numbers."""
    size = SIZE[device.type]
    one, other = (torch.randn(size, size, device=device).to(TYPES[precision]) for _ in range(2))
    return 2.0 * size**3 / median_seconds(lambda: one @ other, device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second of a copy within the device's memory, those read and those written."""
    source = torch.randint(0, 100, (COPY[device.type] // 8,), device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of ROUNDS times after a warm-up; on a GPU by events in its own stream."""
    times = []
    for _ in range(WARM_UP + ROUNDS):
        if device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            work()
            ended.record()
            torch.cuda.synchronize(device)
            times.append(began.elapsed_time(ended) / 1000.0)
        else:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])
