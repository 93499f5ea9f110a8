"""Corpora: sentence pairs from files, from the Hugging Face hub or from the text that comes with nat.

Every format ends in one memory-mapped table of `source`, `target` and `line`, kept in the cache folder under a
key of the files' content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.table import MemoryMappedTable

from nat.config import nearest, option
from nat.data.cache import cache_directory, cached
from nat.data.filters import FilterConfig, is_blank
from nat.data.generated import parse_task
from nat.data.hub import HubReader
from nat.data.readers import (
    LISTS,
    Format,
    Location,
    OnBadLine,
    Reader,
    absolute_location,
    embedded_directory,
    has_column,
    parse_location,
    target_columns,
)
from nat.data.streams import Beginnings, TaskReader, TextFiles, TextReader, TextStream
from nat.data.tags import JOIN
from nat.data.tokenizer import TokenizerConfig
from nat.errors import ConfigError, DataError
from nat.progress import Progress

__all__ = ["SPLITS", "DataConfig", "embedded_directory", "read_corpus"]

SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # our name -> the hub's name
TEXT_FEATURES = Features({"source": Value("string"), "target": Value("string"), "line": Value("int64")})
TEXT_FILE = "text.arrow"  # of a text's folder in the cache
WRITTEN_AT_ONCE = 10_000  # rows


@dataclass(frozen=True)
class DataConfig:
    """Which text, how it is cut into tokens, and which pairs are left out.

    A location is a .tsv, .txt (tab-separated), .jsonl or .json file (also with .gz), a .parquet file, a list of
    two line-aligned files, hub:NAME, embedded:CORPUS/FILE, or task:NAME?OPTIONS (`nat.data.generated`). A * in a
    file's name stands for all files whose names fit, in their order. Raises ConfigError for one that is none of these.

    Several target columns, target=de+fr+es, make three pairs of one row, in this order and of one line number; a file
    that has a column of that whole name, such as nat-distill writes, gives one. Where translations are scored, a row is
    one sentence with several references.
    """

    source: str = option("en", "name of the source column or language")
    target: str = option("de", "name of the target column, or of several, de+fr: each row gives a pair for each")
    target_tags: bool = option(False, "each source begins with the name of its target's column, <de>")
    fertilities: str | None = option(None, "name of the column of fertilities, if the training pairs have one")
    weights: str | None = option(
        None, "name of the column of weights: an epoch has one pair of each source, drawn by them; see nat-distill"
    )
    train: str | list[str] | None = option(None, "location of the training pairs")
    valid: str | list[str] | None = option(None, "location of the validation pairs")
    test: str | list[str] | None = option(None, "location of the test pairs")
    columns: list[str] | None = option(None, "column names of TSV files without a header line")
    hub_config: str | None = option(None, "configuration name of a hub dataset")
    streaming: bool = option(False, "read the training pairs anew each epoch instead of caching them")
    shuffle_buffer: int = option(10_000, "pairs shuffled together when streaming", minimum=1, maximum=1_000_000_000)
    on_bad_line: OnBadLine = option(
        OnBadLine.STOP, "stop: a line that cannot be read ends the command; skip: it is left out and counted"
    )
    num_workers: int | None = option(
        None, "processes that tokenise a large corpus; null: one for each core", minimum=1, maximum=1024
    )
    cache: str | None = option(None, "cache folder; null: $NAT_CACHE or ~/.cache/nat")
    limit: int | None = option(None, "only the first N training pairs that pass the filters", minimum=1)
    source_words: int | None = option(None, "every split: only the first N words of each source are read", minimum=1)
    max_words: int | None = option(None, "every split: only pairs of at most N words a side", minimum=1)
    tokenizer: TokenizerConfig = option(TokenizerConfig())
    filters: FilterConfig = option(FilterConfig())

    def __post_init__(self) -> None:
        errors = []
        for split in SPLITS:
            value = getattr(self, split)
            try:
                kind = None if value is None else parse_location(value).format
                for key, column in (("fertilities", self.fertilities), ("weights", self.weights)):
                    if column is not None and split == "train" and kind not in (None, *LISTS):
                        raise ConfigError(
                            f"holds no column of numbers for {key}={column}: give a .jsonl, .json or .parquet file, "
                            "such as nat-distill writes"
                        )
                if self.target_tags and kind is Format.TASK:
                    raise ConfigError("a task has no languages for target_tags=true to name")
            except ConfigError as error:
                errors.append(f"{split}={value}: {error}")
        errors += self._wrong_columns()
        if self.source_words is not None and self.fertilities is not None:
            errors.append(f"source_words={self.source_words}: fertilities={self.fertilities} count whole sources")
        if self.streaming and self.weights is not None:
            errors.append(f"weights={self.weights}: a stream does not draw by them; leave streaming=false")
        if errors:
            raise ConfigError("\n".join(errors))

    def absolute(self) -> DataConfig:
        """The same text from whatever folder it is read: relative paths are those of the current one. Saved so, a run's
        commands find its text from anywhere."""
        values = {split: getattr(self, split) for split in SPLITS}
        changes: dict[str, Any] = {
            split: [absolute_location(item) for item in value] if isinstance(value, list) else absolute_location(value)
            for split, value in values.items()
            if value is not None
        }
        if self.cache is not None:
            changes["cache"] = os.path.abspath(self.cache)
        return replace(self, **changes)

    def _wrong_columns(self) -> list[str]:
        names = self.target.split(JOIN)
        if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
            return [f"target={self.target}: several columns are joined so: de+fr, each of them once"]
        if self.columns is None:
            return []
        used = [("source", self.source)] + [("target", name) for name in target_columns(self.target, self.columns)]
        return [
            f"{key}={name}: data.columns has no such column, {nearest(name, self.columns)}"
            for key, name in used
            if name not in self.columns
        ]


def read_corpus(config: DataConfig, split: str) -> Dataset | TextStream:
    """The sentence pairs of `split` ("train", "valid" or "test"), unfiltered.

    Columns: source and target text, and line, the 1-based line (Parquet, hub: row) number; under data.source_words
    also cut, whether the source had more words; under data.fertilities also fertilities, one number for each source
    token: always of the training pairs, and of the others if their first row has that column; under data.weights also
    weight, of the training pairs; under data.on_bad_line=skip also malformed, True for a line that could not be read
    and has two empty texts instead. A Dataset is memory-mapped from the cache; training pairs under data.streaming are
    a TextStream.
    Raises ConfigError if the split has no location, DataError for whatever is wrong with its files.
    """
    _quiet()
    value = getattr(config, split)
    if value is None:
        raise ConfigError(f"data.{split}: no text is given; a file, hub:NAME or embedded:CORPUS/FILE is needed")
    location = parse_location(value)
    cache = cache_directory(config.cache)
    name = _fertilities(config, split, location)
    features, bad = Features(TEXT_FEATURES), config.on_bad_line
    if bad is OnBadLine.SKIP and location.format is not Format.TASK:
        features["malformed"] = Value("bool")
    if name is not None:
        features["fertilities"] = List(Value("int32"))
    if config.weights is not None and split == "train":
        features["weight"] = Value("float32")
    is_streamed = config.streaming and split == "train"

    def readers() -> Sequence[TextReader]:
        found = readers_of(config, split, name, is_streamed=is_streamed)
        return found if config.source_words is None else [Beginnings(reader, config.source_words) for reader in found]

    if config.source_words is not None:
        features["cut"] = Value("bool")
    if is_streamed:
        location.shards()
        return TextStream(readers)
    files = TextFiles(readers())
    if config.streaming and location.format is Format.HUB:  # small, and a stream has no key: kept in memory
        return Dataset.from_list(list(files.rows()), features=features)
    return _cached(files, features, cache, name=f"{split} text")


def readers_of(config: DataConfig, split: str, fertilities: str | None, *, is_streamed: bool) -> Sequence[TextReader]:
    """Of each file of the split. fertilities: the name of their column, if they are read."""
    location, bad = parse_location(getattr(config, split)), config.on_bad_line
    if location.format is Format.TASK:
        return [TaskReader(parse_task(location.paths[0]))]
    if location.format is Format.HUB:
        names, cache = (config.source, config.target), cache_directory(config.cache)
        name, streaming, tags = location.paths[0], config.streaming, config.target_tags
        hub = HubReader(name, SPLITS[split], *names, config.hub_config, streaming, cache, bad, tags)
        return hub.shards() if is_streamed else [hub]
    columns = None if config.columns is None else tuple(config.columns)
    weights = config.weights if split == "train" else None
    return [
        Reader(shard, config.source, config.target, columns, fertilities, bad, weights, config.target_tags)
        for shard in location.shards()
    ]


def _fertilities(config: DataConfig, split: str, location: Location) -> str | None:
    """The name of the column of fertilities that this split is read with. The training pairs must have it; the
    references of other splits seldom do, and a loss without that term is still a loss."""
    name = config.fertilities
    return name if name is not None and (split == "train" or has_column(location, name)) else None


def _cached(reader: TextFiles, features: Features, cache: Path, *, name: str) -> Dataset:
    key = reader.fingerprint()

    def write(folder: Path) -> None:
        schema, rows = features.arrow_schema, reader.rows()
        with (
            pa.OSFile(str(folder / TEXT_FILE), "wb") as file,
            pa.ipc.new_stream(file, schema) as writer,
            Progress(name, total=None, unit="lines") as progress,
        ):
            while chunk := list(islice(rows, WRITTEN_AT_ONCE)):
                columns = [pa.array([row[field.name] for row in chunk], field.type) for field in schema]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                progress.advance(len(chunk))

    def load(folder: Path) -> Dataset:
        if not (folder / TEXT_FILE).is_file():
            raise DataError(f"{folder}: has no {TEXT_FILE}")  # of an earlier nat
        return Dataset(MemoryMappedTable.from_file(str(folder / TEXT_FILE)), fingerprint=key)

    return cached(cache, f"text/{key}", write, load)


def _quiet() -> None:
    """The library's progress bars and remarks are about its own workings."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()


def accepts(config: DataConfig) -> Callable[[str, str], bool]:
    """Whether a pair of texts belongs to the corpus at all: neither side empty, within data.max_words."""
    max_words = config.max_words

    def accept(source: str, target: str) -> bool:
        if is_blank(source) or is_blank(target):
            return False
        return max_words is None or max(len(source.split()), len(target.split())) <= max_words

    return accept
