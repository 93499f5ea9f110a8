"""Points of the unit square, and indices of them, as text and as token ids.

A source text is one point a word, "0.12345,0.67890 0.5,0.25"; its target text names points by their places in it,
from 0: "0 3 5". A point's id holds both coordinates, quantised to BITS bits each; an index's id is itself. Neither
needs a table: there are as many indices as a source has points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nat.data.ragged import Ragged
from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT
from nat.errors import DataError

BITS = 15  # two of them fit into the 32 bits of an id
FINEST = (1 << BITS) - 1  # the quantised coordinate of 1.0
DIGITS = 5  # of a coordinate as text: enough to come back to the same quantised one
LARGEST_INDEX = (1 << 30) - 1
POINTS_MODEL = f"nat points {BITS}\n".encode()
INDICES_MODEL = b"nat indices "


class BadText(DataError):
    """A text that is not what a tokenizer reads. row: its place among the texts, from 0."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def _encode(texts: Sequence[str], read: Callable[[str], int]) -> list[list[int]]:
    rows = []
    for number, text in enumerate(texts):
        try:
            rows.append([read(word) for word in text.split()])
        except ValueError as error:
            raise BadText(number, str(error)) from None
    return rows


def beyond(count: int, most: int) -> str:
    """Why a fixed vocabulary refuses so many points."""
    return (
        f"{count} points, but this model has a fixed vocabulary, the indices of the {most} points that training had; "
        "model=pointer has no such limit"
    )


def no_such_point(index: int, count: int) -> str:
    return f"the index {index} is none of the {count} points, which count from 0"


def tokenizer_of(model: bytes) -> PointTokenizer | IndexTokenizer | None:
    """The tokenizer whose `model` these bytes are; None if they are of another kind."""
    if model == POINTS_MODEL:
        return PointTokenizer()
    count = model.removeprefix(INDICES_MODEL).strip()
    return IndexTokenizer(int(count)) if model.startswith(INDICES_MODEL) and count.isdigit() else None


def point_text(x: int, y: int) -> str:
    """The word of a point of quantised coordinates."""
    return f"{x / FINEST:.{DIGITS}f},{y / FINEST:.{DIGITS}f}"


def point_id(word: str) -> int:
    """The id of a point's word. Raises ValueError with what is wrong."""
    parts = word.split(",")
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"'{word[:40]}' is no point, two numbers with a comma between them, such as 0.25,0.5"
        ) from None
    if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
        raise ValueError(f"the point '{word[:40]}' lies outside the unit square")
    return NUM_SYMBOLS + (round(x * FINEST) << BITS | round(y * FINEST))


def index_id(word: str) -> int:
    """The id of an index's word. Raises ValueError with what is wrong."""
    if not (word.isascii() and word.isdigit()):
        raise ValueError(f"'{word[:40]}' is no index of a point, a whole number from 0")
    if int(word) > LARGEST_INDEX:
        raise ValueError(f"the index {word[:40]} is too large")
    return NUM_SYMBOLS + int(word)


@dataclass(frozen=True)
class PointTokenizer:
    """Points <-> ids."""

    savable: ClassVar[bool] = True
    model: bytes = POINTS_MODEL

    @property
    def size(self) -> int:
        return NUM_SYMBOLS + (1 << 2 * BITS)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises BadText for a word that is no point of the unit square."""
        return _encode(texts, point_id)

    def encode_many(self, texts: Sequence[str]) -> Ragged:
        return Ragged.from_lists(self.encode(texts))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(self.pieces([i for i in row if i >= NUM_SYMBOLS])) for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        packed = (int(i) - NUM_SYMBOLS for i in ids)
        return [SYMBOL_TEXT[p] if p < 0 else point_text(p >> BITS, p & FINEST) for p in packed]


@dataclass(frozen=True)
class IndexTokenizer:
    """Indices of points <-> ids. A fixed vocabulary has the first `count`; an output that points has no such limit."""

    savable: ClassVar[bool] = True
    count: int

    @property
    def model(self) -> bytes:
        return INDICES_MODEL + f"{self.count}\n".encode()

    @property
    def size(self) -> int:
        return NUM_SYMBOLS + self.count

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises BadText for a word that is no index; those from `count` on are ids beyond the fixed vocabulary."""
        return _encode(texts, index_id)

    def encode_many(self, texts: Sequence[str]) -> Ragged:
        return Ragged.from_lists(self.encode(texts))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(str(i - NUM_SYMBOLS) for i in row if i >= NUM_SYMBOLS) for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [SYMBOL_TEXT[i] if i < NUM_SYMBOLS else str(i - NUM_SYMBOLS) for i in map(int, ids)]
