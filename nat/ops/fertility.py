"""Fertilities: how many target tokens each source token stands for (Gu et al. 2018, section 3.3 and 4.1,
https://arxiv.org/abs/1711.02281).

Every target token counts for exactly one source token, so that fertilities always sum to T: from word alignments,
which may leave a token without a link or give it several, and from attention weights. Rows without source tokens
have nothing to count for: they get zeros.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def from_links(
    links: Bool[Tensor, "B T S"], target_valid: Bool[Tensor, "B T"], source_valid: Bool[Tensor, "B S"]
) -> Int[Tensor, "B S"]:
    """Fertilities from alignment links, links[b, t, s] where target token t is linked to source token s.

    A target token with several links counts for the first of its sources. One without a link counts for the source
    of the nearest linked target token, the one before it if two are equally near. If a row has no link at all, its
    target tokens are spread over its source tokens by position: the t-th of T counts for source
    floor((t + 1/2) S / T). Links of padding are ignored.
    """
    links = links & target_valid[:, :, None] & source_valid[:, None, :]
    linked = links.any(dim=2)  # (B, T)
    first = links.to(torch.uint8).argmax(dim=2)  # (B, T): of equal values the first
    nearest, has_link = _nearest(linked, target_valid)
    chosen = torch.where(has_link, first.gather(1, nearest), _by_position(target_valid, source_valid))
    return _count(chosen, target_valid, source_valid)


def from_attention(
    weights: Float[Tensor, "B T S"], target_valid: Bool[Tensor, "B T"], source_valid: Bool[Tensor, "B S"]
) -> Int[Tensor, "B S"]:
    """Fertilities from attention weights: each target token counts for the valid source token of highest weight."""
    chosen = weights.masked_fill(~source_valid[:, None, :], -torch.inf).argmax(dim=2)
    return _count(chosen, target_valid, source_valid)


def _count(
    chosen: Int[Tensor, "B T"], target_valid: Bool[Tensor, "B T"], source_valid: Bool[Tensor, "B S"]
) -> Int[Tensor, "B S"]:
    """How many valid target tokens chose each source token."""
    counts = torch.zeros_like(source_valid, dtype=torch.long)
    return counts.scatter_add(1, chosen, target_valid.long()).masked_fill(~source_valid, 0)


def _nearest(linked: Bool[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The column of the linked token nearest to each token, itself if it is one, and whether its row has any."""
    width = linked.size(1)
    columns = torch.arange(width, device=linked.device).expand_as(linked)
    before = torch.where(linked, columns, -1).cummax(dim=1).values
    after = torch.where(linked, columns, width).flip(1).cummin(dim=1).values.flip(1)
    rank = valid.cumsum(dim=1)  # distances are counted in tokens: padding between them adds nothing
    far = width + 1
    to_before = torch.where(before >= 0, rank - rank.gather(1, before.clamp(min=0)), far)
    to_after = torch.where(after < width, rank.gather(1, after.clamp(max=width - 1)) - rank, far)
    nearest = torch.where(to_before <= to_after, before, after).clamp(0, width - 1)
    return nearest, linked.any(dim=1, keepdim=True).expand_as(linked)


def _by_position(target_valid: Bool[Tensor, "B T"], source_valid: Bool[Tensor, "B S"]) -> Int[Tensor, "B T"]:
    """The column of source token floor((t + 1/2) S / T) for the t-th of T target tokens."""
    num_source = source_valid.sum(dim=1, keepdim=True)
    num_target = target_valid.sum(dim=1, keepdim=True)
    rank = (target_valid.cumsum(dim=1) - 1).clamp(min=0)
    place = (2 * rank + 1) * num_source // (2 * num_target).clamp(min=1)  # whole numbers: exact everywhere
    columns = source_valid.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # valid ones first
    return columns.gather(1, place.clamp(max=source_valid.size(1) - 1))
