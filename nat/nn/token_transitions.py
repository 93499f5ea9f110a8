"""What speaks for two tokens being neighbours, as products of low rank: Sun et al. 2019, "Fast Structured Decoding for
Sequence Models", https://arxiv.org/abs/1910.11555.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.ops.precision import without_autocast


class TransitionKind(Enum):
    STATIC = "static"
    DYNAMIC = "dynamic"


class TokenTransitions(nn.Module):
    """t(u, v) = E1_u . E2_v, the same everywhere (static), or E1_u M E2_v with a matrix M that a network of one hidden
    layer makes of the states of the two positions (dynamic), and that begins as the identity."""

    @dataclass(frozen=True)
    class Config:
        kind: TransitionKind = option(TransitionKind.STATIC, "static, or dynamic: by the states of both positions")
        rank: int = option(32, "rank of the matrix of all pairs of tokens", minimum=1, maximum=4096)

    def __init__(self, config: Config, *, size: int, dim: int) -> None:
        """size: V, of the target vocabulary. dim: D."""
        super().__init__()
        self.rank = config.rank
        self.before = nn.Parameter(torch.randn(size, config.rank) * config.rank**-0.5)  # E1
        self.after = nn.Parameter(torch.randn(size, config.rank) * config.rank**-0.5)  # E2
        self.mix: nn.Sequential | None = None
        if config.kind is TransitionKind.DYNAMIC:
            last = nn.Linear(dim, config.rank**2)
            with torch.no_grad():
                last.weight.mul_(0.1)
                last.bias.copy_(torch.eye(config.rank).flatten())
            self.mix = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), last)

    def forward(self, tokens: Int[Tensor, "B L K"], states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L1 K K"]:
        """Of each candidate of a position before each one of the next position. states: of the decoder."""
        before, after = F.embedding(tokens[:, :-1], self.before), F.embedding(tokens[:, 1:], self.after)
        if self.mix is not None:
            mixed = self.mix(torch.cat((states[:, :-1], states[:, 1:]), dim=-1))
            matrices = mixed.unflatten(-1, (self.rank, self.rank)).to(before.dtype)
        with without_autocast(states):
            if self.mix is not None:
                before = before @ matrices
            return before @ after.transpose(-1, -2)
