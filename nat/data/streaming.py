"""Training pairs that are read and tokenised anew each epoch: for texts that do not fit a disk twice.

The pairs come in pools: READ_AT_ONCE rows in turns from several files, whose order changes with each epoch, until there
are data.shuffle_buffer of them; each pool is shuffled for itself (`plan_updates`). So a pool and its updates follow
from where it begins, and a run goes on by reading one pool. Where pools begin stands in a journal of the run folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nat.data.batching import CanvasLength, PairFilter, Update, plan_updates, rectangles
from nat.data.cache import digest
from nat.data.corpus import DataConfig
from nat.data.filters import DropReport, FilterConfig, beyond_limit, kept
from nat.data.lines import outline
from nat.data.pairs import Pair, PairTable
from nat.data.readers import READ_AT_ONCE, Row, parse_location
from nat.data.streams import TextStream, columns
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizing import encode
from nat.errors import ConfigError, DataError
from nat.files import to_json, write_text

POOL_UPDATES = 8  # a pool holds this many updates at least, so that they come out even
ORDER = 0xF11E5  # tells the random numbers of the files' order from those of the pools

Begin = dict[str, Any]  # `rows`, `passed` and `report` of a PoolStart


@dataclass(frozen=True)
class PoolStart:
    """Where a pool begins, as plain data. update: updates of the run before it; position: those of the epoch. pool: its
    number in the epoch. rows: state of the text stream, None at its beginning; passed: pairs before it within
    data.limit; report: what the epoch had dropped by then."""

    update: int
    epoch: int
    position: int = 0
    pool: int = 0
    rows: dict[str, Any] | None = None
    passed: int = 0
    report: dict[str, Any] | None = None


class Journal:
    """The `PoolStart` of every pool that a rank has begun, a line of JSON each."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """writes: False for one of several ranks that all read the same."""
        self.path, self.writes = path, writes
        self.known: PoolStart | None = None  # the last one that is written down

    def last(self, update: int) -> PoolStart | None:
        """Of the last pool that begins at this update of the run or before it; later ones are forgotten. None where
        none is known."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        starts = [start for start in map(_start, lines) if start is not None and start.update <= update]
        if self.writes and len(starts) < len(lines):
            write_text(self.path, "".join(to_json(asdict(start)) + "\n" for start in starts))
        self.known = starts[-1] if starts else None
        return self.known

    def add(self, start: PoolStart) -> None:
        if self.writes and start != self.known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(to_json(asdict(start)) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a training state that is on the disk must find it


def _start(line: str) -> PoolStart | None:
    """None for what a kill has left of a line."""
    try:
        return PoolStart(**json.loads(line))
    except (ValueError, TypeError):
        return None


@dataclass(eq=False)
class StreamingCorpus:
    """report: what the epoch in progress (or the last one) has dropped so far. accepts: which pairs the model can
    learn from; the others are dropped under `reason`. rank, num_ranks: whose files are read: every num_ranks-th, from
    number `rank` on. start: where the next epoch that is asked for is entered; None: at its beginning."""

    texts: TextStream
    tokenizers: Tokenizers
    config: DataConfig
    filters: FilterConfig | None
    report: DropReport
    accepts: PairFilter | None = None
    reason: str = ""
    rank: int = 0
    num_ranks: int = 1
    journal: Journal | None = None
    start: PoolStart | None = None

    @property
    def fingerprint(self) -> str:
        """A key of the tokenizer and of each file's size, beginning and end: a stream is not read to the end for it. Of
        what is no file, such as a data set of the hub, its name."""
        shards = parse_location(self.config.train or []).shards()
        paths = [Path(path) for shard in shards for path in shard.paths]
        files = (
            file
            for path in paths
            for file in (sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path])
        )
        parts = (part for file in files for part in (outline(file) if file.is_file() else [str(file)]))
        return digest(self.tokenizers.fingerprint, *parts)

    def only(self, accepts: PairFilter, reason: str, key: str | None = None) -> StreamingCorpus:
        """See `TokenizedCorpus.only`; the pairs are looked at as they are read, each time."""
        return replace(self, accepts=accepts, reason=reason)

    def of_rank(self, rank: int, num_ranks: int, folder: Path, *, fresh: bool) -> StreamingCorpus:
        """The stream of one of several ranks: of files of its own, if there are enough of them and no data.limit, which
        counts through all. folder: of the journals. fresh: the run has no update yet. Raises ConfigError where so many
        ranks cannot go on."""
        are_apart = num_ranks > 1 and len(self.texts.readers) >= num_ranks and self.config.limit is None
        own = (rank, num_ranks) if are_apart else (0, 1)
        others = {path for path in folder.glob("rank-*-of-*.jsonl") if not path.stem.endswith(f"-of-{own[1]}")}
        if others and not fresh:
            number = min(others).stem.rpartition("-of-")[2]
            raise ConfigError(
                f"{folder.parent}: its streamed text was parted among {number} ranks, and now would be among {own[1]}; "
                "use as many ranks as before, or choose another run_dir"
            )
        for path in others:  # of an attempt that failed before its first state
            path.unlink(missing_ok=True)
        journal = Journal(folder / f"rank-{own[0]}-of-{own[1]}.jsonl", writes=are_apart or rank == 0)
        report = replace(self.report, name=f"{self.report.name} (files of rank {rank})") if are_apart else self.report
        return replace(self, rank=own[0], num_ranks=own[1], journal=journal, report=report)

    def resume(self, update: int, epoch: int, position: int) -> tuple[int, int]:
        """Before the first `updates` of a run that has done `update` of them, `position` in its epoch: the epoch and
        position of this rank, whose files may be shorter than those of others."""
        known = self.journal.last(update) if self.journal is not None else None
        if known is None or (self.num_ranks == 1 and known.epoch != epoch):  # the journal is another folder's, or lost
            known = PoolStart(update - position, epoch)
        self.start = known
        return self.start.epoch, self.start.position + update - self.start.update

    def updates(
        self,
        tokens_per_update: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
        canvas_length: CanvasLength | None = None,
    ) -> Iterator[Update]:
        """See `batching.Updates`; where files are this rank's own, its share of each. Of what is skipped, only the
        pools after the last that the journal knows are read. Raises DataError if no pair passes the filters."""
        tokens = -(-tokens_per_update // self.num_ranks)
        start = self.start
        if start is None or start.epoch != epoch or start.position > skip:
            start = PoolStart(0, epoch)
        position, before = start.position, start.update - start.position
        pools = _pools(self._chunks(start, seed), self.config.shuffle_buffer, POOL_UPDATES * tokens)
        for number, (begin, pool) in enumerate(pools, start.pool):
            if self.journal is not None:
                self.journal.add(PoolStart(before + position, epoch, position, number, **begin))
            table, key = PairTable.of(pool), (seed, epoch, number, self.rank)
            lengths = (table.source.lengths, table.target.lengths)
            for rows in plan_updates(*lengths, tokens, seed=key, canvas_length=canvas_length):
                if position >= skip:
                    yield Update(table, rows, is_share=self.num_ranks > 1)
                position += 1
        if not position:
            raise DataError(f"no pair is left. {self.report.lines()[0]}")
        if self.num_ranks > 1 and position < skip:
            raise DataError(f"{self.journal.path if self.journal else ''}: pools are missing; choose another run_dir")
        self.start = PoolStart(before + position, epoch + 1)

    def _chunks(self, start: PoolStart, seed: int) -> Iterator[tuple[Begin, list[Pair]]]:
        """The kept pairs of READ_AT_ONCE rows or more together, and what a PoolStart says of the rows before them."""
        self.report = DropReport(self.report.name) if start.report is None else DropReport(**start.report)
        order = np.random.default_rng((seed, start.epoch, 0, ORDER)).permutation(len(self.texts.readers)).tolist()
        order = order[self.rank :: self.num_ranks]
        size, passed = min(READ_AT_ONCE, self.config.shuffle_buffer), start.passed
        begin: Begin = {"rows": start.rows, "passed": passed, "report": start.report}
        for rows, following in self.texts.chunks(order, start.rows, size):
            pairs, num_passed = self._kept_pairs(rows, passed)
            yield begin, pairs
            passed += num_passed
            begin = {"rows": following, "passed": passed, "report": asdict(self.report)}
            if self.config.limit is not None and passed >= self.config.limit:
                return

    def _kept_pairs(self, rows: Sequence[Row], passed: int) -> tuple[list[Pair], int]:
        """Those of the rows' pairs that are kept, and how many are within data.limit, of which `passed` were before."""
        batch, limit = columns(rows), self.config.limit
        encoded, lines = encode(batch, self.tokenizers, str(self.config.train)), np.array(batch["line"])
        keep, self.report = kept(
            self.report, encoded.lengths, lines, batch, max_words=self.config.max_words, filters=self.filters
        )
        places = keep.nonzero()[0]
        if limit is not None:
            self.report = self.report.drop(beyond_limit(limit), lines[places[limit - passed :]])
            places = places[: limit - passed]
        return self._accepted(encoded.table.take(places), lines[places]), len(places)

    def _accepted(self, table: PairTable, lines: np.ndarray) -> list[Pair]:
        if self.accepts is not None and len(table):
            keep = self.accepts(rectangles(table))
            self.report = self.report.drop(self.reason, lines[~keep])
            table = table.take(keep.nonzero()[0])
        return table.pairs()


def _pools(chunks: Iterable[tuple[Begin, list[Pair]]], size: int, tokens: int) -> Iterator[tuple[Begin, list[Pair]]]:
    """Consecutive chunks together, of at least `size` pairs and `tokens` target tokens. The rest joins the last of
    them, so that no update is small."""
    ready: tuple[Begin, list[Pair]] | None = None
    first: Begin | None = None
    pool: list[Pair] = []
    for begin, pairs in chunks:
        first = begin if first is None else first
        pool += pairs
        if len(pool) >= size and sum(len(pair.target) + 1 for pair in pool) >= tokens:
            if ready is not None:
                yield ready
            ready, first, pool = (first, pool), None, []
    if ready is not None:
        yield ready[0], ready[1] + pool
    elif first is not None and pool:
        yield first, pool
