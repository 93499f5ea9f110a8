"""Tokenised corpora: memory-mapped token ids with their lengths, or a stream of them (`nat.data.streaming`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, overload

import numpy as np
from datasets import Dataset

from nat.data import store
from nat.data.batching import CanvasLength, PairFilter, Update, length_sorted_batches, plan_updates, rectangles
from nat.data.cache import cache_directory, cached, digest
from nat.data.corpus import DataConfig, read_corpus
from nat.data.filters import MARKS, DropReport, beyond_limit, kept
from nat.data.pairs import Pair, PairTable
from nat.data.references import Reference
from nat.data.streaming import StreamingCorpus
from nat.data.streams import TextStream
from nat.data.tokenizer import Tokenizers
from nat.data.weights import Weights
from nat.errors import DataError

VERSION = "1"  # part of the cache key: raise it when the ids of a text change
DRAWS = 1  # a stream of random numbers beside that of the batches
LOOKED_AT = 1 << 16  # padded tokens of the pairs that a model judges together


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """The kept pairs of a split. Indices count kept pairs, 0 .. len - 1; N is their number.

    texts_table, table: texts and ids of all pairs. key: of both. rows: (N,) the kept rows of both. source_lengths,
    target_lengths: (N,) int32 tokens without special symbols. lines: (N,) int64 line numbers in the file, from 1.
    cache: the folder in which it stands. weights: by which those of an epoch are drawn; None: it has them all. tags:
    whether each pair of a row has a source of its own, see `nat.data.tags`.
    """

    texts_table: Dataset
    table: PairTable
    key: str
    rows: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    lines: np.ndarray
    report: DropReport
    cache: Path
    weights: Weights | None = None
    tags: bool = False

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise DataError(f"no pair is left. {self.report.lines()[0]}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """A key of the texts, the tokenizer and of which pairs are kept."""
        return digest(self.key, self.rows.astype("<i8").tobytes())

    def pairs(self, indices: Sequence[int] | np.ndarray) -> list[Pair]:
        """Token ids of the pairs at `indices`, in that order."""
        return self.table.take(self.rows[np.asarray(indices, dtype=np.int64)]).pairs()

    def texts(self, indices: Sequence[int] | np.ndarray) -> tuple[list[str], list[str]]:
        """Source and target texts of the pairs at `indices`, in that order."""
        columns = self.texts_table[self.rows[np.asarray(indices, dtype=np.int64)]]
        return list(columns["source"]), list(columns["target"])

    @property
    def sentences(self) -> list[np.ndarray]:
        """Indices of the pairs of each source: one, or several of a row with several targets."""
        return self.sentences_of(range(len(self)))

    def sentences_of(self, span: range) -> list[np.ndarray]:
        """See `sentences`: of the sources whose first pair is in the span, all pairs, also those beyond it."""
        first, end = (self._next_source(index) for index in (span.start, span.stop))
        is_next = np.diff(self.lines[first:end]) != 0
        ends = first + 1 + np.flatnonzero(is_next | self.tags)
        return np.split(np.arange(first, end), ends - first) if first < end else []

    def _next_source(self, index: int) -> int:
        """The first pair from `index` on that begins a source."""
        while 0 < index < len(self) and not self.tags and self.lines[index] == self.lines[index - 1]:
            index += 1
        return index

    def references(self, sentences: Sequence[np.ndarray]) -> tuple[list[str], list[str]]:
        """Source texts of such `sentences`, each once, and their references: a `Reference` where there are several."""
        sources, targets = self.texts(np.concatenate([np.empty(0, np.int64), *sentences]))
        starts = np.cumsum([0, *(len(sentence) for sentence in sentences)])
        groups = [targets[start:end] for start, end in pairwise(starts)]
        return [sources[i] for i in starts[:-1]], [
            Reference(*group) if len(group) > 1 else group[0] for group in groups
        ]

    def select(self, keep: np.ndarray, reason: str) -> TokenizedCorpus:
        """The pairs where `keep`, (N,) bool, holds; the others are counted under `reason`. Raises DataError if
        none is left."""
        return replace(
            self,
            rows=self.rows[keep],
            source_lengths=self.source_lengths[keep],
            target_lengths=self.target_lengths[keep],
            lines=self.lines[keep],
            weights=None if self.weights is None else self.weights.take(keep),
            report=self.report.drop(reason, self.lines[~keep]),
        )

    def only(self, accepts: PairFilter, reason: str, key: str | None = None) -> TokenizedCorpus:
        """The pairs that a model accepts; the others are counted under `reason`. key: of all that the answer depends on
        beside the pairs; the answer is kept in the cache under it. Raises DataError if none is left."""
        if key is None:
            keep = self._accepted(accepts)
        else:
            name = f"learnable/{digest(self.fingerprint, key)}"

            def build(folder: Path) -> None:
                np.save(folder / "keep.npy", np.packbits(self._accepted(accepts)))

            def load(folder: Path) -> np.ndarray:
                return np.unpackbits(store.array(folder, "keep"), count=len(self)).astype(bool)

            keep = cached(self.cache, name, build, load)
        return self if keep.all() else self.select(keep, reason)

    def _accepted(self, accepts: PairFilter) -> np.ndarray:
        keep = np.empty(len(self), dtype=bool)
        widths = np.maximum(self.source_lengths, self.target_lengths)
        for rows in length_sorted_batches(widths, batch_size=len(self), max_tokens=LOOKED_AT):
            keep[rows] = accepts(rectangles(self.table.take(self.rows[rows])))
        return keep

    def resume(self, update: int, epoch: int, position: int) -> tuple[int, int]:
        """See `StreamingCorpus.resume`."""
        return epoch, position

    def updates(
        self,
        tokens_per_update: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
        canvas_length: CanvasLength | None = None,
    ) -> Iterator[Update]:
        """See `batching.Updates`. Skipped updates are not read."""
        corpus = self._drawn(seed, epoch)
        lengths = (corpus.source_lengths, corpus.target_lengths)
        plan = plan_updates(*lengths, tokens_per_update, seed=(seed, epoch), canvas_length=canvas_length)
        for indices in plan[skip:]:
            yield Update(self.table, corpus.rows[indices])

    def _drawn(self, seed: int, epoch: int) -> TokenizedCorpus:
        """The pairs that this epoch has, see `Weights`."""
        if self.weights is None:
            return self
        chosen = self.weights.draw(np.random.default_rng((seed, epoch, DRAWS)))
        return replace(
            self,
            rows=self.rows[chosen],
            source_lengths=self.source_lengths[chosen],
            target_lengths=self.target_lengths[chosen],
            lines=self.lines[chosen],
            weights=None,
        )


Corpus = TokenizedCorpus | StreamingCorpus


@overload
def prepare(
    config: DataConfig, split: Literal["valid", "test"], tokenizers: Tokenizers, *, filtered: bool
) -> TokenizedCorpus: ...


@overload
def prepare(config: DataConfig, split: str, tokenizers: Tokenizers, *, filtered: bool) -> Corpus: ...


def prepare(config: DataConfig, split: str, tokenizers: Tokenizers, *, filtered: bool) -> Corpus:
    """The tokenised pairs of `split`: a StreamingCorpus for "train" under data.streaming, else a TokenizedCorpus
    from the cache.

    filtered: apply data.filters (training); empty pairs and data.max_words are always looked at, data.limit for
    "train". Raises ConfigError and DataError like `read_corpus`, and DataError if no pair is left.
    """
    texts = read_corpus(config, split)
    filters = config.filters if filtered else None
    if isinstance(texts, TextStream):
        return StreamingCorpus(texts, tokenizers, config, filters, DropReport(split))
    key = digest(VERSION, texts._fingerprint, tokenizers.fingerprint)
    name, cache = str(getattr(config, split)), cache_directory(config.cache)

    def build(folder: Path) -> None:
        store.build(folder, texts, tokenizers, name=name, shown=f"{split} tokens", num_workers=config.num_workers)

    encoded = cached(cache, f"tokens/{key}", build, store.load, resumable=True)
    lengths, lines = encoded.lengths, _column(texts, "line")
    columns = {name: _column(texts, name) for name in MARKS if name in texts.column_names}
    keep, report = kept(DropReport(split), lengths, lines, columns, max_words=config.max_words, filters=filters)
    rows = keep.nonzero()[0]
    if split == "train" and config.limit is not None:
        report = report.drop(beyond_limit(config.limit), lines[rows[config.limit :]])
        rows = rows[: config.limit]
    kept_lengths = (lengths.source_tokens[rows], lengths.target_tokens[rows])
    weights = None
    if "weight" in texts.column_names:
        weights = Weights.of(_column(texts, "weight"), texts.data.column("source")).take(rows)
    return TokenizedCorpus(
        texts, encoded.table, key, rows, *kept_lengths, lines[rows], report, cache, weights, config.target_tags
    )


def _column(table: Dataset, name: str) -> np.ndarray:
    return np.asarray(table.data.column(name).to_numpy())
