"""Rows divided into about sqrt(n) parts of about sqrt(n) positions, n being a row's own length.

Attention inside parts then costs n sqrt(n), and so do scores of all positions for all parts.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def num_parts(lengths: Int[Tensor, " B"], *, most: int, least: int) -> Int[Tensor, " B"]:
    """min(`most`, ceil(sqrt(n)), ceil(n / least)), at least 1; least: positions that a part has where n allows it."""
    roots = lengths.double().sqrt().ceil().long()
    return roots.minimum(-(-lengths // least)).clamp(1, most)


def bounds(length: int, *, most: int, least: int) -> tuple[int, int]:
    """The largest number of parts, and of positions of a part, that rows of this length and shorter ones have."""
    root = math.isqrt(max(length, 1) - 1) + 1
    parts = max(1, min(most, root, -(-length // least)))
    return parts, max(-(-length // most), root, min(length, least))


def spread(
    lengths: Int[Tensor, " B"], parts: Int[Tensor, " B"], *, most: int, size: int
) -> tuple[Int[Tensor, "B K W"], Bool[Tensor, "B K W"]]:
    """Consecutive blocks whose sizes differ by 1 at most: the position at each slot, and whether it belongs to the
    block. most, size: K and W."""
    numbers = torch.arange(most + 1, device=lengths.device)
    edges = numbers.minimum(parts[:, None]) * lengths[:, None] // parts[:, None]  # (B, K + 1)
    return _slots(edges, size)


def cut(lengths: Int[Tensor, " B"], *, most: int, size: int) -> tuple[Int[Tensor, "B K W"], Bool[Tensor, "B K W"]]:
    """`spread` for consecutive blocks of `size` positions, so that no position's block depends on the row's length."""
    numbers = torch.arange(most + 1, device=lengths.device)
    return _slots((numbers * size).minimum(lengths[:, None]), size)


def _slots(edges: Int[Tensor, "B L"], size: int) -> tuple[Int[Tensor, "B K W"], Bool[Tensor, "B K W"]]:
    positions = edges[:, :-1, None] + torch.arange(size, device=edges.device)
    inside = positions < edges[:, 1:, None]
    return positions.masked_fill(~inside, 0), inside


def gather_slots(x: Float[Tensor, "B H N E"], positions: Int[Tensor, "B H K W"]) -> Float[Tensor, "B H K W E"]:
    """The vectors at these positions."""
    return x.flatten(0, 2).index_select(0, _flat(positions, x.size(2))).view(*positions.shape, -1)


def scatter_slots(
    x: Float[Tensor, "B H K W E"], positions: Int[Tensor, "B H K W"], *, length: int
) -> Float[Tensor, "B H N E"]:
    """Sums of the vectors that go to each position."""
    total = x.new_zeros(*x.shape[:2], length, x.size(-1))
    flat = total.flatten(0, 2).index_add(0, _flat(positions, length), x.flatten(0, 3))
    return flat.view_as(total)


def _flat(positions: Int[Tensor, "B H K W"], length: int) -> Int[Tensor, " S"]:
    groups = positions.flatten(0, 1).flatten(1)
    return (groups + torch.arange(groups.size(0), device=groups.device)[:, None] * length).flatten()
