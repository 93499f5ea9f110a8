"""nat-bench feed: how fast a rank's share of updates is gathered from the token store and made into batches.

The corpus is made, of the lengths of news text, and memory-mapped as a real one is; nothing is computed on the batches.
For several ranks each of them makes its own share of the same updates, one after the other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nat.bench.text import MEAN_LENGTH, synthetic_table
from nat.config import option
from nat.data import store
from nat.data.batching import Update, micro_batches, plan_updates
from nat.data.pairs import PairTable
from nat.data.tokenizing import Encoded
from nat.evaluation.speed import spread
from nat.table import markdown_table


@dataclass(frozen=True)
class FeedSizes:
    pairs: int = option(200_000, "sentence pairs of the corpus", minimum=1, maximum=1_000_000_000)
    vocabulary_size: int = option(32_000, "V, one vocabulary for both languages", minimum=10, maximum=1_000_000)
    ranks: list[int] = option([1, 8], "numbers of ranks", minimum=1, maximum=1024)
    tokens_per_update: int = option(65_536, "target tokens of an update, over all ranks", minimum=1, maximum=10**9)
    max_tokens: int = option(8192, "rows x padded canvas of a micro-batch", minimum=1, maximum=10**9)
    updates: int = option(20, "updates of a pass, evenly spread over the epoch", minimum=1, maximum=1_000_000)


def measure_feed(sizes: FeedSizes, *, repeats: int) -> list[dict[str, Any]]:
    """A row for each number of ranks: target tokens a second of the whole job, as its slowest rank lets it have them;
    `share`, what a rank gets of them; `plan_seconds`, which the plan of an epoch takes. All in time of one core."""
    with tempfile.TemporaryDirectory(prefix="nat-feed-") as folder:
        table = stored(synthetic_table(sizes.vocabulary_size, round(sizes.pairs * MEAN_LENGTH)), Path(folder))
        began = time.thread_time()
        plan = plan_updates(table.source.lengths, table.target.lengths, sizes.tokens_per_update, seed=(1, 0))
        plan_seconds = time.thread_time() - began
        updates = spread(plan, sizes.updates)
        tokens = sum(int(table.target.lengths_of(rows).sum()) for rows in updates)
        seconds: dict[int, list[float]] = {number: [] for number in sizes.ranks}
        for _ in range(repeats):
            for number, times in seconds.items():  # they take turns
                times.append(max(gather(table, updates, sizes, rank, number) for rank in range(number)))
    rates = {number: tokens / statistics.median(times) for number, times in seconds.items()}
    return [
        {
            "name": f"{number} rank{'s' * (number > 1)}",
            "tokens_per_second": rate,
            "share": rate / number,
            "plan_seconds": plan_seconds,
        }
        for number, rate in rates.items()
    ]


def stored(table: PairTable, folder: Path) -> PairTable:
    """The same, from a token store in this folder."""
    store.save(Encoded(table, np.zeros((len(table), 2), dtype=np.int32)), folder)
    return store.load(folder).table


def gather(table: PairTable, updates: list[np.ndarray], sizes: FeedSizes, rank: int, num_ranks: int) -> float:
    """The seconds that a rank needs for its share of all updates."""
    began = time.thread_time()
    for rows in updates:
        micro_batches(
            Update(table, rows),
            lambda source, target: target + 1,
            rank=rank,
            num_ranks=num_ranks,
            max_tokens=sizes.max_tokens,
        )
    return time.thread_time() - began


def describe_feed(figures: Mapping[str, Any]) -> str:
    rows = [
        [
            row["name"],
            f"{row['tokens_per_second'] / 1e6:.1f}",
            f"{row['share'] / 1e6:.1f}",
            f"{row['plan_seconds']:.2f}",
        ]
        for row in figures["results"]
    ]
    headings = ["", "10^6 target tokens/s", "of them a rank's", "s for the plan of an epoch"]
    return f"{markdown_table(headings, rows)}\n\n{figures['machine']}, one core, medians of {figures['repeats']}\n"
