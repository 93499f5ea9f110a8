"""Tokens, Source and Batch: what goes into a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nat.data.ragged import Ragged
from nat.data.vocabulary import Symbol
from nat.rows import Padded, Rows


@dataclass(frozen=True)
class Tokens(Padded):
    """Token ids without special symbols, padded to a rectangle on any side.

    tokens: (B, L) ids, PAD where not valid. valid: (B, L), True at real tokens. full: see `nat.rows.Padded`.
    """

    tokens: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    full: bool = field(default=False, kw_only=True)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Self:
        """As `of`."""
        return cls.of(Ragged.from_lists(rows))

    @classmethod
    def of(cls, rows: Ragged) -> Self:
        """Right-padded tokens; at least one column, so that a batch of empty rows has a shape."""
        tokens, valid = rows.padded()
        return cls(torch.from_numpy(tokens), torch.from_numpy(valid), full=bool(valid.all()))

    def to_lists(self) -> list[list[int]]:
        """The ids of the valid tokens, row by row."""
        return [row[keep].tolist() for row, keep in zip(self.tokens.cpu(), self.valid.cpu(), strict=True)]

    def compact_order(self) -> Int[Tensor, "B L"]:
        """Columns of each row, those of valid tokens first, else as they stand."""
        return self.valid.logical_not().to(torch.uint8).argsort(dim=1, stable=True)

    def compact(self) -> Self:
        """The same rows with all padding on the right; models call this on entry, so that the side
        on which the caller padded cannot matter."""
        if self.mask is None:
            return self
        order = self.compact_order()
        valid = self.valid.gather(1, order)
        return type(self)(self.tokens.gather(1, order).masked_fill(~valid, int(Symbol.PAD)), valid)


@dataclass(frozen=True)
class Draft(Tokens):
    """Target text to start from, right-padded; rows of length 0 start from nothing.

    fixed: (B, L) True at tokens that must stay. closed: (B, L + 1) True at gaps where nothing may be inserted: gap g
    stands before position g, the row's last one after its last token.
    """

    fixed: Bool[Tensor, "B L"]
    closed: Bool[Tensor, "B G"]


@dataclass(frozen=True)
class Phrases(Rows):
    """Target phrases that each translation must contain, whole, in any order: C for a row, each of up to N tokens;
    both right-padded. Rows of nothing but padding are no phrases."""

    tokens: Int[Tensor, "B C N"]
    valid: Bool[Tensor, "B C N"]


@dataclass(frozen=True)
class Source(Tokens):
    """The sentences to translate, and what is asked of their translations; None: nothing."""

    draft: Draft | None = None
    phrases: Phrases | None = None

    def compact(self) -> Self:
        plain = super().compact()
        return replace(self, tokens=plain.tokens, valid=plain.valid)


@dataclass(frozen=True)
class Target(Tokens):
    """Reference translations."""


@dataclass(frozen=True)
class Batch(Rows):
    """Sentence pairs: what `TranslationModel.loss` reads.

    fertilities: (B, S) how many target tokens each source token stands for (Gu et al. 2018, section 3.3,
    https://arxiv.org/abs/1711.02281), 0 on padding, each row's sum its T; None where the corpus has none. keys: (B,) a
    number of each pair's own, of which noise in losses is drawn too; None: it is drawn of the pair's tokens alone.
    """

    source: Source
    target: Target
    fertilities: Int[Tensor, "B S"] | None = None
    keys: Int[Tensor, " B"] | None = None

    @property
    def num_target_tokens(self) -> Int[Tensor, ""]:
        return self.target.valid.sum()

    def compact(self) -> Self:
        fertilities = self.fertilities
        if fertilities is not None:  # they follow their source tokens
            fertilities = fertilities.gather(1, self.source.compact_order())
        return type(self)(self.source.compact(), self.target.compact(), fertilities, self.keys)
