"""Softmax attention to a window around each position.

Truncated self-attention; the sliding window of Beltagy et al. 2020, section 3.1, https://arxiv.org/abs/2004.05150.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from nat.config import option
from nat.nn.attention.base import SelfAttention
from nat.ops.blocks import row_lengths
from nat.ops.window import window_attention


class LocalAttention(SelfAttention):
    """A position sees itself and the `window` positions to each side of it. Time and memory: N * window."""

    @dataclass(frozen=True)
    class Config:
        window: int = option(64, "positions that are seen to each side", minimum=1, maximum=1_000_000)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        dropout = self.config.dropout if self.training else 0.0
        lengths = row_lengths(queries, valid)
        return window_attention(queries, keys, values, lengths, window=self.config.window, dropout=dropout)
