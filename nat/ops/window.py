"""Attention to a window around each position, and to keys that all positions share.

On CPU, and wherever FlexAttention cannot serve, blocks of queries meet their neighbours (`nat.ops.blocks`); on CUDA the
same pattern is a mask function. Cost and memory grow with N (window + shared keys).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from nat.ops.blocks import attend_blocks, from_blocks, neighbourhoods, side_by_side, to_blocks

NARROWEST = 32  # positions of a block: with narrower ones the products are too small to be quick
FLEX_BLOCK = 128  # FlexAttention skips blocks of so many queries and keys

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (row, head, query, key) -> bool, of any common shape


@dataclass(frozen=True)
class Pattern:
    """What a query sees of the keys, of which the first `shared` belong to no window: all of those, and of the
    sequence that follows them the positions at most `window` steps of `dilation` away, from position `skip` on."""

    window: int
    dilation: int = 1
    skip: int = 0
    shared: int = 0

    def mask_function(self) -> Sees:
        """For FlexAttention, which takes plain functions of numbers."""
        reach, dilation, skip, shared = self.window * self.dilation, self.dilation, self.skip, self.shared
        return lambda row, head, query, key: (
            (key < shared)
            | (
                ((query - key + shared).abs() <= reach)
                & ((query - key + shared) % dilation == 0)
                & (key - shared >= skip)
            )
        )


@dataclass(frozen=True)
class Shared:
    """Keys that every position sees, G of them. keys, values: (B, H, G, E). seen: (B, G), False where it is padding."""

    keys: Float[Tensor, "B H G E"]
    values: Float[Tensor, "B H G E"]
    seen: Bool[Tensor, "B G"]

    def before(self, other: Shared) -> Shared:
        """Both, these first."""
        return Shared(
            torch.cat((self.keys, other.keys), dim=2),
            torch.cat((self.values, other.values), dim=2),
            torch.cat((self.seen, other.seen), dim=1),
        )

    def of_heads(self, heads: slice) -> Shared:
        return Shared(self.keys[:, heads], self.values[:, heads], self.seen)


def window_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    window: int,
    dilation: int = 1,
    shared: Shared | None = None,
    skip: int = 0,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Each position's softmax over the positions at most `window` steps of `dilation` to each side, without the first
    `skip` of the sequence, and over the shared keys.

    lengths: tokens of each row; what follows them is not seen, but by itself. skip: with it, shared holds a key that
    is seen, so that every position sees one. dropout: on the weights.
    """
    if shared is None:
        nothing = keys[:, :, :0]
        shared = Shared(nothing, nothing, torch.ones_like(nothing[:, 0, :, 0], dtype=torch.bool))
    if flex_serves(queries, dropout):
        pattern = Pattern(window, dilation, skip, shared.keys.size(2))
        return flexible(queries, keys, values, lengths, pattern=pattern, shared=shared)
    return chunked(
        queries, keys, values, lengths, window=window, dilation=dilation, shared=shared, skip=skip, dropout=dropout
    )


# --- blocks -----------------------------------------------------------------------------------------


def chunked(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    window: int,
    dilation: int,
    shared: Shared,
    skip: int,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """`window_attention` through blocks; every residue modulo the dilation is a row of its own, without dilation."""
    length = queries.size(2)
    offsets = torch.arange(dilation, device=lengths.device)
    queries, keys, values = (_residues(part, dilation) for part in (queries, keys, values))
    mixed = _near(
        queries,
        keys,
        values,
        ((lengths[:, None] - offsets + dilation - 1) // dilation).clamp(min=0).flatten(),
        window=window,
        shared=_for_residues(shared, dilation),
        skips=((skip - offsets + dilation - 1) // dilation).clamp(min=0).repeat(len(lengths)),
        dropout=dropout,
    )
    return _together(mixed, dilation, length)


def _near(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    window: int,
    shared: Shared,
    skips: Int[Tensor, " B"],
    dropout: float,
) -> Float[Tensor, "B H N E"]:
    """Without dilation; skips: of each row."""
    length = queries.size(2)
    width = min(max(window, NARROWEST), length)
    blocks, key_blocks, value_blocks = (to_blocks(part, width) for part in (queries, keys, values))
    count = blocks.size(2)
    reach = min(-(-window // width), count - 1)
    starts = width * torch.arange(count, device=lengths.device)[:, None]
    query = (starts + torch.arange(width, device=lengths.device))[None, :, :, None]  # (1, C, W, 1)
    key = (starts + torch.arange(-reach * width, (reach + 1) * width, device=lengths.device))[None, :, None]
    bound, skips = lengths[:, None, None, None], skips[:, None, None, None]
    near = ((query - key).abs() <= window) & (key >= skips) & ((key < bound) | (key == query))  # (B, C, W, K)
    if shared.keys.size(2):
        common = shared.seen[:, None, None].expand(-1, count, width, -1)
        near = torch.cat((common, near), dim=-1)
    every = (-1, -1, count, -1, -1)
    mixed = attend_blocks(
        blocks,
        side_by_side([shared.keys[:, :, None].expand(every), *neighbourhoods(key_blocks, reach)]),
        side_by_side([shared.values[:, :, None].expand(every), *neighbourhoods(value_blocks, reach)]),
        near[:, None],
        dropout=dropout,
    )
    return from_blocks(mixed, length)


def _residues(x: Float[Tensor, "B H N E"], dilation: int) -> Float[Tensor, "R H M E"]:
    """Every dilation-th position, from the first, the second ...: R = B * dilation rows."""
    if dilation == 1:
        return x
    blocks = to_blocks(x, dilation)  # (B, H, M, dilation, E)
    return blocks.permute(0, 3, 1, 2, 4).flatten(0, 1)


def _together(x: Float[Tensor, "R H M E"], dilation: int, length: int) -> Float[Tensor, "B H N E"]:
    """The inverse of `_residues`."""
    if dilation == 1:
        return x
    return from_blocks(x.unflatten(0, (-1, dilation)).permute(0, 2, 3, 1, 4), length)


def _for_residues(shared: Shared, dilation: int) -> Shared:
    if dilation == 1:
        return shared
    parts = (part.repeat_interleave(dilation, dim=0) for part in (shared.keys, shared.values, shared.seen))
    return Shared(*parts)


# --- FlexAttention ----------------------------------------------------------------------------------


def flex_serves(queries: Float[Tensor, "B H N E"], dropout: float) -> bool:
    """Whether FlexAttention has a kernel for these: on CUDA, of no double precision, narrow heads or dropout."""
    return queries.is_cuda and not dropout and queries.size(-1) >= 16 and queries.dtype != torch.float64


def flexible(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    pattern: Pattern,
    shared: Shared,
) -> Float[Tensor, "B H N E"]:
    """`window_attention` through FlexAttention: compiled on CUDA, elsewhere step by step and dense, for tests.

    Lengths are a score function, so that one block mask serves all rows of a length, and it is kept.
    """
    length, count = queries.size(2), shared.keys.size(2)
    extra = -length % FLEX_BLOCK  # few sizes: few masks, and few compilations
    queries, keys, values = (F.pad(part, (0, 0, 0, extra)) for part in (queries, keys, values))
    keys, values = torch.cat((shared.keys, keys), dim=2), torch.cat((shared.values, values), dim=2)
    inside = torch.arange(length + extra, device=lengths.device) < lengths[:, None]
    real = torch.cat((shared.seen, inside), dim=1)  # (B, G + N)

    mixed = _flex(queries.device.type)(
        queries,
        keys,
        values,
        score_mod=lambda score, row, head, query, key: torch.where(
            real[row, key] | (key - count == query), score, -torch.inf
        ),
        block_mask=block_mask(pattern, length + extra, queries.device),
    )
    return mixed[:, :, :length]


@functools.lru_cache(maxsize=64)
def block_mask(pattern: Pattern, length: int, device: torch.device) -> BlockMask:
    """Which blocks of keys each block of queries needs; on CUDA without an N x N tensor on the way. It is kept, and so
    made outside of inference mode: training may be the next to use it."""
    num_keys, compiled = pattern.shared + length, device.type == "cuda"
    with torch.inference_mode(False):
        return create_block_mask(
            pattern.mask_function(), None, None, length, num_keys, device, FLEX_BLOCK, _compile=compiled
        )


@functools.cache
def _flex(device: str) -> Callable[..., Tensor]:
    return torch.compile(flex_attention) if device == "cuda" else flex_attention  # type: ignore[return-value]
