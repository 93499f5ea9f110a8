"""Strided attention (Child et al. 2019, section 4.2, https://arxiv.org/abs/1904.10509)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import SelfAttention
from nat.ops.blocks import row_lengths
from nat.ops.strided import strided_attention
from nat.ops.window import window_attention


class StridedAttention(SelfAttention):
    """Some heads see a window, the others every position that is a multiple of the stride away: two layers lead from
    any position to any other. With the usual stride, time and memory are N^1.5.

    Departs from the paper: nothing is causal, a window reaches to both sides; its width is an option of its own (the
    paper's is the stride); the usual stride, near the square root of the length, is that of each row's own length.
    """

    @dataclass(frozen=True)
    class Config:
        stride: int | None = option(
            None,
            "distance of the positions that strided heads see; null: the square root of the row's length",
            minimum=1,
            maximum=1_000_000,
        )
        window: int = option(64, "positions that local heads see to each side", minimum=1, maximum=1_000_000)
        num_local_heads: int | None = option(
            None, "heads that see a window; null: half of them", minimum=1, maximum=4096
        )
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        """Raises ConfigError where one of the two kinds of heads would be missing."""
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if num_heads < 2:
            raise ConfigError(f"num_heads={num_heads}: strided attention needs 2 at least, local and strided heads")
        self.config = config
        self.num_local = num_heads // 2 if config.num_local_heads is None else config.num_local_heads
        if self.num_local >= num_heads:
            raise ConfigError(f"attention.num_local_heads={self.num_local}: must be less than num_heads={num_heads}")

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        config, lengths = self.config, row_lengths(queries, valid)
        dropout = config.dropout if self.training else 0.0
        (q, far_q), (k, far_k), (v, far_v) = (self._groups(part) for part in (queries, keys, values))
        near = window_attention(q, k, v, lengths, window=config.window, dropout=dropout)
        far = strided_attention(far_q, far_k, far_v, lengths, stride=config.stride, dropout=dropout)
        return torch.cat((near, far), dim=1)

    def _groups(self, x: Float[Tensor, "B H N E"]) -> list[Tensor]:
        """Local heads, strided heads."""
        return list(x.split([self.num_local, self.num_heads - self.num_local], dim=1))
