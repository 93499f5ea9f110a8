"""The expert of imitation learning: the fewest insertions and deletions that turn one sequence into another.

Gu, Wang & Zhao 2019, https://arxiv.org/abs/1905.11006, section 3.2, "Expert policy": the action whose outcome is
nearest to the reference in Levenshtein distance without substitutions, n + m - 2 LCS for sequences of n and m tokens
with a longest common subsequence of LCS. All rows advance together: the loops below are over the positions of the
edited sequence, two of them, each with a handful of operations on (B, M) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from nat.ops.editing import deletion, rearrange

IMPOSSIBLE = -(2**30)


@dataclass(frozen=True)
class Edits:
    """What turns a sequence of N positions into the target of M: deletions, then placeholders, then tokens.

    deleted: (B, N). placeholders: (B, N + 1) how many are put into each gap of the sequence as it is before the
    deletions, next to the position that stays on the right, or after the last position; gaps as in `nat.ops.editing`.
    missing: (B, M) True at the tokens of the target that fill the placeholders, in this order.
    """

    deleted: Bool[Tensor, "B N"]
    placeholders: Int[Tensor, "B G"]
    missing: Bool[Tensor, "B M"]

    def limited(self, most: int) -> Edits:
        """With at most so many placeholders in a gap, filled with the first of its tokens."""
        # positions of one gap are consecutive, and the token before them is there already
        positions = torch.arange(self.missing.size(1), device=self.missing.device)
        start = (positions + 1).masked_fill(self.missing, 0).cummax(dim=1).values  # the first position of this gap
        first = self.missing & (positions - start < most)
        return replace(self, placeholders=self.placeholders.clamp(max=most), missing=first)

    def after_deletion(self, valid: Bool[Tensor, "B N"]) -> Int[Tensor, "B H"]:
        """The placeholders of each gap of what is left of the sequence, whose validity before was `valid`."""
        origin, left = deletion(valid & ~self.deleted, most=valid.size(1))
        counts = F.pad(rearrange(self.placeholders, origin).masked_fill(~left, 0), (0, 1))
        last = self.placeholders.gather(1, valid.sum(dim=1, keepdim=True))
        return counts.scatter(1, left.sum(dim=1, keepdim=True), last)


def best_edits(
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    target: Int[Tensor, "B M"],
    target_valid: Bool[Tensor, "B M"],
) -> Edits:
    """An optimal edit of each row; both sides right-padded.

    Of several optimal ones: from the left, a position stays wherever that is no worse than to delete it, and stands
    for the first token of the target, after those that are spoken for, that equals it.
    """
    return Edits(*_best_edits(tokens, valid, target, target_valid))


@torch.library.custom_op(
    "nat::best_edits",
    mutates_args=(),
    schema="(Tensor tokens, Tensor valid, Tensor target, Tensor target_valid) -> (Tensor, Tensor, Tensor)",
)
def _best_edits(tokens: Tensor, valid: Tensor, target: Tensor, target_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One operator of torch: a compiled graph holds it as one node, instead of a copy of its loops for every width."""
    keep, place = _choices(tokens, valid, target, target_valid)
    width = target.size(1)
    reached = torch.arange(width + 1, device=tokens.device)
    follow = torch.where(keep, place + 1, reached)  # (B, N, M + 1): tokens of the target done after this position
    done = [torch.zeros_like(tokens[:, :1])]
    for i in range(tokens.size(1)):
        done.append(follow[:, i].gather(1, done[-1]))
    before, after = torch.cat(done[:-1], dim=1), torch.cat(done[1:], dim=1)  # (B, N)
    kept = after > before
    lengths, ends = valid.sum(dim=1, keepdim=True), target_valid.sum(dim=1, keepdim=True)
    gap = F.pad((after - before - 1).masked_fill(~kept, 0), (0, 1))
    is_kept = torch.zeros((len(tokens), width + 1), dtype=torch.bool, device=tokens.device)
    is_kept = is_kept.scatter(1, (after - 1).where(kept, width), True)[:, :-1]
    return valid & ~kept, gap.scatter(1, lengths, ends - done[-1]), target_valid & ~is_kept


@_best_edits.register_fake
def _(tokens: Tensor, valid: Tensor, target: Tensor, target_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    placeholders = tokens.new_empty((tokens.size(0), tokens.size(1) + 1))
    return torch.empty_like(valid), placeholders, torch.empty_like(target_valid)


def _choices(
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    target: Int[Tensor, "B M"],
    target_valid: Bool[Tensor, "B M"],
) -> tuple[Bool[Tensor, "B N J"], Int[Tensor, "B N J"]]:
    """For position i when j tokens of the target are done, j from 0 to M: whether it stays, and the token of the
    target that it then stands for (M where there is none)."""
    width = target.size(1)
    equal = (tokens[:, :, None] == target[:, None]) & valid[:, :, None] & target_valid[:, None]  # (B, N, M)
    places = torch.arange(width, device=tokens.device).expand_as(equal).masked_fill(~equal, width)
    place = F.pad(places.flip(2).cummin(dim=2).values.flip(2), (0, 1), value=width)  # (B, N, M + 1)
    # common[j]: the longest common subsequence of the positions from i on and the tokens from j on; one column more,
    # whither positions without an equal token go
    common = F.pad(torch.zeros_like(place[:, 0]), (0, 1), value=IMPOSSIBLE)
    onward = F.pad(place + 1, (0, 1), value=width + 1)
    keep = []
    for i in range(tokens.size(1) - 1, -1, -1):
        kept = common.gather(1, onward[:, i]) + 1
        keep.append(kept >= common)
        common = torch.maximum(kept, common)
    return torch.stack(keep[::-1], dim=1)[:, :, :-1], place
