"""Attention among similar positions, found by hashing (Kitaev et al. 2020, https://arxiv.org/abs/2001.04451)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import option
from nat.nn.attention.base import AttentionOfLayer, SelfAttention
from nat.nn.rng import seed_for
from nat.ops.lsh import DIRECTIONS, hash_buckets, lsh_attention
from nat.ops.precision import at_least_float32


class ReformerAttention(AttentionOfLayer, SelfAttention):
    """LSH attention with shared queries and keys (section 2): time and memory grow with N log N.

    A position sees those of its bucket, in several rounds of hashing, and itself if nothing else. Where a row fits
    into one chunk it has one bucket, and this is full attention with shared queries and keys.

    Departs from the paper: a chunk looks at the chunks on both sides, not only at the one before, as nothing is
    causal here. Keys have the length sqrt(E) instead of 1, so that scores are those of the softmax without its
    1 / sqrt(E). The number of buckets, two a chunk, follows from the row's own length; where more than 128 are
    needed, they are the pairs of two hashes.
    """

    @dataclass(frozen=True)
    class Config:
        chunk_size: int = option(
            64, "positions of a chunk; on average twice as many as a bucket's", minimum=1, maximum=1_000_000
        )
        num_rounds: int = option(2, "rounds of hashing; more come nearer to full attention", minimum=1, maximum=1024)
        seed: int = option(0, "of the random rotations", minimum=0)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    def __init__(
        self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None, layer: int = 0
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config
        self.project_in = nn.Linear(dim, 2 * num_heads * self.head_dim)  # shared queries and keys; values
        generator = torch.Generator().manual_seed(seed_for("reformer", config.seed, layer))
        shape = (num_heads, config.num_rounds, self.head_dim, 2 * DIRECTIONS)
        self.register_buffer("rotations", torch.randn(shape, generator=generator))

    def project(
        self, x: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"], Float[Tensor, "B H N E"]]:
        queries, values = (self.split(part) for part in self.project_in(x).chunk(2, dim=-1))
        keys = F.normalize(at_least_float32(queries), dim=-1, eps=1e-6).to(queries.dtype) * math.sqrt(self.head_dim)
        return queries, keys, values

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        if valid is None:
            valid = queries.new_ones(queries.size(0), queries.size(2), dtype=torch.bool)
        width = self.config.chunk_size
        num_chunks = -(-valid.sum(dim=1) // width)
        rotations = self.get_buffer("rotations")
        buckets = hash_buckets(queries, rotations, num_chunks, most=-(-queries.size(2) // width))
        dropout = self.config.dropout if self.training else 0.0
        return lsh_attention(queries, keys, values, buckets, valid, width=width, dropout=dropout)
