"""Attention to blocks that are sorted by what they hold (Sparse Sinkhorn Attention, Tay et al. 2020,
https://arxiv.org/abs/2002.11296)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import HeadAttention
from nat.ops.partition import bounds, cut, num_parts, spread
from nat.ops.sinkhorn import block_means, means_up_to, sinkhorn, sorted_attention


class SinkhornAttention(HeadAttention):
    """A position looks at its own block of the sequence, and at the block that a learnt soft permutation sorts to its
    own block's place (section 4): n^1.5 for sqrt(n) blocks.

    A network scores, for each head and each block, the blocks that could come to its place; Sinkhorn normalisation
    makes a doubly stochastic matrix of the scores. SortCut (section 4.3): all positions look at the first sorted
    blocks alone. With one block, this is full attention.

    Departs from the paper: the number of blocks follows from the row's own length n, min(num_blocks, sqrt(n),
    n / block_size), so that blocks grow with long rows; a block is described by the mean of its states, not by their
    sum; normalisation ends with the rows, so that a sorted block is a mean of blocks; the noise of the Gumbel-Sinkhorn
    is off by default. causal (section 3.3): blocks have block_size positions whatever the row's length, a block's
    place is filled by earlier ones, and its description is the mean of all states up to its first.
    """

    @dataclass(frozen=True)
    class Config:
        num_blocks: int = option(
            128, "blocks of a row at most: places that the sorting network knows", minimum=1, maximum=65536
        )
        block_size: int = option(
            32, "positions of a block at least; shorter rows are one block", minimum=1, maximum=1_000_000
        )
        iterations: int = option(8, "normalisations of columns and rows", minimum=1, maximum=10_000)
        temperature: float = option(
            0.75, "of the sorting scores; lower is nearer to a permutation", above=0, maximum=1000
        )
        noise: float = option(
            0.0, "share of Gumbel noise in the sorting scores while training", minimum=0, maximum=1000
        )
        sortcut: int | None = option(
            None, "look at so many of the first sorted blocks alone; null: not", minimum=1, maximum=1_000_000
        )
        causal: bool = option(False, "no position looks at later ones")
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

        def __post_init__(self) -> None:
            if self.causal and self.sortcut is not None:
                raise ConfigError(f"sortcut={self.sortcut}: the first sorted blocks look ahead; null with causal=true")
            if self.sortcut is not None and self.sortcut > self.num_blocks:
                raise ConfigError(f"sortcut={self.sortcut}: must be at most num_blocks={self.num_blocks}")

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config
        self.max_length = config.num_blocks * config.block_size if config.causal else None
        self.sort = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_heads * config.num_blocks))

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "this kind of attention is self-attention"
        if valid is None:
            valid = x.new_ones(x.shape[:2], dtype=torch.bool)
        lengths = valid.sum(dim=1)
        positions, inside = self.blocks(lengths, x.size(1))
        mixed = sorted_attention(
            *self.project(x),
            self.order(x, positions, inside),
            positions,
            inside,
            causal=self.config.causal,
            first=self.config.sortcut,
            dropout=self.config.dropout if self.training else 0.0,
        )
        return self.merge(mixed)

    def blocks(self, lengths: Int[Tensor, " B"], length: int) -> tuple[Int[Tensor, "B K W"], Bool[Tensor, "B K W"]]:
        """Positions of each row's blocks, and which slots hold one; length: that of the padded rows."""
        most, least = self.config.num_blocks, self.config.block_size
        if self.config.causal:
            return cut(lengths, most=-(-length // least), size=min(least, length))
        number, size = bounds(length, most=most, least=least)
        return spread(lengths, num_parts(lengths, most=most, least=least), most=number, size=size)

    def order(
        self, x: Float[Tensor, "B N D"], positions: Int[Tensor, "B K W"], inside: Bool[Tensor, "B K W"]
    ) -> Float[Tensor, "B H K K"]:
        """Of each place, the weights of the blocks that fill it."""
        number, filled = positions.size(1), inside.any(dim=2)
        if self.config.causal:
            described = means_up_to(x, positions[:, :, 0])
        else:
            described = block_means(x, positions, inside)
        scores = self.sort(described).unflatten(-1, (self.num_heads, -1))[..., :number].transpose(1, 2)
        if self.training and self.config.noise:
            uniform = torch.rand_like(scores).clamp(min=1e-9, max=1 - 1e-7)
            scores = scores - self.config.noise * (-uniform.log()).log()
        allowed = filled[:, :, None] & filled[:, None]
        if self.config.causal:
            allowed = allowed.tril(-1)
        return sinkhorn(
            scores / self.config.temperature,
            allowed[:, None].expand_as(scores),
            iterations=self.config.iterations,
            causal=self.config.causal,
        )
