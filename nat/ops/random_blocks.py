"""Block-sparse attention with a window of blocks and random blocks (Zaheer et al. 2020, appendix D)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.blocks import attend_blocks, from_blocks, neighbourhoods, to_blocks
from nat.ops.window import Shared


def random_blocks(
    uniform: Float[Tensor, "H C R"], counts: Int[Tensor, " B"], *, reach: int, first: int
) -> tuple[Int[Tensor, "B H C R"], Bool[Tensor, "B H C R"]]:
    """R different blocks for each block of each row, none of the `reach` to each side of it and none of the `first`,
    each such set as probable as any other; and which of them there are, where a row has fewer.

    uniform: numbers in (0, 1). counts: blocks of each row.
    """
    own = torch.arange(uniform.size(1), device=counts.device)  # (C)
    ends = counts[:, None]
    low = torch.minimum((own - reach).clamp(min=first), ends.clamp(min=first))  # (B, C): the window, as far as
    high = torch.minimum((own + reach + 1).clamp(min=first), ends.clamp(min=first))  # it is no part of the first
    eligible = ((ends - first).clamp(min=0) - (high - low))[:, None]  # (B, 1, C)
    picked: list[Tensor] = []
    for r in range(uniform.size(2)):  # the drawn one of those not drawn before
        drawn = (uniform[:, :, r] * (eligible - r).clamp(min=0)).long()  # (B, H, C)
        for earlier in torch.stack(picked, dim=-1).sort(dim=-1).values.unbind(dim=-1) if picked else ():
            drawn = drawn + (drawn >= earlier)
        picked.append(drawn)
    number = torch.stack(picked, dim=-1)
    there = torch.arange(uniform.size(2), device=counts.device) < eligible[..., None]
    blocks = number + first
    blocks = blocks + (blocks >= low[:, None, :, None]) * (high - low)[:, None, :, None]
    there = there.expand_as(blocks)
    return blocks.masked_fill(~there, 0), there


def random_block_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    width: int,
    reach: int,
    uniform: Float[Tensor, "H C R"],
    shared: Shared,
    skip: int,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Each position's softmax over its block, `reach` blocks to each side, the random blocks, all without the first
    `skip` positions, and over the shared keys.

    lengths: tokens of each row. width: positions of a block. uniform: numbers in (0, 1) for each block of the padded
    sequence. dropout: on the weights.
    """
    blocks, key_blocks, value_blocks = (to_blocks(part, width).contiguous() for part in (queries, keys, values))
    batch, heads, count = blocks.shape[:3]
    reach = min(reach, count - 1)
    chosen, there = random_blocks(uniform, -(-lengths // width), reach=reach, first=skip // width)
    own = torch.arange(count, device=lengths.device)[:, None]
    beside = own + torch.arange(-reach, reach + 1, device=lengths.device)  # (C, 2 reach + 1)
    seen_blocks = torch.cat((beside.expand(batch, heads, -1, -1), chosen), dim=-1)  # (B, H, C, J)
    places = seen_blocks[..., None] * width + torch.arange(width, device=lengths.device)  # (B, H, C, J, W)
    there = torch.cat((torch.ones_like(seen_blocks[..., : 2 * reach + 1], dtype=torch.bool), there), dim=-1)
    seen = there[..., None] & (places >= skip) & (places < lengths[:, None, None, None, None])
    common = shared.seen[:, None, None].expand(-1, heads, count, -1)
    seen = torch.cat((common, seen.flatten(3)), dim=-1)  # (B, H, C, G + J W)
    mixed = attend_blocks(
        blocks,
        _gathered(shared.keys, key_blocks, reach, chosen),
        _gathered(shared.values, value_blocks, reach, chosen),
        (seen | ~seen.any(dim=-1, keepdim=True))[:, :, :, None],  # padding may see nothing else
        dropout=dropout,
    )
    return from_blocks(mixed, queries.size(2))


def _gathered(
    shared: Float[Tensor, "B H G E"], blocks: Float[Tensor, "B H C W E"], reach: int, chosen: Int[Tensor, "B H C R"]
) -> Float[Tensor, "B H C K E"]:
    """For each block: the shared ones, its neighbourhood, the chosen blocks."""
    batch, heads, count = blocks.shape[:3]
    starts = torch.arange(batch * heads, device=chosen.device).view(batch, heads, 1, 1) * count
    random = blocks.flatten(0, 2)[(chosen + starts).flatten(2)]  # (B, H, C R, W, E)
    random = random.unflatten(2, (count, -1)).flatten(3, 4)
    common = shared[:, :, None].expand(-1, -1, count, -1, -1)
    return torch.cat((common, *neighbourhoods(blocks, reach), random), dim=3)
