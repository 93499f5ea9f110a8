"""Which token of a missing span an inserting model learns to insert first: options that its methods share.

Stern et al. 2019, https://arxiv.org/abs/1902.03249, sections 4.2 and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from nat.config import option
from nat.errors import ConfigError
from nat.ops import insertion

DEFAULT_TEMPERATURE = 1.0


class SpanLoss(Enum):
    UNIFORM = "uniform"
    TREE = "tree"


@dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """Options of the loss over the spans that are missing in the slots."""

    loss: SpanLoss = option(
        SpanLoss.TREE,
        "weights of the tokens missing in a slot: the middle first, as in a balanced tree, or uniform",
    )
    tree_temperature: float | None = option(
        None, f"loss=tree: the lower, the more of the weight is in the middle; null: {DEFAULT_TEMPERATURE}", above=0
    )

    def __post_init__(self) -> None:
        if self.tree_temperature is not None and self.loss is not SpanLoss.TREE:
            raise ConfigError(f"tree_temperature={self.tree_temperature}: has no effect without loss=tree")

    def weights(self, partial: insertion.Partial, *, dtype: torch.dtype) -> Float[Tensor, "B L"]:
        """Of each missing position within its span."""
        if self.loss is SpanLoss.UNIFORM:
            return insertion.uniform_weights(partial, dtype=dtype)
        return insertion.tree_weights(partial, temperature=self.tree_temperature or DEFAULT_TEMPERATURE, dtype=dtype)
