"""Copies of the source that a single-pass decoder reads: by fertility, uniform, soft.

Gu et al. 2018, "Non-Autoregressive Neural Machine Translation", sections 3.2 and 3.3,
https://arxiv.org/abs/1711.02281 (by fertility, uniform); Li et al. 2019, https://arxiv.org/abs/1909.06708, and
Wei et al. 2019, https://arxiv.org/abs/1906.02041 (soft).

Canvases are right-padded, and as wide as the longest row and at least 1, where no width is given: reading it is the
only synchronisation with the device.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def copy_by_fertility(
    fertilities: Int[Tensor, "B S"], *, width: int | None = None
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Source position i stands f_i times on the canvas, in order: L = max over the rows of sum_i f_i.

    fertilities: at least 0, and 0 at padding (on whatever side it is). width: columns L, if known. Returns (index,
    valid): the source position that each canvas position copies, 0 where it is not valid.
    """
    ends = fertilities.cumsum(dim=1)  # canvas position at which the copies of i have ended
    valid = _canvas(ends[:, -1], width)
    positions = torch.arange(valid.size(1), device=ends.device).expand_as(valid).contiguous()
    index = torch.searchsorted(ends, positions, right=True)  # the number of source positions that have ended
    return index.masked_fill(~valid, 0), valid


def cut_fertilities(
    fertilities: Int[Tensor, "B S"], limits: Int[Tensor, " B"]
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, " B"]]:
    """Fertilities of the canvas's first `limits` positions, and which rows had more of them."""
    ends = fertilities.cumsum(dim=1)
    kept = torch.minimum(ends, limits[:, None]).diff(dim=1, prepend=ends.new_zeros(len(ends), 1))
    return kept, ends[:, -1] > limits


def uniform_copy(
    source_lengths: Int[Tensor, " B"], target_lengths: Int[Tensor, " B"], *, width: int | None = None
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Target position j copies source position round(j S / T), both counted from 1, halves up, at least 1.

    Source lengths are at least 1. width: columns L, if known. Returns (index, valid): the source position, counted
    from 0, that each canvas position copies, 0 where it is not valid.
    """
    valid = _canvas(target_lengths, width)
    sources, targets = source_lengths[:, None], target_lengths[:, None].clamp(min=1)
    ordinals = torch.arange(1, valid.size(1) + 1, device=valid.device)
    # In whole numbers: a quotient in floating point would round halves up or down by chance.
    rounded = (2 * ordinals * sources + targets) // (2 * targets)  # (B, L)
    return (rounded - 1).clamp(min=0).masked_fill(~valid, 0), valid


def soft_copy(
    source_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    source_width: int,
    tau: float,
    width: int | None = None,
) -> tuple[Float[Tensor, "B L S"], Bool[Tensor, "B L"]]:
    """Target position j reads sum_i w_ji x_i with w_j = softmax_i(-|i - j S / T| / tau), counted from 1.

    The centre j S / T is that of `uniform_copy`, to which this tends as tau falls to 0; Wei et al. 2019 put it at j,
    Li et al. 2019 square the distance. source_width: columns S of the source's tensors, right-padded; tau: a positive
    number of source positions; width: columns L, if known. Returns (weights, valid): weights in float64, to be cast to
    the type of x, 0 at the padding of either side.
    """
    valid = _canvas(target_lengths, width)
    ordinals = torch.arange(1, valid.size(1) + 1, device=valid.device)
    centres = (ordinals * source_lengths[:, None]).double() / target_lengths[:, None].clamp(min=1)  # (B, L)
    positions = torch.arange(1, source_width + 1, device=valid.device)
    # A row's centre lies on its source: the nearest position keeps the softmax from 0 / 0.
    distances = (positions - centres[:, :, None]).abs()  # (B, L, S)
    outside = positions > source_lengths[:, None, None]
    weights = torch.softmax((-distances / tau).masked_fill(outside, -torch.inf), dim=-1)
    return weights.masked_fill(~valid[:, :, None], 0.0), valid


def _canvas(lengths: Tensor, width: int | None = None) -> Tensor:
    """Validity (B, L) of canvases of these lengths."""
    width = max([1, *lengths.tolist()]) if width is None else width
    return torch.arange(width, device=lengths.device) < lengths[:, None]
