"""Readers of the text formats: rows of {source, target, line}, with errors that name file and line.

Rows also have `fertilities`, numbers of target tokens for each source token, where such a column is asked for, and
`malformed` where a line that cannot be read is to be skipped and counted.
"""

from __future__ import annotations

import glob
import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from itertools import accumulate, islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from nat.data.cache import digest
from nat.data.generated import parse_task
from nat.data.lines import (
    Place,
    check_regular,
    file_digest,
    good,
    lines_or_errors,
    numbered_rows,
    opening,
    read_json_line,
    read_json_lines,
)
from nat.data.tags import JOIN, tagged
from nat.errors import ConfigError, DataError

T = TypeVar("T")
Row = dict[str, Any]
Begin = list[dict[str, int]]  # of each file the `Place` where rows begin, as plain data
READ_AT_ONCE = 1000  # rows
VERSION = "1"  # part of every cache key: raise it when a reader's rows change
LARGEST = 1 << 31  # the columns of numbers are 32 bits wide


class Format(Enum):
    TSV = "tsv"
    PAIR = "pair"
    JSON = "json"
    PARQUET = "parquet"
    HUB = "hub"
    TASK = "task"


SUFFIXES = {
    ".tsv": Format.TSV,
    ".txt": Format.TSV,
    ".jsonl": Format.JSON,
    ".json": Format.JSON,
    ".parquet": Format.PARQUET,
}
LISTS = {Format.JSON, Format.PARQUET}  # the formats of which a cell may be a list of numbers


class OnBadLine(Enum):
    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True)
class Location:
    """Where a split lies: its format and its files (for HUB the one dataset name, for TASK the task). A path with a *
    stands for all files whose names fit."""

    format: Format
    paths: tuple[str, ...]

    def shards(self) -> list[Location]:
        """One location for each file, in the order of their names (of PAIR: for each file and the one aligned with it).
        Raises DataError where no file fits."""
        if self.format in (Format.HUB, Format.TASK) or not any("*" in path for path in self.paths):
            return [self]
        columns = [sorted(glob.glob(path)) for path in self.paths]
        if not all(columns):
            raise DataError(f"{' and '.join(self.paths)}: no file has such a name")
        if len({len(files) for files in columns}) > 1:
            counts = " and ".join(f"{len(files)} {path}" for files, path in zip(columns, self.paths, strict=True))
            raise DataError(f"{counts}: line-aligned files need equally many")
        return [Location(self.format, files) for files in zip(*columns, strict=True)]


def embedded_directory() -> Path:
    """The embedded corpora: inside the package when installed from a wheel, else the checkout's data/."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "embedded"
    return installed if installed.is_dir() else package.parent / "data"


def parse_location(value: str | list[str]) -> Location:
    """What a value of data.train, data.valid or data.test means. Raises ConfigError (without the key's name)."""
    if isinstance(value, list):
        if len(value) != 2:
            raise ConfigError(f"{len(value)} files are listed, a source and a target file are needed")
        return Location(Format.PAIR, tuple(_path_of(item) for item in value))
    if value.startswith("hub:"):
        return Location(Format.HUB, (value.removeprefix("hub:"),))
    if value.startswith("task:"):
        parse_task(value.removeprefix("task:"))
        return Location(Format.TASK, (value.removeprefix("task:"),))
    path = Path(_path_of(value))
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    kind = SUFFIXES.get(suffix.lower())
    if kind is None or (kind is Format.PARQUET and path.suffix == ".gz"):
        raise ConfigError(
            "cannot tell the format: give a .tsv, .txt, .jsonl or .json file (also with .gz), a .parquet file, "
            "hub:NAME, embedded:CORPUS/FILE, task:NAME, or a list of two line-aligned files"
        )
    return Location(kind, (str(path),))


def absolute_location(value: str) -> str:
    """A location that holds in every folder: a relative path is one of the current folder."""
    kind, colon, name = value.partition(":")
    if kind + colon in ("embedded:", "task:") or (kind + colon == "hub:" and not Path(name).is_dir()):
        return value
    return f"hub:{os.path.abspath(name)}" if kind + colon == "hub:" else os.path.abspath(value)


def _path_of(value: str) -> str:
    name = value.removeprefix("embedded:")
    return value if name == value else str(embedded_directory() / name)


def target_columns(target: str, columns: Collection[str]) -> list[str]:
    """Of the columns that are there, those that a row's targets stand in: the one of this very name, such as
    nat-distill writes, else those whose names it joins: de+fr+es."""
    return [target] if target in columns else target.split(JOIN)


@dataclass(frozen=True)
class Reader:
    """The rows of one split. source, target: names of the two columns, or of several target columns, each of which
    gives a row; columns: see DataConfig; fertilities, weights: names of their columns, if they are wanted;
    on_bad_line: see `malformed_row`; tags: whether each source gets the tag of its target's column."""

    location: Location
    source: str
    target: str
    columns: tuple[str, ...] | None = None
    fertilities: str | None = None
    on_bad_line: OnBadLine = OnBadLine.STOP
    weights: str | None = None
    tags: bool = False

    def rows(self) -> Iterator[Row]:
        """Rows {source, target, line} from the first. Raises DataError at whatever cannot be read."""
        return (row for rows, _ in self.chunks(None, READ_AT_ONCE) for row in rows)

    def chunks(self, begin: Begin | None, size: int) -> Iterator[tuple[list[Row], Begin | None]]:
        """The rows from `begin` on (None: the first), a few more than `size` together, each time with where the next
        ones begin (None: there are no more). No line before `begin` is parsed. Raises DataError as `rows` does."""
        for path in self.location.paths:
            check_regular(path)
        places = [Place(**place) for place in begin] if begin else [Place() for _ in self.location.paths]
        rows: list[Row] = []
        for row in self._pairs(*zip(self.location.paths, places, strict=True)):
            is_first_of_line = row["line"] == places[0].number != rows[-1]["line"] if rows else False
            if len(rows) >= size and is_first_of_line:  # and no line is read beyond it
                yield rows, [asdict(place.before) for place in places]
                rows = []
            rows.append(row)
        if not (rows or begin):
            raise DataError(f"{self.location.paths[0]}: the file holds no sentence pairs")
        yield rows, None

    def fingerprint(self) -> str:
        """A key of the files' content and of how they are read; names and dates do not enter."""
        blake = partial(hashlib.blake2b, digest_size=16)
        contents = [file_digest(path, blake) for path in self.location.paths]
        options = [VERSION, self.location.format.value, self.source, self.target, repr(self.columns)]
        if self.fertilities is not None:
            options += ["fertilities", self.fertilities]
        if self.weights is not None:
            options += ["weights", self.weights]
        if self.on_bad_line is OnBadLine.SKIP:
            options.append("skip")
        if self.tags:
            options.append("tags")
        return digest(*options, *contents)

    def _pairs(self, *files: tuple[str, Place]) -> Iterator[Row]:
        match self.location.format:
            case Format.TSV:
                return self._read_tsv(*files[0])
            case Format.JSON:
                return self._read_json(*files[0])
            case Format.PARQUET:
                return self._read_parquet(*files[0])
            case _:
                return self._read_aligned(*files)

    def _read_tsv(self, path: str, place: Place) -> Iterator[Row]:
        first = next(numbered_rows(path), None)
        lines = numbered_rows(path, place)
        if not self.columns and not place.number:
            next(lines, None)
        columns = list(self.columns or good(first[1] if first else "").split("\t"))
        if first is None or columns == [""]:
            return iter(())
        targets = target_columns(self.target, columns)
        for name in (self.source, *targets):
            if name not in columns:
                shown = ", ".join(column[:40] for column in columns)
                raise DataError(
                    f"{path} line 1: the header has no column '{name}' (it has: {shown}); "
                    "name the columns with data.columns if the file has no header line"
                )
        if self.columns and first[1] == "\t".join(columns):
            raise DataError(f"{path} line 1: this is a header line; leave data.columns null to have it read")
        source, places = columns.index(self.source), [(name, columns.index(name)) for name in targets]

        def parse(number: int, line: str) -> list[Row]:
            cells = line.split("\t")
            if len(cells) != len(columns):
                raise DataError(
                    f"{path} line {number}: {_plural(len(cells), 'column')}, but {len(columns)} are expected "
                    f"({', '.join(columns)})"
                )
            text = cells[source]
            return [
                {"source": _begun(text, name, tags=self.tags), "target": cells[place], "line": number}
                for name, place in places
            ]

        return rows_of(lines, parse, self._malformed)

    def _read_json(self, path: str, place: Place) -> Iterator[Row]:
        def parse(number: int, line: str) -> list[Row]:
            where = f"{path} line {number}"
            return self._picked(read_json_line(line, where), where, number)

        return rows_of(numbered_rows(path, place), parse, self._malformed)

    def _read_parquet(self, path: str, place: Place) -> Iterator[Row]:
        def parse(number: int, item: Any) -> list[Row]:
            return self._picked(item, f"{path} row {number}", number)

        return rows_of(self._parquet_items(path, place), parse, self._malformed)

    @property
    def _malformed(self) -> Row | None:
        numbers: Row = {} if self.fertilities is None else {"fertilities": []}
        return malformed_row(self.on_bad_line, numbers if self.weights is None else numbers | {"weight": 0.0})

    def _picked(self, item: Any, where: str, number: int) -> list[Row]:
        rows = pick(item, self.source, self.target, where, number, fertilities=self.fertilities, tags=self.tags)
        weight = {} if self.weights is None else {"weight": _weight(item, self.weights, where)}
        return [row | weight for row in rows]

    def _parquet_items(self, path: str, place: Place) -> Iterator[tuple[int, Any]]:
        try:
            with opening(path), pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                columns = (self.source, *target_columns(self.target, names), "translation")
                present = [name for name in columns if name in names]
                if not present:
                    raise DataError(f"{path}: no column '{self.source}' (columns: {', '.join(names)})")
                present += [name for name in (self.fertilities, self.weights) if name is not None and name in names]
                groups, skipped = _groups_after(file.metadata, place.number)
                batches = file.iter_batches(row_groups=groups, columns=present)
                items = (item for batch in batches for item in batch.to_pylist())
                for item in islice(items, place.number - skipped, None):
                    place.number += 1
                    yield place.number, item
        except pa.ArrowException as error:
            raise DataError(f"{path}: not a Parquet file, or a damaged one ({_first_line(error)})") from None

    def _read_aligned(self, *files: tuple[str, Place]) -> Iterator[Row]:
        def parse(number: int, sides: tuple[str | DataError, str | DataError]) -> list[Row]:
            source, target = map(good, sides)
            return [{"source": _begun(source, self.target, tags=self.tags), "target": target, "line": number}]

        return rows_of(_aligned(*files), parse, self._malformed)


def rows_of(
    items: Iterable[tuple[int, T | DataError]], parse: Callable[[int, T], Iterable[Row]], malformed: Row | None
) -> Iterator[Row]:
    """The rows that `parse` makes of each numbered item, or raises DataError. malformed: the row that stands for an
    item that cannot be read, with its `line`, so that it is counted; None: the first such item ends the reading."""
    for number, item in items:
        try:
            rows = parse(number, good(item))
        except DataError:
            if malformed is None:
                raise
            yield malformed | {"line": number}
            continue
        yield from rows if malformed is None else (row | {"malformed": False} for row in rows)


def malformed_row(on_bad_line: OnBadLine, numbers: Row | None = None) -> Row | None:
    """See `rows_of`: two empty texts that are marked as `malformed`, with what stands for their numbers; None under
    OnBadLine.STOP."""
    if on_bad_line is OnBadLine.STOP:
        return None
    return {"source": "", "target": "", "malformed": True} | (numbers or {})


def has_column(location: Location, name: str) -> bool:
    """Whether the first row of a split has this column of numbers. False also for what cannot be read: to say so
    is the reader's part."""
    try:
        path = location.shards()[0].paths[0]
        match location.format:
            case Format.JSON:
                check_regular(path)
                _, first = next(read_json_lines(path), (0, None))
                return isinstance(first, dict) and name in first
            case Format.PARQUET:
                return name in pq.read_schema(path).names
            case _:
                return False
    except (DataError, pa.ArrowException, OSError):
        return False


def pick(
    item: Any, source: str, target: str, where: str, number: int, *, fertilities: str | None = None, tags: bool = False
) -> list[Row]:
    """The rows of a JSON object or table row, also of {"translation": {source: ..., target: ...}}: one for each target
    column, whose tag its source gets under `tags`. Fertilities stand beside the translation, not in it."""
    numbers = {} if fertilities is None else {"fertilities": _whole_numbers(item, fertilities, where)}
    if isinstance(item, dict) and isinstance(item.get("translation"), dict):
        item = item["translation"]
    if not isinstance(item, dict):
        kind = " (it is an array; one object a line is needed)" if isinstance(item, list) else ""
        raise DataError(f"{where}: not a JSON object{kind}")
    targets = target_columns(target, item)
    if fertilities is not None and len(targets) > 1:
        raise DataError(f"{where}: '{fertilities}' counts the tokens of one target, but {target} are {len(targets)}")
    for name in (source, *targets):
        if name not in item:
            raise DataError(f"{where}: no '{name}' (there is: {', '.join(map(str, item)) or 'nothing'})")
        if not isinstance(item[name], str):
            kind = "null" if item[name] is None else type(item[name]).__name__
            raise DataError(f"{where}: '{name}' is {kind}, text is needed")
        if not _is_encodable(item[name]):
            raise DataError(f"{where}: '{name}' holds half of a surrogate pair, which is no character")
    text = item[source]
    return [
        {"source": _begun(text, name, tags=tags), "target": item[name], "line": number} | numbers for name in targets
    ]


def _begun(source: str, target: str, *, tags: bool) -> str:
    return tagged(source, target) if tags else source


def _value(item: Any, name: str, where: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        names = ", ".join(map(str, item)) if isinstance(item, dict) else ""
        raise DataError(f"{where}: no '{name}' (there is: {names or 'nothing'})")
    return item[name]


def _weight(item: Any, name: str, where: str) -> float:
    value = _value(item, name, where)
    if type(value) not in (int, float) or not 0 <= value < LARGEST:
        raise DataError(f"{where}: '{name}' is {str(value)[:40]}, a number from 0 is needed")
    return float(value)


def _whole_numbers(item: Any, name: str, where: str) -> list[int]:
    value = _value(item, name, where)
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < LARGEST for n in value):
        raise DataError(f"{where}: '{name}' is {str(value)[:40]}, a list of whole numbers from 0 is needed")
    return value


def _is_encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _groups_after(metadata: pq.FileMetaData, count: int) -> tuple[list[int], int]:
    """The row groups of a Parquet file that do not end within its first `count` rows, and the rows of the others."""
    ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
    first = bisect_right(ends, count)
    return list(range(first, len(ends))), ends[first - 1] if first else 0


def _aligned(
    source: tuple[str, Place], target: tuple[str, Place]
) -> Iterator[tuple[int, tuple[str | DataError, str | DataError]]]:
    """The lines of two files side by side, with their number."""
    before = source[1].number
    pairs = zip_longest(lines_or_errors(*source), lines_or_errors(*target))
    for number, (first, second) in enumerate(pairs, before + 1):
        if first is None or second is None:
            shorter = number - 1
            longer = number + sum(1 for _ in pairs)
            counts = (shorter, longer) if first is None else (longer, shorter)
            raise DataError(
                f"{source[0]} has {_plural(counts[0], 'line')} but {target[0]} has {counts[1]}: "
                "line-aligned files need equally many"
            )
        yield number, (first, second)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
