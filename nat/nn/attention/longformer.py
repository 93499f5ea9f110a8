"""The mix of heads of the Longformer (Beltagy et al. 2020, section 3.1, https://arxiv.org/abs/2004.05150)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import HeadAttention
from nat.ops.blocks import row_lengths
from nat.ops.global_tokens import attend_from_first, with_first
from nat.ops.window import window_attention


class LongformerAttention(HeadAttention):
    """Windows, in some heads dilated, and global tokens with projections of their own ("Linear projections for global
    attention"). Time and memory: N * (window + global tokens).

    Departs from the paper: the first tokens are the global ones, for a translation has no task to choose them by; their
    projections begin with random numbers of their own, not with those of the others. Windows and dilations that differ
    between layers are made with the kind `layered`.
    """

    @dataclass(frozen=True)
    class Config:
        window: int = option(
            64, "positions that are seen to each side; in dilated heads, so many steps", minimum=1, maximum=1_000_000
        )
        dilation: int = option(2, "step between the positions that a dilated head sees", minimum=2, maximum=1_000_000)
        num_dilated_heads: int | None = option(
            None, "heads whose windows are dilated; null: half of them", minimum=1, maximum=4096
        )
        num_tokens: int = option(1, "the sequence's first tokens that are global", minimum=1, maximum=1_000_000)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        """Raises ConfigError if there are more dilated heads than heads."""
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        dilated = num_heads // 2 if config.num_dilated_heads is None else config.num_dilated_heads
        if dilated > num_heads:
            raise ConfigError(f"attention.num_dilated_heads={dilated}: must be at most num_heads={num_heads}")
        self.config, self.num_plain = config, num_heads - dilated
        self.project_global = nn.Linear(dim, 3 * self.num_heads * self.head_dim)  # queries, keys, values

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "this kind of attention is self-attention"
        queries, keys, values = self.project(x)
        lengths = row_lengths(queries, valid)
        rows = self.global_rows(x, lengths)
        windowed = self.windows(queries, keys, values, lengths)
        return self.merge(torch.cat((rows, windowed[:, :, rows.size(2) :]), dim=2))

    def global_rows(self, x: Float[Tensor, "B N D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B H G E"]:
        """What the global tokens take from all of the sequence."""
        weight, bias, inner = self.project_global.weight, self.project_global.bias, self.num_heads * self.head_dim
        queries = self.split(F.linear(x[:, : self.config.num_tokens], weight[:inner], bias[:inner]))
        keys, values = (self.split(part) for part in F.linear(x, weight[inner:], bias[inner:]).chunk(2, dim=-1))
        return attend_from_first(queries, keys, values, lengths, dropout=self.dropout)

    def windows(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B H N E"]:
        """What each position takes from its window and the global tokens, plain heads before dilated ones."""
        config, first = self.config, self.config.num_tokens
        shared = with_first(keys, values, lengths, first=first, extra=None)
        windowed = []
        for heads, dilation in ((slice(0, self.num_plain), 1), (slice(self.num_plain, None), config.dilation)):
            q, k, v = (part[:, heads] for part in (queries, keys, values))
            pattern = {"window": config.window, "dilation": dilation, "skip": first}
            if q.size(1):
                common = shared.of_heads(heads)
                windowed.append(window_attention(q, k, v, lengths, shared=common, dropout=self.dropout, **pattern))
        return torch.cat(windowed, dim=1)

    @property
    def dropout(self) -> float:
        return self.config.dropout if self.training else 0.0
