"""Dropout (Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html), cheap on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 1 << 16  # a number of 16 bits decides of each entry


class Dropout(nn.Module):
    """Each entry is 0 with probability `rate`, else divided by the probability of being kept.

    On a CPU four masks are cut from one random number of 64 bits, which takes half of the time of `nn.Dropout`; the
    rate is rounded to a multiple of 2^-16, and the scale is that of the rounded rate, so that means are exact. On a
    GPU and in compiled code it is torch's own.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or self.rate == 0.0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.dropout(x, self.rate)
        dropped = round(self.rate * STEPS)
        if dropped == STEPS:
            return torch.zeros_like(x)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = numbers.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (numbers >= dropped - STEPS // 2).to(x.dtype).mul_(STEPS / (STEPS - dropped))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
