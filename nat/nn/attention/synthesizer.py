"""Attention whose weights are not products of queries and keys (Tay et al. 2021, https://arxiv.org/abs/2005.00743).

Each has N x N weights, by its form: these kinds save the products, not the matrix.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import option
from nat.nn.attention.base import HeadAttention, within
from nat.ops.precision import at_least_float32


class Synthesizer(HeadAttention):
    """softmax(scores) V, where scores of a position are numbers for the positions 1 .. max_length of the sequence."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        max_length: int = option(512, "longest sequence; longer ones are refused", minimum=1, maximum=65536)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    max_length: int

    def __init__(
        self, config: Config, *, num_hidden: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> None:
        """num_hidden: projections of the input beside the one to values."""
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.project_in = nn.Linear(dim, (num_hidden + 1) * num_heads * self.head_dim)
        self.max_length, self.dropout = config.max_length, config.dropout

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        """Raises DataError for a sequence longer than max_length."""
        assert context is x, "this kind of attention is self-attention"
        width = x.size(1)
        x, valid = within(x, valid, self.max_length)
        *hidden, values = (self.split(part) for part in self.project_in(x).split(self.inner, dim=-1))
        scores = at_least_float32(self.scores(hidden, x.size(1)))
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], torch.finfo(scores.dtype).min)
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        mixed = self.merge(weights.to(values.dtype) @ values)
        return F.pad(mixed, (0, 0, 0, width - x.size(1)))

    @property
    def inner(self) -> int:
        return self.num_heads * self.head_dim

    @abstractmethod
    def scores(self, hidden: list[Float[Tensor, "B H N E"]], length: int) -> Float[Tensor, "#B H N N"]:
        """What each position of a sequence of this length gives to each."""


class HeadLinear(nn.Module):
    """A linear map of each head's own."""

    def __init__(self, num_heads: int, head_dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_heads, head_dim, size) * head_dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, size))

    def forward(self, x: Float[Tensor, "B H N E"], size: int | None = None) -> Float[Tensor, "B H N S"]:
        """size: the first outputs alone; None: all."""
        return x @ self.weight[:, :, :size] + self.bias[:, :, :size]


class DenseSynthesizer(Synthesizer):
    """Scores of a position from its state alone, through a layer of E units: F(X) = W2 relu(W1 X) (section 3.1).

    factorised (section 3.3): scores of position j are a[j // n] * b[j % n], from layers for a and for b, of about
    sqrt(max_length) each.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Synthesizer.Config):
        factorised: bool = option(False, "scores are products of two short lists")

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(
            config, num_hidden=2 if config.factorised else 1, dim=dim, num_heads=num_heads, head_dim=head_dim
        )
        root = math.isqrt(config.max_length - 1) + 1  # rounded up
        sizes = (root, -(-config.max_length // root)) if config.factorised else (config.max_length,)
        self.layers = nn.ModuleList(HeadLinear(num_heads, self.head_dim, size) for size in sizes)

    def scores(self, hidden: list[Float[Tensor, "B H N E"]], length: int) -> Float[Tensor, "B H N N"]:
        if len(hidden) == 1:
            return self.layers[0](hidden[0].relu(), length)
        fast = self.layers[1](hidden[1].relu())
        slow = self.layers[0](hidden[0].relu(), -(-length // fast.size(3)))
        return (slow[..., :, None] * fast[..., None, :]).flatten(3)[..., :length]


class RandomSynthesizer(Synthesizer):
    """Scores that are parameters, the same for every sequence, drawn from N(0, 1) (section 3.2)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Synthesizer.Config):
        rank: int | None = option(
            None, "scores are R1 R2^T with so many columns (section 3.3); null: one matrix", minimum=1, maximum=65536
        )

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(config, num_hidden=0, dim=dim, num_heads=num_heads, head_dim=head_dim)
        shape = (num_heads, config.max_length, config.rank or config.max_length)
        self.rows = nn.Parameter(torch.randn(shape) * (config.rank or 1) ** -0.25)
        self.columns = None if config.rank is None else nn.Parameter(torch.randn(shape) * config.rank**-0.25)

    def scores(self, hidden: list[Float[Tensor, "B H N E"]], length: int) -> Float[Tensor, "1 H N N"]:
        rows = self.rows[None, :, :length]
        if self.columns is None:
            return rows[..., :length]
        return rows @ self.columns[None, :, :length].transpose(2, 3)
