"""Attention between positions that are a multiple of a stride apart."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nat.ops.blocks import attend


def root_stride(lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The square root of each length, rounded up: there are as many residues as positions in each, N^1.5 in all."""
    return lengths.double().sqrt().ceil().long()


def strided_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    stride: int | None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Each position's softmax over the positions of its row whose distance is a multiple of the stride.

    lengths: tokens of each row, one at least. stride: None is `root_stride`. Positions with the same residue stand
    together in a grid of (residues, members) and see each other.
    """
    width = queries.size(2)
    widest = math.isqrt(width - 1) + 1 if stride is None else min(stride, width)
    members = widest if stride is None else -(-width // stride)
    strides = root_stride(lengths) if stride is None else torch.full_like(lengths, stride)
    residue = torch.arange(widest, device=lengths.device)[:, None]
    place = residue + torch.arange(members, device=lengths.device) * strides[:, None, None]  # (B, R, M)
    there = (place < lengths[:, None, None]) & (residue < strides[:, None, None])
    place = place.masked_fill(~there, 0).flatten(1)
    q, k, v = (_taken(part, place).unflatten(1, (widest, members)).flatten(0, 1) for part in (queries, keys, values))
    there[:, :, 0] = True  # where a residue has no member, something must be seen
    seen = there.flatten(0, 1)[:, None, None]
    mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), seen, dropout=dropout)  # (B R, H, M, E)
    position = torch.arange(width, device=lengths.device)
    cell = position % strides[:, None] * members + position // strides[:, None]
    cell = cell.masked_fill(position >= lengths[:, None], 0)
    back = mixed.transpose(1, 2).unflatten(0, (-1, widest)).flatten(1, 2)  # (B, R M, H, E)
    return _taken(back.transpose(1, 2), cell).transpose(1, 2)


def _taken(x: Float[Tensor, "B H N E"], places: Int[Tensor, "B P"]) -> Float[Tensor, "B P H E"]:
    rows = torch.arange(x.size(0), device=x.device)[:, None]
    return x.transpose(1, 2)[rows, places]
