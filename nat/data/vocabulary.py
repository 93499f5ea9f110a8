"""The special symbols, each with an id of its own, and the sizes that models need to know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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
    """

    source_size: int
    target_size: int
    shared: bool

    def __post_init__(self) -> None:
        assert min(self.source_size, self.target_size) > NUM_SYMBOLS
        assert not self.shared or self.source_size == self.target_size
