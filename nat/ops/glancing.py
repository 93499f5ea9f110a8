"""Glancing: which positions of the reference the decoder is shown (Qian et al. 2021, https://arxiv.org/abs/2008.07905)."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.selection import lowest


def glance(
    predicted: Int[Tensor, "B L"],
    reference: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    noise: Float[Tensor, "B L"],
    *,
    ratio: float,
) -> Bool[Tensor, "B L"]:
    """The positions to reveal: ratio times the Hamming distance between prediction and reference, rounded to the
    nearest (section 3.2, equation 4), anywhere in the row."""
    wrong = ((predicted != reference) & valid).sum(dim=1)
    return lowest(noise, (ratio * wrong + 0.5).long(), valid)
