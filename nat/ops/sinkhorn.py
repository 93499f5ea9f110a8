"""Soft permutations by Sinkhorn normalisation, and attention to blocks that they sort.

Tay et al. 2020, sections 3 and 4, https://arxiv.org/abs/2002.11296. K blocks of W positions at most.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.partition import gather_slots, scatter_slots
from nat.ops.precision import at_least_float32, without_autocast

NEVER = -1e9  # instead of -inf, so that softmax and cumulated sums of nothing else are finite


def sinkhorn(
    scores: Float[Tensor, "*B K K"], allowed: Bool[Tensor, "*B K K"], *, iterations: int, causal: bool = False
) -> Float[Tensor, "*B K K"]:
    """exp(scores), its columns and then its rows divided by their sums, again and again; 0 where not allowed.

    So rows, blocks to be filled, are weights of the blocks that fill them. A row of which nothing is allowed stays 0.
    causal: a column's sum goes down to the row itself, so that no row depends on those below it.
    """
    logs = at_least_float32(scores).masked_fill(~allowed, NEVER)
    for _ in range(iterations):
        total = logs.logcumsumexp(dim=-2) if causal else logs.logsumexp(dim=-2, keepdim=True)
        logs = (logs - total).masked_fill(~allowed, NEVER)
        logs = (logs - logs.logsumexp(dim=-1, keepdim=True)).masked_fill(~allowed, NEVER)
    return logs.exp()


def block_means(
    x: Float[Tensor, "B N D"], positions: Int[Tensor, "B K W"], inside: Bool[Tensor, "B K W"]
) -> Float[Tensor, "B K D"]:
    """The mean of each block's vectors; of an empty one 0."""
    slots = gather_slots(x[:, None], positions[:, None])[:, 0].masked_fill(~inside[..., None], 0.0)
    return slots.sum(dim=2) / inside.sum(dim=2).clamp(min=1)[..., None]


def means_up_to(x: Float[Tensor, "B N D"], positions: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """The mean of all vectors up to each of these positions, itself included."""
    sums = at_least_float32(x).cumsum(dim=1)
    return (sums.gather(1, positions[..., None].expand(-1, -1, x.size(-1))) / (positions + 1)[..., None]).to(x.dtype)


def sorted_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    order: Float[Tensor, "B H K K"],
    positions: Int[Tensor, "B K W"],
    inside: Bool[Tensor, "B K W"],
    *,
    causal: bool = False,
    first: int | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Each block's queries look at their own block and at the block that is sorted to its place, in one softmax.

    order: weights of the blocks (columns) that fill each place (rows). positions, inside: the slots of each block, in
    order (see `nat.ops.partition`). A slot of a sorted block counts by the weight of the blocks that have it, as if
    it were so many keys. causal: in its own block, a position does not look ahead. first: SortCut, all queries look
    at so many sorted blocks alone. Positions outside all blocks get 0.
    """
    heads, length = queries.shape[1:3]
    at, held = positions[:, None].expand(-1, heads, -1, -1), inside[:, None, :, :, None]
    with without_autocast(queries):
        if queries.device.type == "cpu":  # as in full attention
            queries, keys, values = (at_least_float32(part) for part in (queries, keys, values))
        asking, keys, values = (gather_slots(part, at).masked_fill(~held, 0.0) for part in (queries, keys, values))
        rows = order[:, :, :first]
        moved = [(rows.to(part.dtype) @ part.flatten(3)).unflatten(-1, part.shape[3:]) for part in (keys, values)]
        weight = rows @ inside[:, None].to(rows.dtype)  # (B, H, K, W)
        bias = weight.clamp(min=1e-30).log().masked_fill(weight == 0, NEVER)[:, :, :, None]
        if first is None:
            own = _own_bias(inside, causal=causal).to(bias.dtype).expand(-1, heads, -1, -1, -1)
            bias = torch.cat((own, bias.expand(-1, -1, -1, own.size(3), -1)), dim=-1)
            keys, values = (torch.cat(pair, dim=3) for pair in zip((keys, values), moved, strict=True))
        else:
            bias = bias.flatten(2)[:, :, None, None]
            keys, values = (part.flatten(2, 3)[:, :, None] for part in moved)
            asking = asking.flatten(2, 3)[:, :, None]
        mixed = _attend(asking, keys, values, bias, dropout=dropout).reshape(*at.shape, -1)
        return scatter_slots(mixed.masked_fill(~held, 0.0), at, length=length).to(values.dtype)


def _own_bias(inside: Bool[Tensor, "B K W"], *, causal: bool) -> Float[Tensor, "B 1 K V W"]:
    """For the scores of a block's own keys; V = 1 where all its queries see the same."""
    size = inside.size(-1)
    seen = inside[:, None, :, None]
    if causal:
        seen = seen & torch.ones(size, size, dtype=torch.bool, device=inside.device).tril()
    return torch.zeros(seen.shape, device=inside.device).masked_fill(~seen, NEVER)


def _attend(
    queries: Float[Tensor, "B H K Q E"],
    keys: Float[Tensor, "B H K L E"],
    values: Float[Tensor, "B H K L E"],
    bias: Float[Tensor, "B H K #Q L"],
    *,
    dropout: float,
) -> Float[Tensor, "B H K Q E"]:
    scores = at_least_float32((queries / math.sqrt(queries.size(-1))) @ keys.transpose(3, 4)).add_(bias)
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return weights.to(values.dtype) @ values
