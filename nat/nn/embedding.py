"""Token embeddings, positions and the output layer that shares their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.points import BITS, FINEST
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import DataError
from nat.ops.precision import without_autocast


class Initial(Enum):
    XAVIER = "xavier"
    NORMAL = "normal"


NORMAL_STD = 0.02  # of all weights under initial=normal (Devlin et al. 2019, https://arxiv.org/abs/1810.04805)


def embedding_std(initial: Initial, dim: int) -> float:
    """The standard deviation that embeddings are drawn with, before they are scaled by sqrt(D)."""
    return NORMAL_STD if initial is Initial.NORMAL else dim**-0.5


class PositionKind(Enum):
    SINUSOIDAL = "sinusoidal"
    LEARNED = "learned"
    NONE = "none"


@dataclass(frozen=True)
class PositionConfig:
    kind: PositionKind = option(PositionKind.SINUSOIDAL, "sinusoidal (no limit of length), learned, or none")
    max_length: int = option(
        1024, "learned positions: longest sequence; longer ones are refused", minimum=1, maximum=1_000_000
    )


class Positions(nn.Module):
    """Position embeddings (Vaswani et al. 2017, section 3.5; learned: Gehring et al. 2017, which begin as large as the
    scaled token embeddings that they are added to, as in that paper)."""

    table: Tensor

    def __init__(self, config: PositionConfig, *, dim: int, initial: Initial = Initial.XAVIER) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        if config.kind is PositionKind.LEARNED:
            self.weight = nn.Parameter(
                torch.randn(config.max_length, dim) * embedding_std(initial, dim) * math.sqrt(dim)
            )
        else:
            first = sinusoids(256, dim) if config.kind is PositionKind.SINUSOIDAL else torch.zeros(1, dim)
            self.register_buffer("table", first, persistent=False)

    @property
    def max_length(self) -> int | None:
        """The longest sequence; None where there is no limit."""
        return self.config.max_length if self.config.kind is PositionKind.LEARNED else None

    def forward(self, length: int, *, start: int = 0) -> Float[Tensor, "L D"]:
        """Embeddings of positions start .. start + length - 1."""
        end = start + length
        if self.config.kind is PositionKind.LEARNED:
            if end > self.config.max_length:
                raise DataError(
                    f"a sequence of {end} positions exceeds positions.max_length={self.config.max_length} of this "
                    "model; shorten the sentence or use sinusoidal positions"
                )
            return self.weight[start:end]
        if self.config.kind is PositionKind.NONE:
            return self.table.expand(length, -1)
        if end > self.table.size(0):
            with torch.inference_mode(False):  # it is kept, and training may be the next to use it
                self.table = sinusoids(2 * end, self.dim).to(self.table)
        return self.table[start:end]


def sinusoids(length: int, dim: int) -> Float[Tensor, "L D"]:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same; halves side by side."""
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :dim].float()


class TokenEmbedding(nn.Embedding):
    """Embeddings scaled by sqrt(D) (Vaswani et al. 2017, section 3.4), drawn from N(0, 1/D), or as all other weights
    under initial=normal."""

    def __init__(self, size: int, *, dim: int, initial: Initial = Initial.XAVIER) -> None:
        super().__init__(size, dim, padding_idx=int(Symbol.PAD))
        self.scale = math.sqrt(dim)
        nn.init.normal_(self.weight, std=embedding_std(initial, dim))
        with torch.no_grad():
            self.weight[int(Symbol.PAD)].zero_()

    def forward(self, tokens: Int[Tensor, "*B L"]) -> Float[Tensor, "*B L D"]:
        return super().forward(tokens) * self.scale


class PointEmbedding(nn.Module):
    """Points of the unit square by their coordinates, (x, y) -> a network of one hidden layer: ids need no table."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.widen = nn.Linear(2, dim)
        self.mix = nn.Linear(dim, dim)

    def forward(self, tokens: Int[Tensor, "*B L"]) -> Float[Tensor, "*B L D"]:
        """tokens: ids of points; special symbols have some value that means nothing."""
        with without_autocast(tokens):
            return self.mix(F.relu(self.widen(coordinates(tokens).to(self.widen.weight.dtype))))


def coordinates(tokens: Int[Tensor, "*B L"]) -> Float[Tensor, "*B L 2"]:
    """x and y of the points of these ids, from -1 to 1; float64."""
    packed = (tokens - NUM_SYMBOLS).clamp(min=0)
    grid = torch.stack((packed >> BITS, packed & FINEST), dim=-1)
    return grid.double() * (2 / FINEST) - 1


def source_embedding(
    vocabularies: Vocabularies, *, dim: int, initial: Initial = Initial.XAVIER
) -> TokenEmbedding | PointEmbedding:
    """The front-end of an encoder: what a source is made of decides."""
    if vocabularies.points:
        return PointEmbedding(dim=dim)
    return TokenEmbedding(vocabularies.source_size, dim=dim, initial=initial)


class Embeddings(nn.Module):
    """Source and target embeddings, one table where the vocabulary is shared."""

    def __init__(self, vocabularies: Vocabularies, *, dim: int, initial: Initial = Initial.XAVIER) -> None:
        super().__init__()
        self.source = source_embedding(vocabularies, dim=dim, initial=initial)
        self._target = None
        if not vocabularies.shared:
            self._target = TokenEmbedding(vocabularies.target_size, dim=dim, initial=initial)

    @property
    def target(self) -> TokenEmbedding:
        shared = self.source if self._target is None else self._target
        assert isinstance(shared, TokenEmbedding)
        return shared


class OutputLayer(nn.Module):
    """Logits over the target vocabulary, tied to the target embeddings (Press & Wolf 2017).

    Symbols that a method never produces have logit -inf, in training and in decoding.
    """

    bias: Tensor

    def __init__(self, size: int, *, symbols: tuple[Symbol, ...]) -> None:
        super().__init__()
        self.forbidden = [i for i in range(NUM_SYMBOLS) if i not in symbols]
        bias = torch.zeros(size)
        bias[self.forbidden] = -math.inf
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, states: Float[Tensor, "*B D"], embedding: TokenEmbedding) -> Float[Tensor, "*B V"]:
        return F.linear(states, embedding.weight, self.bias)
