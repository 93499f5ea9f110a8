"""Texts of several files: as one, and as a stream that is gone on with where it was left, without a second reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

from nat.data.cache import digest
from nat.data.generated import Generated
from nat.data.readers import Row

OPEN_AT_ONCE = 8  # files that are read in turns, so that neighbours in a pool come from several

Begin = Any  # where rows begin: plain data of the reader's own


class TextReader(Protocol):
    """The rows of one file."""

    def rows(self) -> Iterator[Row]: ...

    def chunks(self, begin: Begin | None, size: int) -> Iterator[tuple[list[Row], Begin | None]]:
        """See `readers.Reader.chunks`."""
        ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class TextFiles:
    """One file after the other. Of several the lines are counted on: the second begins where the first one ends."""

    readers: Sequence[TextReader]

    def rows(self) -> Iterator[Row]:
        before = 0
        for reader in self.readers:
            last = 0
            for row in reader.rows():
                last = row["line"]
                yield row | {"line": before + last} if before else row
            before += last

    def fingerprint(self) -> str:
        keys = [reader.fingerprint() for reader in self.readers]
        return keys[0] if len(keys) == 1 else digest("files", *keys)


class TextStream:
    """Rows that are read anew each time; see `chunks`."""

    def __init__(self, find: Callable[[], Sequence[TextReader]]) -> None:
        """find: gives the readers, of a file each, once they are needed: a hub must be asked."""
        self._find = find

    @cached_property
    def readers(self) -> Sequence[TextReader]:
        return self._find()

    def __iter__(self) -> Iterator[Row]:
        """One file after the other."""
        return (row for reader in self.readers for row in reader.rows())

    def iter(self, size: int) -> Iterator[dict[str, list[Any]]]:
        """The same in columns, `size` rows together."""
        rows = iter(self)
        while chunk := list(islice(rows, size)):
            yield columns(chunk)

    def chunks(
        self, order: Sequence[int], state: dict[str, Any] | None, size: int
    ) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        """The rows of the files of these numbers, in turns of about `size` rows from OPEN_AT_ONCE of them, each time
        with the state from which the next ones are read: plain data. state: None: from the beginning."""
        state = state or {"open": [], "opened": 0}
        waiting = deque(order[state["opened"] :])
        turns = deque((number, begin, self.readers[number].chunks(begin, size)) for number, begin in state["open"])
        while turns or waiting:
            while waiting and len(turns) < OPEN_AT_ONCE:
                number = waiting.popleft()
                turns.append((number, None, self.readers[number].chunks(None, size)))
            number, _, chunks = turns.popleft()
            rows, begin = next(chunks, ([], None))
            if begin is not None:
                turns.append((number, begin, chunks))
            if rows:
                following = [[number, begin] for number, begin, _ in turns]
                yield rows, {"open": following, "opened": len(order) - len(waiting)}


@dataclass(frozen=True)
class TaskReader:
    """A task that makes its rows, see `nat.data.generated`."""

    task: Generated

    def rows(self) -> Iterator[Row]:
        return self.task.rows()

    def chunks(self, begin: Begin | None, size: int) -> Iterator[tuple[list[Row], Begin | None]]:
        first = begin or 0
        rows = self.task.rows(first)
        chunk = list(islice(rows, size))
        while chunk:
            following = list(islice(rows, size))
            first += len(chunk)
            yield chunk, first if following else None
            chunk = following

    def fingerprint(self) -> str:
        return self.task.fingerprint()


@dataclass(frozen=True)
class Beginnings:
    """The rows of another reader, of each source only the first words; `cut` says whether it had more."""

    reader: TextReader
    num_words: int

    def rows(self) -> Iterator[Row]:
        return map(self._cut, self.reader.rows())

    def chunks(self, begin: Begin | None, size: int) -> Iterator[tuple[list[Row], Begin | None]]:
        return (([self._cut(row) for row in rows], following) for rows, following in self.reader.chunks(begin, size))

    def fingerprint(self) -> str:
        return digest("source_words", str(self.num_words), self.reader.fingerprint())

    def _cut(self, row: Row) -> Row:
        text = first_words(row["source"], self.num_words)
        return row | {"source": text, "cut": text != row["source"]}


def first_words(text: str, count: int) -> str:
    """The first `count` words as they stand; all of the text if it has no more."""
    words = text.split(None, count)
    return text if len(words) <= count else text[: -len(words[count])].rstrip()


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
