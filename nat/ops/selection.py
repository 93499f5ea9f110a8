"""A given number of positions of each row: at random, or those that are least certain."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.shapes import are_fixed


def lowest(keys: Float[Tensor, "B L"], counts: Int[Tensor, " B"], valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """True at the `counts` valid positions of each row whose keys are lowest (all, where a row has fewer); of equal
    keys the left ones. Keys of uniform noise choose at random, log-probabilities choose the least confident."""
    order = keys.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    ascending = torch.arange(order.size(1), device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, ascending)
    return (rank < counts[:, None]) & valid


def random_masks(
    valid: Bool[Tensor, "B L"], share: Float[Tensor, " B"], noise: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """ceil(share n) of the n valid positions of each row, anywhere: at least one. share, noise: uniform in (0, 1)."""
    size = valid.sum(dim=1)
    return lowest(noise, ((share * size).long() + 1).minimum(size), valid)


def dense_ranks(keys: Int[Tensor, "B L"], where: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Of each position `where`, the number of different keys of its row up to its own, from 1; 0 elsewhere."""
    ordered, order = keys.masked_fill(~where, torch.iinfo(keys.dtype).max).sort(dim=1)
    new = torch.ones_like(where)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(order).scatter_(1, order, new.cumsum(dim=1)).masked_fill(~where, 0)


def random_subset(
    valid: Bool[Tensor, "B L"], share: Float[Tensor, " B"], noise: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """k of the n valid positions of each row, anywhere; k is uniform in 0 .. n. share, noise: uniform in (0, 1)."""
    size = valid.sum(dim=1)
    return lowest(noise, (share * (size + 1)).long().minimum(size), valid)


def packed(where: Bool[Tensor, "B L"], *tensors: Tensor) -> tuple[Tensor, ...]:
    """(where, *tensors) as rows (N, ...) of the positions alone that are True.

    All positions, False ones too, where shapes are fixed (nat/ops/shapes.py). So who sums over them still masks.
    """
    if are_fixed(where):
        return where.flatten(), *(tensor.flatten(0, 1) for tensor in tensors)
    index = where.flatten().nonzero().squeeze(1)
    return torch.ones_like(index, dtype=torch.bool), *(tensor.flatten(0, 1)[index] for tensor in tensors)


def unpacked(where: Bool[Tensor, "B L"], values: Tensor, otherwise: Tensor) -> Tensor:
    """(B, L): `values` of the rows that `packed` gave at the positions `where`, `otherwise` (B, L) at the others."""
    if len(values) == where.numel():
        return values.view_as(where).where(where, otherwise)
    return otherwise.masked_scatter(where, values)


def to_the_left(
    keep: Bool[Tensor, "B L"], tokens: Int[Tensor, "B L"], *, pad: int
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """The tokens that are kept, in their order and right-padded, and where they are. As wide as before: how long the
    longest row is, the device need not be asked for."""
    width = tokens.size(1)
    place = (keep.cumsum(1) - 1).where(keep, width)  # what is dropped goes to an extra column
    kept = tokens.new_full((len(tokens), width + 1), pad).scatter(1, place, tokens)[:, :width]
    return kept, torch.arange(width, device=tokens.device) < keep.sum(1, keepdim=True)
