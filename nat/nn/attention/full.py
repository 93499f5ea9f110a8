"""Softmax attention over all positions (Vaswani et al. 2017, section 3.2, https://arxiv.org/abs/1706.03762)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nat.config import option
from nat.nn.attention.base import HeadAttention
from nat.ops.blocks import attend
from nat.ops.precision import at_least_float32


class FullAttention(HeadAttention):
    """Multi-head attention through `scaled_dot_product_attention`."""

    @dataclass(frozen=True)
    class Config:
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    static = True

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.dropout = config.dropout

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        if context is x:
            queries, keys, values = self.project(x)
        else:
            queries = self.queries(x)
            keys, values = self.keys_values(context)
        return self.attend(queries, keys, values, valid)

    def queries(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L E"]:
        inner = self.num_heads * self.head_dim
        return self.split(F.linear(x, self.project_in.weight[:inner], self.project_in.bias[:inner]))

    def keys_values(self, context: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"]]:
        """Keys and values of a context: decoders that take many steps compute them once."""
        inner = self.num_heads * self.head_dim
        both = F.linear(context, self.project_in.weight[inner:], self.project_in.bias[inner:])
        keys, values = both.chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def attend(
        self,
        queries: Float[Tensor, "B H L E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
        *,
        causal: bool = False,
    ) -> Float[Tensor, "B L D"]:
        mask = None if valid is None else valid[:, None, None, :]
        return self.merge(self.mix(queries, keys, values, mask, causal=causal))

    def mix(
        self,
        queries: Float[Tensor, "B H L E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        mask: Bool[Tensor, "#B 1 #L N"] | None,
        *,
        causal: bool = False,
    ) -> Float[Tensor, "B H L E"]:
        """Softmax-weighted values of each head. mask: True where a query may look, at one key at least."""
        dropout = self.dropout if self.training else 0.0
        return attend(queries, keys, values, mask, dropout=dropout, causal=causal)

    def weights(
        self, queries: Float[Tensor, "B H L E"], keys: Float[Tensor, "B H N E"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B H L N"]:
        """softmax(Q K^T / sqrt(E)) of each head, what `attend` mixes by; every row has a valid key at least."""
        scores = at_least_float32(queries @ keys.transpose(2, 3)) / math.sqrt(queries.size(-1))
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
        return scores.softmax(dim=-1)


class CausalAttention(FullAttention):
    """Self-attention in which a position sees itself and what stands before it.

    Padding must be on the right: then causality alone hides it from every valid position.
    """

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "causal attention is self-attention"
        queries, keys, values = self.project(x)
        return self.attend(queries, keys, values, None, causal=True)

    def step(
        self,
        x: Float[Tensor, "B K D"],
        past: Float[Tensor, "B R I"],
        seen: Bool[Tensor, "B 1 K P"] | None,
        *,
        used: int,
    ) -> Float[Tensor, "B K D"]:
        """One new position of each of K sequences. past: keys and values of what was before, side by side, in its first
        `used` rows; those of the new positions are written after them. seen: which of these P = used + K each new
        position sees; None: all."""
        queries, both = self.project_in(x).split([self.num_heads * self.head_dim, past.size(2)], dim=-1)
        end = used + x.size(1)
        past[:, used:end] = both
        keys, values = past[:, :end].chunk(2, dim=-1)
        return self.merge(self.mix(self.split(queries), self.split(keys), self.split(values), seen))
