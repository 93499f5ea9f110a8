"""Two sequences side by side, in the fewest insertions, substitutions and deletions (Levenshtein distance).

Of Havasi et al. 2025, "Edit Flows", https://arxiv.org/abs/2506.09018, section 3: pairs (z0, z1) of one length, with
gaps. All rows advance together: both loops below are over the positions of the first sequence, each with a handful of
operations on (B, M) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from nat.ops.editing import NEW

IMPOSSIBLE = 2**30


@dataclass(frozen=True)
class Alignment:
    """K = N + M columns, those of a row first. old: (B, K) position of the first sequence, NEW where a token is
    inserted. new: (B, K) position of the second, NEW where one is deleted. Both are NEW in columns of padding."""

    old: Int[Tensor, "B K"]
    new: Int[Tensor, "B K"]


def align(
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    target: Int[Tensor, "B M"],
    target_valid: Bool[Tensor, "B M"],
) -> Alignment:
    """An alignment of each row with the fewest columns whose two sides differ; both sides right-padded.

    Of several: from the left, a position stands beside a token of the target wherever that is no worse than to delete
    it, and before tokens are inserted wherever that is no worse. No insertion is next to a deletion: a substitution is
    cheaper.
    """
    place, paired = _partners(tokens, valid, target, target_valid)
    positions = torch.arange(tokens.size(1), device=tokens.device)
    width = tokens.size(1) + target.size(1)
    # a position's column: those before it are the positions before it, and what was inserted before it
    column = positions + place - (paired.cumsum(dim=1) - paired.long())
    column = column.where(valid, width)  # padding goes to a column that is cut off
    empty = torch.full((len(tokens), width + 1), NEW, device=tokens.device)
    old = empty.scatter(1, column, positions.expand_as(column))[:, :-1]
    alone = F.pad(torch.zeros_like(old, dtype=torch.bool), (0, 1)).scatter(1, column, ~paired)[:, :-1]
    number = torch.where(alone, 0, 1).cumsum(dim=1)  # of tokens of the target up to a column
    has_new = ~alone & (number <= target_valid.sum(dim=1, keepdim=True))
    return Alignment(old, (number - 1).masked_fill(~has_new, NEW))


@torch.library.custom_op(
    "nat::partners",
    mutates_args=(),
    schema="(Tensor tokens, Tensor valid, Tensor target, Tensor target_valid) -> (Tensor, Tensor)",
)
def _partners(tokens: Tensor, valid: Tensor, target: Tensor, target_valid: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N): how many tokens of the target are done before each position, and whether the next one is its partner.
    One operator of torch: a compiled graph holds it as one node, instead of a copy of its loops for every width."""
    landing, pairs = _choices(tokens, valid, target, target_valid)
    done = torch.zeros_like(tokens[:, :1])
    place, paired = [], []
    for i in range(tokens.size(1)):
        place.append(landing[i].gather(1, done))
        paired.append(pairs[i].gather(1, place[-1]))
        done = place[-1] + paired[-1].long()
    return torch.cat(place, dim=1), torch.cat(paired, dim=1)


@_partners.register_fake
def _(tokens: Tensor, valid: Tensor, target: Tensor, target_valid: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), torch.empty_like(valid)


def _choices(
    tokens: Tensor, valid: Tensor, target: Tensor, target_valid: Tensor
) -> tuple[list[Int[Tensor, "B J"]], list[Bool[Tensor, "B J"]]]:
    """For each position when j tokens of the target are done, j from 0 to M: how many are when those before it are
    inserted; and, when so many are done, whether the next one is its partner. Without effect on padding."""
    reached = torch.arange(target.size(1) + 1, device=tokens.device)
    left = target_valid.sum(dim=1, keepdim=True) - reached
    onward = left.masked_fill(left < 0, IMPOSSIBLE)  # edits from the next position and j tokens on: all are inserted
    landing, pairs = [], []
    for i in range(tokens.size(1) - 1, -1, -1):
        differs = F.pad((tokens[:, i : i + 1] != target).long(), (0, 1), value=IMPOSSIBLE)
        beside = F.pad(onward[:, 1:], (0, 1), value=IMPOSSIBLE) + differs
        here = torch.minimum(beside, onward + 1) + reached
        best = here.flip(1).cummin(dim=1).values.flip(1)  # after inserting any number
        land = reached.masked_fill(here > best, IMPOSSIBLE).flip(1).cummin(dim=1).values.flip(1)
        there = valid[:, i : i + 1]
        landing.append(land.where(there, reached))
        pairs.append((beside <= onward + 1) & there)
        onward = (best - reached).where(there, onward)
    return landing[::-1], pairs[::-1]
