"""Closed sequences of points: rotations, the successor of each point, and reading one from scores of successors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.shapes import nothing_in


def from_lowest(tokens: Int[Tensor, "*B T"], valid: Bool[Tensor, "*B T"]) -> Int[Tensor, "*B T"]:
    """The rotation of each row's valid tokens, its first ones, that begins with the lowest; padding stays."""
    high = torch.iinfo(tokens.dtype).max
    return rotate(tokens, valid, tokens.masked_fill(~valid, high).argmin(dim=-1))


def rotate(tokens: Int[Tensor, "*B T"], valid: Bool[Tensor, "*B T"], start: Int[Tensor, "*B"]) -> Int[Tensor, "*B T"]:
    """Each row's valid tokens, its first ones, from place `start` on and around; padding stays."""
    columns = torch.arange(tokens.size(-1), device=tokens.device)
    lengths = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    turned = tokens.gather(-1, (columns + start[..., None]) % lengths)
    return torch.where(valid, turned, tokens)


def successors(points: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"], *, count: int) -> Int[Tensor, "B S"]:
    """The point after each of `count` points on a closed sequence that has each once at most, -1 for those that it has
    not. valid: the first ones of each row."""
    after = rotate(points, valid, torch.ones_like(points[:, 0]))
    following = points.new_full((len(points), count + 1), -1)  # the last column takes the padding
    return following.scatter(1, points.masked_fill(~valid, count), after)[:, :count]


def follow(
    log_probs: Float[Tensor, "B S C"],
    valid: Bool[Tensor, "B S"],
    pick: Callable[[Float[Tensor, "B S"], int], Int[Tensor, " B"]],
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """A closed sequence of points that has each once at most, and which of its places are valid.

    log_probs: for each point, of having no successor (class 0) and of having point j (class 1 + j). It begins at the
    valid point least likely to have none. pick: log-probabilities of the points that may follow (-inf: may not) and
    the step's number -> the one that does; they are those not met yet, and the first, which closes it.
    """
    num_rows, count = valid.shape
    first = log_probs[:, :, 0].masked_fill(~valid, torch.inf).argmin(dim=1)  # (B,)
    points, on = torch.zeros_like(valid, dtype=torch.long), torch.zeros_like(valid)
    open_points, closed = valid.clone(), torch.zeros(num_rows, dtype=torch.bool, device=valid.device)
    current = first
    for step in range(count):
        points[:, step], on[:, step] = current.masked_fill(closed, 0), ~closed
        open_points.scatter_(1, current[:, None], False)
        may_follow = open_points.scatter(1, first[:, None], True)
        row = log_probs.gather(1, current[:, None, None].expand(-1, 1, log_probs.size(2))).squeeze(1)[:, 1:]
        following = pick(row.masked_fill(~may_follow, -torch.inf), step)
        closed = closed | (following == first)
        if nothing_in(~closed):
            break
        current = torch.where(closed, first, following)
    longest = int(on.sum(dim=1).max())
    return points[:, :longest], on[:, :longest]
