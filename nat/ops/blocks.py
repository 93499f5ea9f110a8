"""Sequences cut into blocks, and attention from each block of queries to the keys that are gathered for it.

A block's queries share their keys, so that all of it is matrix products of a few sizes: C blocks of W positions cost
C W K instead of N N, where K is the number of keys that a block sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.precision import at_least_float32


def to_blocks(x: Float[Tensor, "B H N E"], width: int) -> Float[Tensor, "B H C W E"]:
    """Blocks of `width` positions, zeros after the end. Makes no copy where the width divides a projection's output."""
    lying = x.transpose(1, 2)  # (B, N, H, E): heads are side by side in memory
    if missing := -lying.size(1) % width:
        lying = F.pad(lying, (0, 0, 0, 0, 0, missing))
    return lying.unflatten(1, (-1, width)).permute(0, 3, 1, 2, 4)


def from_blocks(blocks: Float[Tensor, "B H C W E"], length: int) -> Float[Tensor, "B H N E"]:
    """The first `length` positions of the blocks in a row: the inverse of `to_blocks`."""
    return blocks.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length].transpose(1, 2)


def side_by_side(parts: Sequence[Float[Tensor, "B H C _ E"]]) -> Float[Tensor, "B H C K E"]:
    """For each block, all the keys that the parts give it."""
    return torch.cat([part.permute(0, 2, 3, 1, 4) for part in parts], dim=2).permute(0, 3, 1, 2, 4)


def neighbourhoods(blocks: Float[Tensor, "B H C W E"], reach: int) -> list[Float[Tensor, "B H C W E"]]:
    """For each block, those `reach` blocks before it to `reach` blocks after it; zeros beyond either end."""
    if not reach:
        return [blocks]
    count = blocks.size(2)
    lying = F.pad(blocks.permute(0, 2, 3, 1, 4), (0, 0, 0, 0, 0, 0, reach, reach))  # (B, C + 2 reach, W, H, E)
    padded = lying.permute(0, 3, 1, 2, 4)
    return [padded[:, :, start : start + count] for start in range(2 * reach + 1)]


def attend(
    queries: Float[Tensor, "B H L E"],
    keys: Float[Tensor, "B H K E"],
    values: Float[Tensor, "B H K E"],
    seen: Bool[Tensor, "#B #H #L K"] | None = None,
    *,
    dropout: float = 0.0,
    causal: bool = False,
) -> Float[Tensor, "B H L E"]:
    """softmax(Q K^T / sqrt(E)) V, where weights of what is not seen are zero; every query must see one key at least.
    On CPU weights and sums are at least float32. dropout: on the weights. causal: no query sees later keys."""
    with torch.autocast("cpu", enabled=False):
        if queries.device.type == "cpu":  # its fused kernel is several times slower in bf16 than in fp32
            queries, keys, values = (at_least_float32(part) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, dropout_p=dropout, is_causal=causal
        )


def attend_blocks(
    queries: Float[Tensor, "B H C W E"],
    keys: Float[Tensor, "B H C K E"],
    values: Float[Tensor, "B H C K E"],
    seen: Bool[Tensor, "#B #H C #W K"],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "B H C W E"]:
    """`attend` from each block's queries to that block's keys; every query must see one key at least."""
    batch, heads, count = queries.shape[:3]
    seen = seen.expand(batch, *seen.shape[1:])
    if seen.size(1) > 1:  # every head has its own: the blocks stand where heads stood, and no mask is repeated
        q, k, v, mask = (part.flatten(0, 1) for part in (queries, keys, values, seen))
        return attend(q, k, v, mask, dropout=dropout).unflatten(0, (batch, heads))
    q, k, v, mask = (part.transpose(1, 2).flatten(0, 1) for part in (queries, keys, values, seen))  # (B C, H, ...)
    return attend(q, k, v, mask, dropout=dropout).unflatten(0, (batch, count)).transpose(1, 2)


def row_lengths(x: Float[Tensor, "B H N E"], valid: Bool[Tensor, "B N"] | None) -> Int[Tensor, " B"]:
    """Tokens of each row, which stand first; of a row without one, the first column counts, so that there is something
    to look at."""
    if valid is None:
        return torch.full((x.size(0),), x.size(2), device=x.device)
    return valid.sum(dim=1).clamp(min=1)
