"""Points of a source as a model's output: the encoder of points, and the head whose attention is the output.

Vinyals et al. 2015, https://arxiv.org/abs/1506.03134.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import Component, option
from nat.data.batch import Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.errors import ConfigError
from nat.losses import cross_entropy
from nat.nn.attention.base import tightest
from nat.nn.dropout import Dropout
from nat.nn.embedding import PointEmbedding, PositionConfig, PositionKind, Positions
from nat.nn.transformer import Encoder, Initial, Memory, Size, initialise
from nat.ops.precision import at_least_float32


class Score(Enum):
    ADDITIVE = "additive"
    DOT = "dot"


@dataclass(frozen=True, kw_only=True)
class PointConfig:
    """Options of every method that reads points."""

    encoder: Component[Encoder] = option(help="the source encoder, from the group `encoder`")
    size: Size = field(default_factory=Size)
    positions: PositionConfig = field(default_factory=lambda: PositionConfig(kind=PositionKind.NONE))
    score: Score = option(Score.ADDITIVE, "how a query scores a point: additive (equation 3) or dot")


class PointEncoder(nn.Module):
    """Points -> memory. Without positions (the default) a permutation of the points permutes the memory."""

    def __init__(self, config: PointConfig, *, vocabularies: Vocabularies, method: str) -> None:
        """method: what to call the model in errors. Raises ConfigError where the source is text."""
        super().__init__()
        if not vocabularies.points:
            raise ConfigError(
                f"{method}: its output are places in a source of points; data.tokenizer.kind=points is needed, as in "
                "data=convex_hull"
            )
        self.encoder = config.encoder.build(size=config.size)
        self.embedding = PointEmbedding(dim=config.size.dim)
        self.positions = Positions(config.positions, dim=config.size.dim, initial=config.size.initial)
        self.dropout = Dropout(config.size.dropout)

    @property
    def max_length(self) -> int | None:
        """Most points; None where there is no limit."""
        return tightest((self.positions.max_length, self.encoder.max_length))

    def takes(self, source: Source) -> Bool[Tensor, " B"]:
        """Whether a source has a point, and not too many."""
        fits = source.valid.any(dim=1)
        return fits if self.max_length is None else fits & (source.lengths <= self.max_length)

    def forward(self, source: Source) -> Memory:
        """source: right-padded."""
        x = self.embedding(source.tokens) + self.positions(source.tokens.size(1))
        return Memory(self.encoder(self.dropout(x), source.mask), source.valid, full=source.mask is None)


class PointerHead(nn.Module):
    """Scores of the end and of each point for a query: classes 0 (the end) and 1 + j (point j).

    additive: v^T tanh(W1 e_j + W2 d) (Vinyals et al. 2015, equation 3); dot: (W1 e_j) . (W2 d) / sqrt(D).
    """

    def __init__(self, score: Score, *, dim: int, initial: Initial) -> None:
        super().__init__()
        self.keys = nn.Linear(dim, dim)
        self.queries = nn.Linear(dim, dim)
        self.summary = nn.Linear(dim, 1, bias=False) if score is Score.ADDITIVE else None
        initialise(self, initial)
        self.end = nn.Parameter(torch.randn(dim) * dim**-0.5)  # the key of the end mark

    def memorise(self, states: Float[Tensor, "B S D"]) -> Float[Tensor, "B C D"]:
        """Keys of the C = 1 + S classes."""
        keys = self.keys(states)
        return torch.cat((self.end.to(keys.dtype).expand(len(keys), 1, -1), keys), dim=1)

    def forward(
        self, queries: Float[Tensor, "B L D"], keys: Float[Tensor, "B C D"], allowed: Bool[Tensor, "B #L C"]
    ) -> Float[Tensor, "B L C"]:
        """Logits, -inf where not allowed."""
        asked = self.queries(queries)
        if self.summary is None:
            logits = asked @ keys.transpose(1, 2) / math.sqrt(keys.size(-1))
        else:
            logits = self.summary(torch.tanh(asked[:, :, None] + keys[:, None])).squeeze(-1)
        return at_least_float32(logits).masked_fill(~allowed, -math.inf)


def visited(points: Int[Tensor, "B L"], *, count: int) -> Bool[Tensor, "B L S"]:
    """Which of `count` points stand before each place of a sequence of points; those below 0 are none."""
    at = points[:, :, None] == torch.arange(count, device=points.device)  # (B, L, S)
    return F.pad(at, (0, 0, 1, 0))[:, :-1].cumsum(dim=1) > 0


def places(tokens: Int[Tensor, "*B L"]) -> Int[Tensor, "*B L"]:
    """Target ids -> the points that they name, below 0 for special symbols."""
    return tokens - NUM_SYMBOLS


def each_once(target: Target) -> Bool[Tensor, " B"]:
    """Whether a right-padded target names no point twice."""
    ordered = target.tokens.masked_fill(~target.valid, -1).sort(dim=1).values
    return ~((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(dim=1)


def pointer_cross_entropy(
    log_probs: Float[Tensor, "B L C"],
    labels: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    *,
    label_smoothing: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Int[Tensor, ""]]:
    """As `nat.losses.cross_entropy`; the smoothing mass is spread evenly over the classes that are possible at a place,
    those whose log-probability is not -inf."""
    nll, _, count = cross_entropy(log_probs, labels, valid)
    if not label_smoothing:
        return nll, nll.detach(), count
    possible = log_probs > -math.inf
    mean = log_probs.masked_fill(~possible, 0.0).sum(dim=2) / possible.sum(dim=2)
    smooth = -mean.masked_fill(~valid, 0.0).sum()
    return (1 - label_smoothing) * nll + label_smoothing * smooth, nll.detach(), count
