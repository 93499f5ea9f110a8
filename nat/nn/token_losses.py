"""What the tokens of a canvas of known length are trained with: cross entropy, each token at its own place, or losses
that forgive a shifted or reordered translation.

Aligned cross entropy: Ghazvininejad et al. 2020, https://arxiv.org/abs/2004.01655, see `nat.ops.axe`.
Order-agnostic cross entropy: Du, Tu & Jiang 2021, https://arxiv.org/abs/2106.05093.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Target
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError
from nat.losses import CrossEntropy, smoothed
from nat.nn.assignment import best_order
from nat.nn.head import Head
from nat.ops.axe import aligned_loss
from nat.ops.lattice import TargetScores, target_ids
from nat.schedule import Schedule

EPS = Symbol.BLANK  # of the aligned cross entropy: it writes nothing
SKIP_TARGET, TRUNCATION = 1.0, 0.15


class TokenLoss(Enum):
    CROSS_ENTROPY = "cross_entropy"
    AXE = "axe"
    OAXE = "oaxe"


@dataclass(frozen=True)
class Annealing(Schedule):
    """The share of the cross entropy in the order-agnostic loss, which alone learns nothing from a model that finds all
    tokens improbable (Du et al. 2021)."""

    start: float = option(1.0, "oaxe: share of the cross entropy at update 0", minimum=0, maximum=1)
    end: float = option(0.0, "oaxe: share of the cross entropy from `updates` on", minimum=0, maximum=1)
    updates: int = option(150000, "updates from start to end", minimum=0, maximum=1_000_000_000)


@dataclass(frozen=True, kw_only=True)
class TokenLossConfig:
    """Options of every method that predicts the tokens of a canvas of one position each."""

    loss: TokenLoss = option(
        TokenLoss.CROSS_ENTROPY, "of tokens: cross_entropy, each at its place; axe, aligned; oaxe, in any order"
    )
    skip_target: float = option(
        SKIP_TARGET, "axe: delta, factor of the cost of a token that is skipped", above=0, maximum=100
    )
    truncation: float = option(TRUNCATION, "oaxe: tokens of a lower probability are left out", minimum=0, below=1)
    annealing: Annealing = field(default_factory=Annealing)
    label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)

    def __post_init__(self) -> None:
        for name, default, loss in (
            ("skip_target", SKIP_TARGET, TokenLoss.AXE),
            ("truncation", TRUNCATION, TokenLoss.OAXE),
            ("annealing", Annealing(), TokenLoss.OAXE),
        ):
            if self.loss is not loss and getattr(self, name) != default:
                raise ConfigError(f"{name}: has no effect without loss={loss.value}")

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """What special symbols the method can write: eps where predictions are skipped."""
        return (Symbol.UNK, EPS) if self.loss is TokenLoss.AXE else (Symbol.UNK,)


@dataclass(frozen=True)
class ForgivingLoss:
    """Sums over the hidden tokens of a batch. total: of the forgiving loss, smoothed. entropy: of each token at its own
    place. num_truncated: of how many tokens the total is not; None where none ever is. share: of the entropy in the
    objective, the rest is the total's."""

    total: Float[Tensor, ""]
    entropy: CrossEntropy
    num_truncated: Int[Tensor, ""] | None = None
    share: float = 0.0


def forgiving_loss(
    config: TokenLossConfig,
    head: Head,
    states: Float[Tensor, "B L D"],
    target: Target,
    hidden: Bool[Tensor, "B L"],
    *,
    update: int,
) -> ForgivingLoss:
    """Of right-padded targets, on canvases as long, at the positions that are hidden from the model.

    Label smoothing is that of the predictions that count, whatever token each is to hold.
    """
    ids, weight = target_ids(target.tokens, target.lengths, blank=int(EPS)), config.label_smoothing
    columns, mean = head.columns(states, ids, with_mean=weight > 0)  # (B, L, T + 1), (B, L)
    own = columns.diagonal(offset=1, dim1=1, dim2=2)
    nll, count = -own.masked_fill(~hidden, 0.0).sum(), hidden.sum()
    entropy = CrossEntropy(smoothed(nll, mean, hidden, weight=weight), nll.detach(), count)
    if config.loss is TokenLoss.AXE:
        scored = TargetScores.of(columns, ids, target.lengths, target.lengths)
        cost = aligned_loss(scored, hidden, skip_target=config.skip_target).sum().to(columns.dtype)
        return ForgivingLoss(smoothed(cost, mean, hidden, weight=weight), entropy)
    order = best_order(columns[:, :, 1:], hidden)
    chosen = columns.gather(2, order[:, :, None] + 1).squeeze(2)
    used = hidden & (chosen > (math.log(config.truncation) if config.truncation > 0 else -torch.inf))
    cost = -chosen.masked_fill(~used, 0.0).sum()
    return ForgivingLoss(
        smoothed(cost, mean, used, weight=weight), entropy, count - used.sum(), share=config.annealing(update)
    )
