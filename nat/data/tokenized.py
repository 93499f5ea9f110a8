"""Tokenised corpora: memory-mapped token ids with their lengths, or a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value

from nat.data.batching import CanvasLength, Pair, plan_updates
from nat.data.cache import cache_directory, cached, digest
from nat.data.corpus import DataConfig, read_corpus
from nat.data.filters import DropReport, FilterConfig, Lengths, apply_rules, drop_rules
from nat.data.lines import outline
from nat.data.points import BadText, no_such_point
from nat.data.readers import parse_location
from nat.data.references import Reference
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Tokenizer
from nat.errors import DataError

VERSION = "1"  # part of the cache key: raise it when the columns below change
LENGTH_COLUMNS = ("source_words", "target_words", "source_tokens", "target_tokens")
TOKEN_FEATURES = Features(
    {"source_ids": List(Value("int32")), "target_ids": List(Value("int32"))}
    | {name: Value("int32") for name in LENGTH_COLUMNS}
)
READ_AT_ONCE = 1000  # rows of a stream that are tokenised together
POOL_UPDATES = 8  # a stream's shuffling pool holds this many updates at least, so that they come out even

PairFilter = Callable[[Sequence[Pair]], np.ndarray]  # pairs -> (N,) bool, True where they are kept


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """The kept pairs of a split. Indices count kept pairs, 0 .. len - 1; N is their number.

    texts, tokens: tables of all pairs. rows: (N,) the kept rows of both. source_lengths, target_lengths: (N,)
    int32 tokens without special symbols. lines: (N,) int64 line numbers in the file, from 1.
    """

    texts_table: Dataset
    tokens_table: Dataset
    rows: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    lines: np.ndarray
    report: DropReport

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise DataError(f"no pair is left. {self.report.lines()[0]}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """A key of the texts, the tokenizer and of which pairs are kept."""
        return digest(self.tokens_table._fingerprint, self.rows.astype("<i8").tobytes())

    def pairs(self, indices: Sequence[int] | np.ndarray) -> list[Pair]:
        """Token ids of the pairs at `indices`, in that order."""
        return _pairs(self.tokens_table[self.rows[np.asarray(indices, dtype=np.int64)]])

    def texts(self, indices: Sequence[int] | np.ndarray) -> tuple[list[str], list[str]]:
        """Source and target texts of the pairs at `indices`, in that order."""
        columns = self.texts_table[self.rows[np.asarray(indices, dtype=np.int64)]]
        return list(columns["source"]), list(columns["target"])

    @property
    def sentences(self) -> list[np.ndarray]:
        """Indices of the pairs of each source: one, or several of a row with several targets."""
        ends = 1 + np.flatnonzero(np.diff(self.lines))
        return np.split(np.arange(len(self)), ends)

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
            report=self.report.drop(reason, self.lines[~keep]),
        )

    def only(self, accepts: PairFilter, reason: str) -> TokenizedCorpus:
        """The pairs that a model accepts; the others are counted under `reason`. Raises DataError if none is left."""
        chunks = np.array_split(np.arange(len(self)), -(-len(self) // READ_AT_ONCE))
        keep = np.concatenate([accepts(self.pairs(chunk)) for chunk in chunks])
        return self if keep.all() else self.select(keep, reason)

    def updates(
        self,
        tokens_per_update: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
        canvas_length: CanvasLength | None = None,
    ) -> Iterator[list[Pair]]:
        """See `batching.Updates`. Skipped updates are not read."""
        lengths = (self.source_lengths, self.target_lengths)
        plan = plan_updates(*lengths, tokens_per_update, seed=(seed, epoch), canvas_length=canvas_length)
        for indices in plan[skip:]:
            yield self.pairs(indices)


@dataclass(eq=False)
class StreamingCorpus:
    """Training pairs that are read and tokenised anew each epoch.

    report: what the epoch in progress (or the last one) has dropped so far. accepts: which pairs the model can
    learn from; the others are dropped under `reason`.
    """

    texts: IterableDataset
    tokenizers: Tokenizers
    config: DataConfig
    filters: FilterConfig | None
    report: DropReport
    accepts: PairFilter | None = None
    reason: str = ""

    @property
    def fingerprint(self) -> str:
        """A key of the tokenizer and of each file's size, beginning and end: a stream is not read to the end for it. Of
        what is no file, such as a data set of the hub, its name."""
        paths = [Path(path) for path in parse_location(self.config.train or []).paths]
        files = (
            file
            for path in paths
            for file in (sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path])
        )
        parts = (part for file in files for part in (outline(file) if file.is_file() else [str(file)]))
        return digest(self.tokenizers.fingerprint, *parts)

    def only(self, accepts: PairFilter, reason: str) -> StreamingCorpus:
        """See `TokenizedCorpus.only`; the pairs are looked at as they are read."""
        return replace(self, accepts=accepts, reason=reason)

    def updates(
        self,
        tokens_per_update: int,
        *,
        seed: int,
        epoch: int,
        skip: int = 0,
        canvas_length: CanvasLength | None = None,
    ) -> Iterator[list[Pair]]:
        """See `batching.Updates`. Pairs are shuffled within pools of at least data.shuffle_buffer; skipped
        updates are read. Raises DataError if no pair passes the filters."""
        pools = _pools(self._kept_pairs(), self.config.shuffle_buffer, POOL_UPDATES * tokens_per_update)
        number = 0
        for index, pool in enumerate(pools):
            source_lengths = np.array([len(pair.source) for pair in pool])
            target_lengths = np.array([len(pair.target) for pair in pool])
            lengths, key = (source_lengths, target_lengths), (seed, epoch, index)
            for update in plan_updates(*lengths, tokens_per_update, seed=key, canvas_length=canvas_length):
                if number >= skip:
                    yield [pool[i] for i in update]
                number += 1
        if not number:
            raise DataError(f"no pair is left. {self.report.lines()[0]}")

    def _kept_pairs(self) -> Iterator[Pair]:
        self.report = DropReport(self.report.name)
        limit, passed = self.config.limit, 0  # pairs within the limit
        for batch in self.texts.iter(READ_AT_ONCE):
            tokens, lines = _encode(batch, self.tokenizers, str(self.config.train)), np.array(batch["line"])
            lengths = Lengths(*(np.array(tokens[name]) for name in LENGTH_COLUMNS))
            rules = drop_rules(lengths, max_words=self.config.max_words, filters=self.filters)
            read = self.report.read(len(lines), num_cut=sum(batch.get("cut", ())))
            keep, self.report = apply_rules(read, lines, rules)
            rows = keep.nonzero()[0]
            if limit is not None:
                self.report = self.report.drop(_beyond(limit), lines[rows[limit - passed :]])
                rows = rows[: limit - passed]
            passed += len(rows)
            pairs = _pairs(tokens)
            yield from self._accepted([pairs[i] for i in rows], lines[rows])
            if limit is not None and passed >= limit:
                return

    def _accepted(self, pairs: list[Pair], lines: np.ndarray) -> list[Pair]:
        if self.accepts is None or not pairs:
            return pairs
        keep = self.accepts(pairs)
        self.report = self.report.drop(self.reason, lines[~keep])
        return [pair for pair, kept in zip(pairs, keep, strict=True) if kept]


def _pools(pairs: Iterator[Pair], size: int, tokens: int) -> Iterator[list[Pair]]:
    """Consecutive lists of at least `size` pairs and `tokens` target tokens. The rest joins the last of them, so
    that no update is small."""
    pool: list[Pair] = []
    following: list[Pair] = []
    total = 0
    for pair in pairs:
        following.append(pair)
        total += len(pair.target) + 1
        if len(following) >= size and total >= tokens:
            if pool:
                yield pool
            pool, following, total = following, [], 0
    if pool or following:
        yield pool + following


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
    if isinstance(texts, IterableDataset):
        return StreamingCorpus(texts, tokenizers, config, filters, DropReport(split))
    tokens = _tokenize(texts, tokenizers, config, str(getattr(config, split)))
    lengths = Lengths(*(_column(tokens, name) for name in LENGTH_COLUMNS))
    lines = _column(texts, "line")
    rules = drop_rules(lengths, max_words=config.max_words, filters=filters)
    num_cut = int(_column(texts, "cut").sum()) if "cut" in texts.column_names else 0
    keep, report = apply_rules(DropReport(split).read(len(lines), num_cut=num_cut), lines, rules)
    rows = keep.nonzero()[0]
    if split == "train" and config.limit is not None:
        report = report.drop(_beyond(config.limit), lines[rows[config.limit :]])
        rows = rows[: config.limit]
    kept_lengths = (lengths.source_tokens[rows], lengths.target_tokens[rows])
    return TokenizedCorpus(texts, tokens, rows, *kept_lengths, lines[rows], report)


def _beyond(limit: int) -> str:
    return f"beyond the first {limit}"


def _column(table: Dataset, name: str) -> np.ndarray:
    return np.asarray(table.data.column(name).to_numpy())


def _tokenize(texts: Dataset, tokenizers: Tokenizers, config: DataConfig, name: str) -> Dataset:
    features = TOKEN_FEATURES
    if "fertilities" in texts.column_names:
        features = Features(features | {"fertilities": texts.features["fertilities"]})
    key = digest(VERSION, texts._fingerprint, tokenizers.fingerprint)

    def make(folder: Path) -> Dataset:
        return texts.map(
            _encode,
            fn_kwargs={"tokenizers": tokenizers, "name": name},
            batched=True,
            remove_columns=texts.column_names,
            features=features,
            cache_file_name=str(folder / "tokens.arrow"),
            new_fingerprint=key,
        )

    return cached(cache_directory(config.cache), f"tokens/{key}", make, make)


def _pairs(columns: Mapping[str, Sequence[Any]]) -> list[Pair]:
    ids = (columns[name] for name in ("source_ids", "target_ids", "fertilities") if name in columns)
    return [Pair(*row) for row in zip(*ids, strict=True)]


def _encode(batch: Mapping[str, Sequence[Any]], tokenizers: Tokenizers, name: str) -> dict[str, list[Any]]:
    """Columns of TOKEN_FEATURES for columns of texts; fertilities, where there are any, as they are.

    name: where the texts are from. Raises DataError for fertilities that count other tokens than these.
    """
    source_ids = _ids(tokenizers.source, batch["source"], batch["line"], name)
    target_ids = _ids(tokenizers.target, batch["target"], batch["line"], name)
    columns: dict[str, list[Any]] = {
        "source_ids": source_ids,
        "target_ids": target_ids,
        "source_words": [len(text.split()) for text in batch["source"]],
        "target_words": [len(text.split()) for text in batch["target"]],
        "source_tokens": [len(ids) for ids in source_ids],
        "target_tokens": [len(ids) for ids in target_ids],
    }
    if tokenizers.vocabularies.points:
        _check_indices(columns, batch["line"], name)
    if "fertilities" in batch:
        columns["fertilities"] = list(batch["fertilities"])
        _check_fertilities(columns, batch["line"], name)
    return columns


def _ids(tokenizer: Tokenizer, texts: Sequence[str], lines: Sequence[int], name: str) -> list[list[int]]:
    try:
        return tokenizer.encode(texts)
    except BadText as error:
        raise DataError(f"{name} line {lines[error.row]}: {error}") from None


def _check_indices(columns: Mapping[str, Sequence[Any]], lines: Sequence[int], name: str) -> None:
    """Targets name points of their own source."""
    for line, count, target in zip(lines, columns["source_tokens"], columns["target_ids"], strict=True):
        last = max(target, default=NUM_SYMBOLS) - NUM_SYMBOLS
        if last >= max(1, count):
            raise DataError(f"{name} line {line}: {no_such_point(last, count)}")


def _check_fertilities(columns: Mapping[str, Sequence[Any]], lines: Sequence[int], name: str) -> None:
    """Fertilities are made with one tokenizer and hold for no other."""
    lengths = zip(columns["source_tokens"], columns["target_tokens"], strict=True)
    for line, numbers, (source, target) in zip(lines, columns["fertilities"], lengths, strict=True):
        if (len(numbers), sum(numbers)) != (source, target):
            raise DataError(
                f"{name} line {line}: {len(numbers)} fertilities with sum {sum(numbers)}, but this tokenizer makes "
                f"{source} source and {target} target tokens: they were made with another tokenizer "
                "(data.tokenizer.path names one)"
            )
