"""Precision of sums, logarithms and choices."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """bf16 and fp16 -> float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> torch.autocast:
    """In it products on the device of x have the precision of what is multiplied: where thousands are summed, or where
    a rounded one would choose another bucket or neighbour."""
    return torch.autocast(x.device.type, enabled=False)


def as_multiplied(x: Tensor) -> Tensor:
    """x as products read it: under autocast rounded once, here, instead of before each of them. With gradients, whose
    sums would be rounded too, x as it is."""
    kind = x.device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))
