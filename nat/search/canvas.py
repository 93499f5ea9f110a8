"""The canvas: the target that a decoder of several passes works on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.editing import NEW, deletion, gaps, insertion, rearrange
from nat.rows import Rows


class Fate(IntEnum):
    """What a pass did to a position of the canvas."""

    NONE = 0  # not a position of this row
    KEPT = 1  # as it was before
    WRITTEN = 2  # predicted in this pass
    MASKED = 3  # predicted in this pass or before, and to be predicted again
    INSERTED = 4  # a new position
    DELETED = 5  # taken out in this pass: in a history alone, beside what is left


@dataclass(frozen=True)
class Canvas(Rows):
    """Targets being worked on, one a row, right-padded.

    tokens: (B, L) ids, PAD where not valid. valid: (B, L). scores: (B, L) log-probability of each token when it was
    written, 0 before. fate: (B, L) what the last pass did, values of `Fate`.
    fixed: (B, L) True at tokens that are neither deleted nor written anew. joined: (B, L) True where nothing may be
    inserted before the position. sealed: (B,) True where nothing may be inserted after the last one.
    positions: what else a method keeps of each position, by name, (B, L, ...), 0 where nothing is known. rows: of each
    row, (B, ...).
    """

    tokens: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    scores: Float[Tensor, "B L"]
    fate: Int[Tensor, "B L"]
    fixed: Bool[Tensor, "B L"]
    joined: Bool[Tensor, "B L"]
    sealed: Bool[Tensor, " B"]
    positions: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Self:
        """Before the first pass: free to change, nothing scored."""
        free = torch.zeros_like(valid)
        return cls(tokens, valid, torch.zeros(tokens.shape, device=tokens.device), free.long(), free, free, free[:, 0])

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        return self.valid.sum(dim=1)

    @property
    def open_gaps(self) -> Bool[Tensor, "B G"]:
        """Gaps where something may be inserted."""
        closed = F.pad(self.joined, (0, 1)).scatter(1, self.lengths[:, None], self.sealed[:, None])
        return gaps(self.valid) & ~closed

    def inserted(self, counts: Int[Tensor, "B G"], *, token: int) -> Self:
        """With `counts` new positions in each gap, of fate INSERTED, with 0 (False) for all but their token; all others
        are KEPT."""
        origin, valid = insertion(counts, self.valid)
        fate = torch.where(origin >= 0, int(Fate.KEPT), int(Fate.INSERTED)).masked_fill(~valid, int(Fate.NONE))
        moved = self.moved(origin, valid, fate)
        return replace(moved, tokens=moved.tokens.masked_fill((origin < 0) & valid, token))

    def without(self, dropped: Bool[Tensor, "B L"]) -> Self:
        """What is left after deletion; all of it is KEPT."""
        origin, valid = deletion(self.valid & ~dropped, most=dropped.size(1))
        return self.moved(origin, valid, valid.long() * int(Fate.KEPT))

    def moved(self, origin: Int[Tensor, "B N"], valid: Bool[Tensor, "B N"], fate: Int[Tensor, "B N"]) -> Self:
        """With the positions of `origin` (see `nat.ops.editing`), and PAD, 0 or False where not valid."""
        source = origin.masked_fill(~valid, NEW)
        return replace(
            self,
            tokens=rearrange(self.tokens, source),
            valid=valid,
            scores=rearrange(self.scores, source),
            fate=fate,
            fixed=rearrange(self.fixed, source),
            joined=rearrange(self.joined, source),
            positions={name: rearrange(values, source) for name, values in self.positions.items()},
        )
