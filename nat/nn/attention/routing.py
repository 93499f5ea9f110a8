"""Attention among positions of one cluster (Routing Transformer, Roy et al. 2020, https://arxiv.org/abs/2003.05997)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.nn.attention.base import AttentionOfLayer, SelfAttention
from nat.nn.rng import seed_for
from nat.nn.running import Running
from nat.ops.clustering import cluster_sums, clustered_attention, members, similarities
from nat.ops.partition import bounds, num_parts
from nat.ops.precision import at_least_float32


class Centroids(Running):
    """The centroids of each head's queries and keys, learnt by online k-means: (H, K, E)."""

    def __init__(self, *, num_heads: int, num_clusters: int, head_dim: int, decay: float, seed: int) -> None:
        super().__init__(vectors=(num_heads, num_clusters, head_dim), counts=(num_heads, num_clusters))
        self.decay = decay
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(num_heads, num_clusters, head_dim, generator=generator)
        self.register_buffer("means", F.layer_norm(drawn, (head_dim,)))

    def first(self, number: int) -> Float[Tensor, "H K E"]:
        return self.get_buffer("means")[:, :number]

    def learn(
        self,
        x: Float[Tensor, "B H N E"],
        scores: Float[Tensor, "B H K N"],
        valid: Bool[Tensor, "B N"],
        used: Bool[Tensor, "B K"],
    ) -> None:
        """Towards these vectors, of which each belongs to its nearest centroid among those that its row uses."""
        number = used.size(1)
        vectors, counts = cluster_sums(x, scores, self.first(number), valid, used)
        missing = self.get_buffer("means").size(1) - number
        self.observe(vectors=F.pad(vectors, (0, 0, 0, missing)), counts=F.pad(counts, (0, missing)))

    def absorb(self) -> None:
        """mu <- decay mu + (1 - decay) mean of its vectors; a centroid without any stays."""
        means, (vectors, counts) = self.get_buffer("means"), self.sums
        batch_means = vectors / counts.clamp(min=1)[..., None]
        means.copy_(torch.where(counts[..., None] > 0, means.lerp(batch_means, 1 - self.decay), means))


class RoutingAttention(AttentionOfLayer, SelfAttention):
    """Queries and keys of unit variance, clustered by the same centroids; each cluster takes the w = n / k queries and
    the w keys that are closest to its centroid, and they attend to one another (section 4.1): n^1.5 for k = sqrt(n).

    With one cluster, which takes all positions, this is full attention with normalised queries and keys.

    Departs from the paper: k follows from the row's length n, min(num_clusters, sqrt(n), n / cluster_size), and a row
    uses the first k centroids. A centroid goes to the mean of its vectors, not to half the sums of its queries and
    keys, whose length depends on the batch. A query in several clusters gets the mean of what it finds there, and one
    in none gets nothing.
    """

    @dataclass(frozen=True)
    class Config:
        num_clusters: int = option(128, "clusters of a row at most: centroids of each head", minimum=1, maximum=65536)
        cluster_size: int = option(
            32, "positions of a cluster at least; shorter rows are one cluster", minimum=1, maximum=1_000_000
        )
        decay: float = option(0.999, "of the centroids' running means, in an update", minimum=0, below=1)
        seed: int = option(0, "of the first centroids", minimum=0)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

    def __init__(
        self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None, layer: int = 0
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config
        self.centroids = Centroids(
            num_heads=num_heads,
            num_clusters=config.num_clusters,
            head_dim=self.head_dim,
            decay=config.decay,
            seed=seed_for("routing", config.seed, layer),
        )

    def project(
        self, x: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"], Float[Tensor, "B H N E"]]:
        """Queries and keys at least float32, as clusters are chosen by them."""
        queries, keys, values = super().project(x)
        queries, keys = (F.layer_norm(at_least_float32(part), (self.head_dim,)) for part in (queries, keys))
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
        most, least = self.config.num_clusters, self.config.cluster_size
        number, size = bounds(queries.size(2), most=most, least=least)
        lengths = valid.sum(dim=1)
        parts = num_parts(lengths, most=most, least=least)
        used = torch.arange(number, device=valid.device) < parts[:, None]  # (B, K)
        asking, seen = (self.route(x, valid, used, size=size) for x in (queries, keys))
        slots = torch.arange(size, device=valid.device) < -(-lengths.clamp(min=1) // parts)[:, None]
        dropout = self.config.dropout if self.training else 0.0
        held = used[:, :, None] & slots[:, None]
        return clustered_attention(queries, keys, values, asking, seen, held, dropout=dropout)

    def route(
        self, x: Float[Tensor, "B H N E"], valid: Bool[Tensor, "B N"], used: Bool[Tensor, "B K"], *, size: int
    ) -> Int[Tensor, "B H K W"]:
        """The positions of each cluster; in training the centroids learn from all of them."""
        scores = similarities(x, self.centroids.first(used.size(1)))
        if self.centroids.observing:
            self.centroids.learn(x, scores, valid, used)
        return members(scores, valid, size=size)
