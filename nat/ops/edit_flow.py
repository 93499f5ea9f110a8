"""The process of Edit Flows: when edits happen, what a sequence is on its way to another, and what is left to do.

Havasi et al. 2025, https://arxiv.org/abs/2506.09018, sections 3 and 4, with kappa_t = t^3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.alignment import Alignment
from nat.ops.editing import rearrange

Time = TypeVar("Time", float, Tensor)


def share_done(time: Time) -> Time:
    """kappa_t: the probability that an edit has happened by then."""
    return time**3


def time_of(share: Time) -> Time:
    """When this share of the edits has happened, as is expected."""
    return share ** (1 / 3)


def hazard(time: Time) -> Time:
    """kappa'_t / (1 - kappa_t): the rate at which an edit happens that has not yet; infinite at 1."""
    return 3 * time**2 / (1 - time**3)


@dataclass(frozen=True)
class OnTheWay:
    """Aligned pairs at a time, in the columns K of the alignment.

    tokens, present: (B, K) what stands there now, if something does. place: (B, K) how many stand there up to each
    column: of a missing token the place of its left neighbour, 0 at the begin, of others their own, from 1.
    wanted: (B, K) the token that shall stand there. inserted, substituted, deleted: (B, K) the edit that is left to do.
    """

    tokens: Int[Tensor, "B K"]
    present: Bool[Tensor, "B K"]
    place: Int[Tensor, "B K"]
    wanted: Int[Tensor, "B K"]
    inserted: Bool[Tensor, "B K"]
    substituted: Bool[Tensor, "B K"]
    deleted: Bool[Tensor, "B K"]

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "B N"],
        target: Int[Tensor, "B M"],
        alignment: Alignment,
        done: Bool[Tensor, "B K"],
    ) -> OnTheWay:
        """From one sequence to the other. done: columns that show the target's side, z_t^i = z_1^i."""
        has_old, has_new = alignment.old >= 0, alignment.new >= 0
        old, new = rearrange(tokens, alignment.old), rearrange(target, alignment.new)
        present = has_new.where(done, has_old)
        return cls(
            new.where(done, old),
            present,
            present.cumsum(dim=1),
            new,
            inserted=~done & has_new & ~has_old,
            substituted=~done & has_old & has_new & (old != new),
            deleted=~done & has_old & ~has_new,
        )


@dataclass(frozen=True)
class Rates:
    """Of edits, at each place of sequences of L tokens: the begin, then the tokens. insertion: (B, L + 1) of a token
    after it; substitution, deletion: (B, L + 1) of its own token, 0 at the begin. All are 0 at padding."""

    insertion: Float[Tensor, "B G"]
    substitution: Float[Tensor, "B G"]
    deletion: Float[Tensor, "B G"]

    @classmethod
    def of(cls, rates: Float[Tensor, "B G 3"], valid: Bool[Tensor, "B L"]) -> Rates:
        """rates: of insertion, substitution and deletion, anything where there is no such place."""
        places, tokens = F.pad(valid, (1, 0), value=True), F.pad(valid, (1, 0))
        there = torch.stack((places, tokens, tokens), dim=2)
        return cls(*rates.masked_fill(~there, 0.0).unbind(dim=2))

    @property
    def total(self) -> Float[Tensor, " B"]:
        return (self.insertion + self.substitution + self.deletion).sum(dim=1)

    @property
    def acting(self) -> Float[Tensor, "B G"]:
        """Of anything that is done to the token itself."""
        return self.substitution + self.deletion
