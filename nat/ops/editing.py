"""Sequences that grow and shrink: where every position of an edited sequence comes from.

Gap g of a sequence stands before its position g, the last gap after its last position: n positions have n + 1 gaps.
Sequences are right-padded, and edited ones as wide as the longest row and at least 1. Where shapes are fixed
(nat/ops/shapes.py) and a caller says what is the `most` that a row can have, they are so wide; else the longest row is
read, the only synchronisation with the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from nat.ops.shapes import are_fixed

NEW = -1


def insertion(
    counts: Int[Tensor, "B G"], valid: Bool[Tensor, "B L"], *, most: int | None = None
) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """counts: new positions in each gap, 0 in gaps that the row does not have. Returns (origin, valid) of the longer
    sequence: the old position that stands at each new one, NEW where something is inserted."""
    # old position i moves right by all that is inserted in gaps 0 .. i
    places = counts[:, :-1].cumsum(dim=1) + torch.arange(valid.size(1), device=valid.device)  # (B, L)
    lengths = valid.sum(dim=1) + counts.sum(dim=1)
    after = positions_below(lengths, most=most)
    origin = torch.full(after.shape, NEW, device=valid.device)
    origin = F.pad(origin, (0, 1))  # a column where padding is written and cut off
    old = torch.arange(valid.size(1), device=valid.device).expand_as(places)
    origin = origin.scatter(1, places.where(valid, after.size(1)), old)
    return origin[:, :-1], after


def deletion(keep: Bool[Tensor, "B L"], *, most: int | None = None) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """(origin, valid) of what is kept: the old position that stands at each place."""
    after = positions_below(keep.sum(dim=1), most=most)
    order = keep.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : after.size(1)]
    return order.masked_fill(~after, 0), after


def rearrange(values: Shaped[Tensor, "B L ..."], origin: Int[Tensor, "B N"]) -> Shaped[Tensor, "B N ..."]:
    """The values of the old positions at their new places, 0 (False) where origin is NEW."""
    wide = origin.view(*origin.shape, *(1,) * (values.dim() - 2)).expand(*origin.shape, *values.shape[2:])
    return values.gather(1, wide.clamp(min=0)).masked_fill(wide == NEW, 0)


def bracket(
    tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, first: int, last: int
) -> tuple[Int[Tensor, "B E"], Bool[Tensor, "B E"]]:
    """With both ends marked: gap g lies between the new positions g and g + 1."""
    ends = valid.sum(dim=1, keepdim=True) + 1
    padded = F.pad(tokens, (1, 1)).scatter(1, ends, last)
    padded[:, 0].fill_(first)  # an assignment would make a tensor on the host
    return padded, F.pad(valid, (2, 0), value=True)


def gaps(valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B G"]:
    """The gaps that each row has."""
    return F.pad(valid, (1, 0), value=True)


def positions_below(lengths: Int[Tensor, " B"], *, most: int | None = None) -> Bool[Tensor, "B N"]:
    """Validity of right-padded rows of these lengths."""
    width = most if most is not None and are_fixed(lengths) else max([1, *lengths.tolist()])
    return torch.arange(width, device=lengths.device) < lengths[:, None]
