"""Datasets of the Hugging Face hub, and folders that its library understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from nat.data.cache import cached, digest
from nat.data.lines import file_digest
from nat.data.readers import READ_AT_ONCE, OnBadLine, Row, malformed_row, pick, rows_of
from nat.errors import DataError


@dataclass(frozen=True)
class HubReader:
    """The rows of a split. name: of a dataset of the hub, or a folder. configuration: the dataset's, if it has several.
    source, target: columns. streaming: read without a copy in the cache. on_bad_line: see `malformed_row`. tags: as of
    `readers.Reader`. stream, shard: the library's stream of all its files, and which of them is read; None: all."""

    name: str
    split: str
    source: str
    target: str
    configuration: str | None
    streaming: bool
    cache: Path
    on_bad_line: OnBadLine = OnBadLine.STOP
    tags: bool = False
    stream: Any = None
    shard: int | None = None

    def rows(self) -> Iterator[Row]:
        """Rows {source, target, line}. Raises DataError at whatever cannot be read."""
        return (row for rows, _ in self.chunks(None, READ_AT_ONCE) for row in rows)

    def chunks(self, begin: Any, size: int) -> Iterator[tuple[list[Row], Any]]:
        """See `readers.Reader.chunks`: where rows begin, the library says, which does not read on from its last shard's
        first row."""
        begin = begin or {"number": 0, "dataset": None}
        with self._explained():
            texts = self._load(streaming=self.streaming) if self.stream is None else self.stream
            if self.shard is not None:
                texts = texts.shard(texts.num_shards, self.shard)  # with a state of its own
            if begin["dataset"] is not None:
                texts.load_state_dict(begin["dataset"])
            number, items = begin["number"], iter(texts)
            while chunk := list(islice(items, size)):
                rows = rows_of(enumerate(chunk, number + 1), self._parse, malformed_row(self.on_bad_line))
                number += len(chunk)
                yield list(rows), {"number": number, "dataset": texts.state_dict()} if self.streaming else None
        if not number:
            raise DataError(f"{self._where}: the split holds no sentence pairs")

    def shards(self) -> list[HubReader]:
        """One reader for each file of the dataset."""
        with self._explained():
            stream = self._load(streaming=True)
        return [replace(self, stream=stream, shard=shard) for shard in range(stream.num_shards)]

    @property
    def _where(self) -> str:
        of = "" if self.shard is None or self.stream.num_shards == 1 else f", file {self.shard + 1},"
        return f"hub:{self.name} {self.split}{of}"

    def _parse(self, number: int, item: Any) -> list[Row]:
        return pick(item, self.source, self.target, f"{self._where} row {number}", number, tags=self.tags)

    def fingerprint(self) -> str:
        """The library's own key knows the version of a hub dataset, but not the content of a local folder."""
        key = [self.split, self.source, self.target]
        if self.on_bad_line is OnBadLine.SKIP:
            key.append("skip")
        if self.tags:
            key.append("tags")
        with self._explained():
            return digest("hub", *key, self._content, self._load(streaming=False)._fingerprint)

    @cached_property
    def _content(self) -> str:
        """A key of a local folder's files; empty for a dataset of the hub."""
        return folder_digest(Path(self.name)) if Path(self.name).is_dir() else ""

    def _load(self, *, streaming: bool) -> Any:
        folder = self.cache / "hub"
        if self._content and not streaming:  # the library looks at dates alone, here content counts
            key = f"hub/{digest(self._content, self.configuration or '')}"
            folder = cached(self.cache, key, self._convert, lambda folder: folder)
        options = {"split": self.split, "streaming": streaming, "cache_dir": str(folder)}
        return datasets.load_dataset(self.name, self.configuration, **options)

    def _convert(self, folder: Path) -> None:
        datasets.load_dataset(self.name, self.configuration, cache_dir=str(folder))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What fails in the library is the library's to say, there are too many kinds: its words and their causes."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            reasons = []
            cause: BaseException | None = error
            while cause is not None:
                reasons.append(" ".join(str(cause).split()) or type(cause).__name__)
                cause = cause.__cause__
            raise DataError(
                f"hub:{self.name}: the {self.split} split cannot be loaded ({': '.join(dict.fromkeys(reasons))})"
            ) from None


def folder_digest(folder: Path) -> str:
    """A key of the names and contents of all files in a folder, which are read in pieces."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(part for path in files for part in (str(path.relative_to(folder)), file_digest(path))))
