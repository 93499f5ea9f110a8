"""The special symbols, each with an id of its own, what a tokenizer promises, and what models need to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol, runtime_checkable

from nat.data.ragged import Ragged


class Symbol(IntEnum):
    """Ids of the special symbols. They are the same in every vocabulary; ordinary pieces follow."""

    PAD = 0
    UNK = 1
    BOS = 2
    EOS = 3
    MASK = 4
    BLANK = 5
    PLH = 6


SYMBOL_TEXT = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<blank>", "<plh>")
NUM_SYMBOLS = len(SYMBOL_TEXT)


@dataclass(frozen=True)
class Vocabularies:
    """What a model must know of the tokenizer.

    source_size, target_size: ids are 0 .. size - 1, special symbols included.
    shared: source and target use one vocabulary, so that embeddings can be tied across languages.
    points: source ids are points of the plane and target ids are places in the source, see `nat.data.points`.
    """

    source_size: int
    target_size: int
    shared: bool
    points: bool = False

    def __post_init__(self) -> None:
        assert min(self.source_size, self.target_size) > NUM_SYMBOLS
        assert not self.shared or self.source_size == self.target_size


@runtime_checkable
class Tokenizer(Protocol):
    """One side's tokenizer: text to ids without special symbols, except UNK, and back. model: bytes that tell it from
    others. savable: it can be made from them again, in another process."""

    savable: ClassVar[bool]

    @property
    def model(self) -> bytes: ...

    @property
    def size(self) -> int:
        """Number of ids, special symbols included."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text. An empty text gives an empty list."""
        ...

    def encode_many(self, texts: Sequence[str]) -> Ragged:
        """The same ids, as one array."""
        ...

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as text, for people to look at."""
        ...
