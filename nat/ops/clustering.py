"""Attention inside balanced clusters of queries and keys.

Roy et al. 2020, section 4.1 and algorithm 1, https://arxiv.org/abs/2003.05997. K clusters of W positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.partition import gather_slots, scatter_slots
from nat.ops.precision import at_least_float32, without_autocast


@torch.no_grad()
def similarities(x: Float[Tensor, "B H N E"], centroids: Float[Tensor, "H K E"]) -> Float[Tensor, "B H K N"]:
    """Scalar products; of vectors of one length, the nearest to a centroid has the largest."""
    x = at_least_float32(x)
    with without_autocast(x):
        return centroids.to(x.dtype) @ x.transpose(2, 3)


@torch.no_grad()
def members(scores: Float[Tensor, "B H K N"], valid: Bool[Tensor, "B N"], *, size: int) -> Int[Tensor, "B H K W"]:
    """The W = size positions that are closest to each centroid, the closest first, tokens before padding."""
    return scores.masked_fill(~valid[:, None, None], -torch.inf).topk(size, dim=-1).indices


@torch.no_grad()
def cluster_sums(
    x: Float[Tensor, "B H N E"],
    scores: Float[Tensor, "B H K N"],
    centroids: Float[Tensor, "H K E"],
    valid: Bool[Tensor, "B N"],
    used: Bool[Tensor, "B K"],
) -> tuple[Float[Tensor, "H K E"], Float[Tensor, "H K"]]:
    """Sum and number of the vectors whose nearest centroid it is; scores: `similarities`, used: clusters of a row."""
    distances = 0.5 * centroids.to(scores.dtype).square().sum(dim=-1)[:, :, None] - scores
    nearest = distances.masked_fill(~used[:, None, :, None], torch.inf).argmin(dim=2)  # (B, H, N)
    numbers = torch.arange(centroids.size(1), device=x.device)[:, None]
    chosen = ((nearest[:, :, None] == numbers) & valid[:, None, None]).to(scores.dtype)  # (B, H, K, N)
    with without_autocast(x):
        return (chosen @ x.to(scores.dtype)).sum(dim=0), chosen.sum(dim=(0, 3))


def clustered_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    asking: Int[Tensor, "B H K W"],
    seen: Int[Tensor, "B H K W"],
    used: Bool[Tensor, "B K W"],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Each cluster's queries look at the cluster's keys. A position in several clusters gets the mean, one in none 0.

    asking, seen: the positions of each cluster's queries and keys. used: the slots that hold one; a cluster of a row
    uses all or the first ones, and all clusters that are used as many.
    """
    length = queries.size(2)
    with without_autocast(queries):
        if queries.device.type == "cpu":  # as in full attention
            values = at_least_float32(values)
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        asked, looked, taken = (
            gather_slots(x, at).flatten(0, 1) for x, at in ((queries, asking), (keys, seen), (values, seen))
        )
        mask = used[:, :1].repeat_interleave(queries.size(1), dim=0)[:, :, None]  # (B H, 1, 1, W)
        mixed = F.scaled_dot_product_attention(asked, looked, taken, attn_mask=mask, dropout_p=dropout)
        mixed = mixed.view(*asking.shape, -1).masked_fill(~used[:, None, :, :, None], 0.0)
        times = scatter_slots(used[:, None, :, :, None].expand(*asking.shape, 1).to(mixed.dtype), asking, length=length)
        return (scatter_slots(mixed, asking, length=length) / times.clamp(min=1)).to(values.dtype)
