"""Datasets of the Hugging Face hub, and folders that its library understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from nat.data.cache import cached, digest
from nat.data.lines import file_digest
from nat.data.readers import OnBadLine, Row, malformed_row, pick, rows_of
from nat.errors import DataError


@dataclass(frozen=True)
class HubReader:
    """The rows of a split. name: of a dataset of the hub, or a folder. configuration: the dataset's, if it has several.
    source, target: columns. streaming: read without a copy in the cache. on_bad_line: see
    `malformed_row`."""

    name: str
    split: str
    source: str
    target: str
    configuration: str | None
    streaming: bool
    cache: Path
    on_bad_line: OnBadLine = OnBadLine.STOP

    def rows(self) -> Iterator[Row]:
        """Rows {source, target, line}. Raises DataError at whatever cannot be read."""
        where = f"hub:{self.name} {self.split}"
        is_empty = True

        def parse(number: int, item: Any) -> list[Row]:
            return pick(item, self.source, self.target, f"{where} row {number}", number)

        with self._explained():
            items = enumerate(self._load(streaming=self.streaming), 1)
            for row in rows_of(items, parse, malformed_row(self.on_bad_line)):
                is_empty = False
                yield row
        if is_empty:
            raise DataError(f"{where}: the split holds no sentence pairs")

    def fingerprint(self) -> str:
        """The library's own key knows the version of a hub dataset, but not the content of a local folder."""
        key = [self.split, self.source, self.target]
        if self.on_bad_line is OnBadLine.SKIP:
            key.append("skip")
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
