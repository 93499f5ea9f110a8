"""Text files line by line, UTF-8, plain or gzip, and JSON lines, with errors that name file and line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from nat.errors import DataError

T = TypeVar("T")
MAX_LINE_BYTES = 1 << 24  # of one sentence, or of one JSON object: what a reader holds in memory at most
BOM = b"\xef\xbb\xbf"


@dataclass
class Place:
    """How far a file of lines was read: `number` lines of `offset` bytes (of a .gz: of what it unpacks to), the last of
    which begins at byte `start`."""

    number: int = 0
    offset: int = 0
    start: int = 0

    @property
    def before(self) -> Place:
        """As it was before the last line."""
        return Place(self.number - 1, self.start, self.start)


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, gzip if its name ends in .gz, see `decode_lines`."""
    return map(good, lines_or_errors(path))


def decode_lines(file: IO[bytes] | io.BufferedIOBase, name: str | Path) -> Iterator[str]:
    """The lines of a file of UTF-8 text, without line ends and byte order mark. name: of the file, for messages.

    Only LF and CRLF end a line: other separators may occur within sentences, and would misalign files.
    Raises DataError naming file and line for what is not UTF-8, longer than MAX_LINE_BYTES or damaged gzip.
    """
    return map(good, _decoded(file, name))


def lines_or_errors(path: str | Path, place: Place | None = None) -> Iterator[str | DataError]:
    """Like `read_lines`, but the error of a line that cannot be read stands in its place, and the next one follows.
    place: where to begin; it follows the reading. No line before it is decoded, but those of a .gz are unpacked."""
    place = place or Place()
    with opening(path), gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
        if place.offset:  # a pipe has no places
            file.seek(place.offset)
        yield from _decoded(file, path, place)


def good(line: T | DataError) -> T:
    """What is no error; raises it where it is one."""
    if isinstance(line, DataError):
        raise line
    return line


def _decoded(
    file: IO[bytes] | io.BufferedIOBase, name: str | Path, place: Place | None = None
) -> Iterator[str | DataError]:
    place = place or Place()
    try:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            place.number, place.start, place.offset = place.number + 1, place.offset, place.offset + len(raw)
            ending = raw
            while len(ending) > MAX_LINE_BYTES and not ending.endswith(b"\n"):  # the rest of a line that is too long
                ending = file.readline(MAX_LINE_BYTES + 1) or b"\n"
                place.offset += len(ending)
            try:
                yield _decode(raw, first=place.number == 1)
            except ValueError as error:
                yield DataError(f"{name} line {place.number}: {error}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: the gzip file is damaged or cut short after line {place.number} ({error})") from None


def _decode(raw: bytes, *, first: bool) -> str:
    """Raises ValueError with what is wrong with the line."""
    if len(raw) > MAX_LINE_BYTES:
        beginning = raw[:20].decode("utf-8", "replace")
        raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB, which no sentence is ('{beginning}...')")
    if first:
        raw = raw.removeprefix(BOM)
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start
        raise ValueError(f"not UTF-8 (byte 0x{raw[position]:02x} at position {position + 1})") from None


def numbered_rows(path: str | Path, place: Place | None = None) -> Iterator[tuple[int, str | DataError]]:
    """The lines with their numbers, from 1, without the empty ones with which a file may end; see `lines_or_errors`."""
    empty: list[tuple[int, str]] = []
    for number, line in enumerate(lines_or_errors(path, place), 1 + (place.number if place else 0)):
        if isinstance(line, str) and not line.strip(" "):
            empty.append((number, line))
            continue
        yield from empty  # the reader of rows refuses them
        empty.clear()
        yield number, line


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file, one a line, with their line numbers. Raises DataError naming file and line."""
    for number, line in numbered_rows(path):
        yield number, read_json_line(good(line), f"{path} line {number}")


def read_json_line(line: str, where: str) -> Any:
    """The value. where: the line's place, for messages. Raises DataError."""
    try:
        return json.loads(line)
    except RecursionError:
        raise DataError(f"{where}: not a JSON object (its values are nested too deeply)") from None
    except ValueError as error:
        reason = "it begins an array; one object a line is needed" if line.strip() == "[" else error
        raise DataError(f"{where}: not a JSON object ({reason})") from None


@contextmanager
def opening(path: str | Path) -> Iterator[None]:
    """Turns the refusals of the file system into sentences; a bad gzip stays what it is."""
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder, a file is needed") from None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise DataError(f"{path}: cannot be read ({reason})") from None


def check_regular(path: str | Path) -> None:
    """Raises DataError for a pipe or a device, which can be read only once, or never ends."""
    with opening(path):
        mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # `opening` has its own words for a folder
        raise DataError(f"{path}: no regular file (a pipe or a device), and it is read more than once: write it to one")


def file_digest(path: str | Path, algorithm: str | Callable[[], Any] = "sha256") -> str:
    """Hexadecimal digest of a file's content, which is read in pieces. Raises DataError."""
    check_regular(path)
    file: IO[bytes]
    with opening(path), open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]


def outline(path: Path, size: int = 1 << 20) -> tuple[str, bytes, bytes]:
    """A file's size, its first and its last `size` bytes."""
    with opening(path), open(path, "rb") as file:
        length, beginning = path.stat().st_size, file.read(size)
        file.seek(max(0, length - size))
        return str(length), beginning, file.read(size)
