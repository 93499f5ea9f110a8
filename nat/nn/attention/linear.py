"""Attention in linear time: queries and keys as features whose products are the weights, and keys summed first."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import option
from nat.nn.attention.base import AttentionOfLayer, SelfAttention
from nat.nn.rng import seed_for
from nat.ops.features import (
    elu_features,
    fourier_features,
    gaussian_directions,
    in_pieces,
    mix_by_features,
    mix_by_log_features,
    positive_log_features,
    separate_softmaxes,
)
from nat.ops.precision import at_least_float32, without_autocast


class FeatureAttention(SelfAttention):
    """A kind that sums over keys first. The sums run over thousands of positions: in float32 at least."""

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        with without_autocast(queries):
            exact = [at_least_float32(part) for part in (queries, keys, values)]
            mixed = self.sum_first(exact[0], exact[1], exact[2], valid)
        return mixed.to(queries.dtype)

    @abstractmethod
    def sum_first(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        """As `mix`."""


class LinearAttention(FeatureAttention):
    """Features elu(x) + 1 (Katharopoulos et al. 2020, section 3.2.1, https://arxiv.org/abs/2006.16236)."""

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)

    def sum_first(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        return mix_by_features(in_pieces(elu_features, queries), in_pieces(elu_features, keys, valid), values)


class EfficientAttention(FeatureAttention):
    """A softmax over the features of each query, and one over the positions of each feature of the keys: a key's
    feature is a map of the sequence that gathers values, a query a mixture of what was gathered (Shen et al. 2018,
    section 3.2, https://arxiv.org/abs/1812.01243)."""

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)

    def sum_first(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        choices, maps = separate_softmaxes(queries, keys, valid)
        return choices @ (maps.transpose(2, 3) @ values)


class RandomAttention(AttentionOfLayer, FeatureAttention):
    """A kind with random features: drawn once, for each layer and head other ones, and part of the checkpoint.

    Departs from the papers, which draw anew in training: a run that is resumed or decoded has the features it had.
    """

    directions: Float[Tensor, "H M E"]


class RandomFeatureAttention(RandomAttention):
    """Random Fourier features of queries and keys of length 1 (RFA, Peng et al. 2021, section 3.1,
    https://arxiv.org/abs/2103.02143): with many features, softmax attention over |s (q/|q| - k/|k|)|^2 / -2, where s, a
    scale of each dimension of a head, is learned and begins at 1.

    Causality alone needs the paper's gate. Departs from the paper: an estimated sum of weights that is no larger than
    its standard error, N / sqrt(2 M) for N keys, counts as so much, for it may be zero or negative.
    """

    @dataclass(frozen=True)
    class Config:
        num_features: int = option(
            128, "random frequencies M of a head; each gives a sine and a cosine", minimum=1, maximum=65536
        )
        seed: int = option(1, "of the random frequencies", minimum=0)

    def __init__(
        self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None, layer: int = 0
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        drawn = gaussian_directions(
            num_heads, config.num_features, self.head_dim, seed=seed_for(config.seed, layer), orthogonal=False
        )
        self.register_buffer("directions", drawn)
        self.scale = nn.Parameter(torch.ones(num_heads, 1, self.head_dim))

    def sum_first(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        frequencies = self.directions * self.scale
        features = partial(fourier_features, frequencies=frequencies)
        looks, sees = (F.normalize(part, dim=-1) for part in (queries, keys))
        number = keys.new_full((len(keys),), keys.size(2)) if valid is None else valid.sum(dim=1).to(keys)
        error = number.clamp(min=1) / math.sqrt(2 * frequencies.size(1))
        least = error[:, None, None, None]
        return mix_by_features(in_pieces(features, looks), in_pieces(features, sees, valid), values, least=least)


class PerformerAttention(RandomAttention):
    """Softmax attention estimated by positive orthogonal random features (FAVOR+, Choromanski et al. 2021, section 2,
    https://arxiv.org/abs/2009.14794)."""

    @dataclass(frozen=True)
    class Config:
        num_features: int | None = option(
            None, "random features M of a head; null: E ln E for heads of width E (theorem 4)", minimum=1, maximum=65536
        )
        seed: int = option(1, "of the random features", minimum=0)

    def __init__(
        self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None, layer: int = 0
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        number = config.num_features or max(1, math.ceil(self.head_dim * math.log(self.head_dim)))
        drawn = gaussian_directions(
            num_heads, number, self.head_dim, seed=seed_for(config.seed, layer), orthogonal=True
        )
        self.register_buffer("directions", drawn)

    def sum_first(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        temperature = queries.size(-1) ** -0.25  # of both sides: q . k / sqrt(E)
        features = partial(positive_log_features, directions=self.directions)
        looks = in_pieces(features, queries * temperature)
        return mix_by_log_features(looks, in_pieces(features, keys * temperature, valid, padding=-torch.inf), values)
