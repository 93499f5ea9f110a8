"""Updates, micro-batches and decoding batches, as pure functions of lengths, seed and epoch.

What an update holds does not depend on the number of ranks or on memory: those only decide how the update is
cut into pieces.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch

from nat.data.batch import Batch, Source, Target
from nat.data.filters import DropReport
from nat.data.pairs import Pair, PairTable

T = TypeVar("T")
PairFilter = Callable[[Batch], np.ndarray]  # B pairs -> (B,) bool, True where they are kept
CanvasLength = Callable[[np.ndarray, np.ndarray], np.ndarray]  # source and target lengths (N,) -> positions (N,)
# Constants of the method, not options: every run's updates follow from them.
LENGTH_GROUP = 4096  # target tokens of similar length that stay together
# In one pool, 73 % of an update's pairs would meet again in the next epoch (lohelp, 2000 tokens); in P, about 1/P.
# Padding grows little as long as a pool has 64 groups.
GROUPS_PER_POOL = 64
POOLS_OF_SMALL_CORPORA = 4


@dataclass(frozen=True, eq=False)
class Update(Sequence[Pair]):
    """The pairs of one optimiser update, as places in a table: what a rank does not ask for is not read.

    rows: (N,) whole numbers. is_share: they are one rank's share, and the others have pairs of their own.
    """

    table: PairTable
    rows: np.ndarray
    is_share: bool = False

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Update:
        """Pairs that are at hand one by one."""
        return pairs if isinstance(pairs, Update) else cls(PairTable.of(pairs), np.arange(len(pairs)))

    @cached_property
    def source_lengths(self) -> np.ndarray:
        """(N,) tokens."""
        return self.table.source.lengths_of(self.rows)

    @cached_property
    def target_lengths(self) -> np.ndarray:
        """(N,) tokens."""
        return self.table.target.lengths_of(self.rows)

    def collate(self, places: np.ndarray) -> Batch:
        """The pairs at these places of the update, (B,), see `Batch`."""
        return rectangles(self.table.take(self.rows[places]))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Pair: ...

    @overload
    def __getitem__(self, place: slice) -> Update: ...

    def __getitem__(self, place: int | slice) -> Pair | Update:
        if isinstance(place, slice):
            return Update(self.table, self.rows[place])
        return self.table.take(self.rows[[place]]).pairs()[0]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.table.take(self.rows).pairs())


class Updates(Protocol):
    """What the trainer asks of a training corpus."""

    @property
    def report(self) -> DropReport: ...

    def updates(
        self,
        tokens_per_update: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
        canvas_length: CanvasLength | None = None,
    ) -> Iterator[Update]:
        """The optimiser updates of one epoch, without the first `skip`. Every pair occurs once; an update holds
        about `tokens_per_update` target tokens, each end mark counted as one. canvas_length: see `plan_updates`."""
        ...


def plan_updates(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    tokens_per_update: int,
    *,
    seed: Sequence[int],
    canvas_length: CanvasLength | None = None,
) -> list[np.ndarray]:
    """Indices of the pairs of each update: a random partition of range(N), the same for the same arguments.

    source_lengths, target_lengths: (N,) tokens. canvas_length: what the model's decoder works on; None: the target.
    The shuffled pairs are sorted by what the model works on within pools and cut into
    groups of about LENGTH_GROUP target tokens (or of an update, if that is less); an update is a random choice
    of groups, so that it needs little padding and yet, where it is large, sees all lengths. All updates of an
    epoch have nearly the same number of tokens: there is no small remainder.
    """
    if not len(target_lengths):
        return []
    random = np.random.default_rng(seed)
    total = int(target_lengths.sum(dtype=np.int64)) + len(target_lengths)
    num_updates = max(1, round(total / tokens_per_update))
    num_groups = num_updates * max(1, round(tokens_per_update / LENGTH_GROUP))
    num_pools = max(1, num_groups // GROUPS_PER_POOL, min(POOLS_OF_SMALL_CORPORA, num_groups // 8))
    canvas = target_lengths if canvas_length is None else canvas_length(source_lengths, target_lengths)
    order = _sorted_within_pools(_by_work(source_lengths, target_lengths, canvas), num_pools, random)
    tokens = target_lengths[order].astype(np.int64) + 1
    # a pair belongs to the group in which its middle lies; whole numbers, so that every machine agrees
    group = (2 * np.cumsum(tokens) - tokens) * num_groups // (2 * total)
    groups = np.split(order, np.searchsorted(group, np.arange(1, num_groups)))
    shuffled = [groups[i] for i in random.permutation(num_groups)]
    size = num_groups // num_updates
    updates = [np.concatenate(shuffled[i : i + size]) for i in range(0, num_groups, size)]
    return [update for update in updates if len(update)]  # very long sentences leave groups empty


def _by_work(source_lengths: np.ndarray, target_lengths: np.ndarray, canvas: np.ndarray) -> list[np.ndarray]:
    """Sort keys of the N pairs, as `np.lexsort` reads them: by the longer of what encoder and decoder work on, then by
    source, then by target. Where the source makes the canvas (slots), that is by source and nearly without padding."""
    return [target_lengths, source_lengths, np.maximum(source_lengths, canvas)]


def _sorted_within_pools(keys: list[np.ndarray], num_pools: int, random: np.random.Generator) -> np.ndarray:
    """An order of the N pairs: random pools one after the other, each sorted by the keys. Every other pool descends, so
    that no group of similar lengths breaks where two pools meet."""
    shuffled = random.permutation(len(keys[0]))
    pool = np.arange(len(shuffled)) * num_pools // len(shuffled)
    sign = 1 - 2 * (pool % 2)
    return shuffled[np.lexsort([*(sign * key[shuffled] for key in keys), pool])]


def micro_batches(
    pairs: Sequence[Pair],
    canvas_length: CanvasLength,
    *,
    rank: int,
    num_ranks: int,
    max_tokens: int,
    seed: int = 0,
) -> list[Batch]:
    """The share of an update that falls to `rank`, in batches that fit into memory, the longest first.

    canvas_length: (source lengths, target lengths) -> positions of the decoder, as the model has it. Rows times
    the longest source or canvas of a batch is at most `max_tokens`; a longer pair makes a batch alone.
    Over all ranks, every pair occurs once; a rank's list may be empty, and of the others' shares only lengths are read.
    seed: of the run; a pair's key is made of it and
    of its place in the update, whatever batch or rank it falls to.
    """
    update = Update.of(pairs)
    if not len(update):
        return []
    first, step = (rank, num_ranks) if update.is_share else (0, 1)  # keys of a share are of this rank alone
    if update.is_share:
        rank, num_ranks = 0, 1
    keys = _by_work(
        update.source_lengths,
        update.target_lengths,
        canvas_length(update.source_lengths, update.target_lengths),
    )
    order, widths = np.lexsort(keys)[::-1], keys[-1]
    share = order[rank::num_ranks]
    batches = []
    for rows in _cut(widths[share], len(share), max_tokens):
        keys_of_pairs = torch.from_numpy(step * share[rows].astype(np.int64)) + first + seed
        batches.append(replace(update.collate(share[rows]), keys=keys_of_pairs))
    return batches


def collate(pairs: Sequence[Pair]) -> Batch:
    """The pairs as a right-padded batch, in their order; with fertilities if the pairs have them."""
    return rectangles(PairTable.of(pairs))


def rectangles(table: PairTable) -> Batch:
    """All pairs of a table as a right-padded batch, with fertilities if they have them."""
    fertilities = None if table.fertilities is None else torch.from_numpy(table.fertilities.padded()[0])
    return Batch(Source.of(table.source), Target.of(table.target), fertilities)


def length_sorted_batches(
    lengths: Sequence[int] | np.ndarray, *, batch_size: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Batches for decoding: indices of (N,) `lengths`, the longest first, at most `batch_size` rows and, if
    given, `max_tokens` padded tokens each (a longer sentence alone)."""
    widths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-widths, kind="stable")
    return [order[rows] for rows in _cut(widths[order], batch_size, max_tokens)]


def _cut(widths: np.ndarray, batch_size: int, max_tokens: int | None) -> list[slice]:
    """Consecutive slices of descending `widths`, in each of which rows x first width is at most max_tokens."""
    slices, start = [], 0
    while start < len(widths):
        rows = batch_size
        if max_tokens is not None:
            rows = min(rows, max(1, max_tokens // max(1, int(widths[start]))))
        slices.append(slice(start, min(start + rows, len(widths))))
        start += rows
    return slices


def prefetch(iterator: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, up to `depth` of them made ahead by a thread. Its exceptions are raised here; when the
    consumer stops early, so does the thread."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(iterator, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        # A thread that is within C++ when Python ends aborts the process. What it waits for may not come: not for ever.
        thread.join(timeout=10)


def _fill(iterator: Iterator[Any], ready: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    def offer(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)  # wakes up to see whether anyone still wants it
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in iterator:
            if not offer("item", item):
                return
        offer("end", None)
    except BaseException as error:
        offer("error", error)
