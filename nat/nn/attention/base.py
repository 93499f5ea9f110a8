"""What every kind of attention promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Attention(nn.Module, ABC):
    """A map `(x, context, valid) -> x`, chosen in the config by `_target_`.

    A kind has a nested dataclass `Config` and takes its dimensions from its parent:
    `__init__(self, config, *, dim: int, num_heads: int)`. Causality and windows belong to the kind. Input is
    already normalised; residual connection and dropout on the output belong to the layer.
    """

    Config: ClassVar[type]

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        """Queries from `x`; keys and values from `context`, which is `x` itself in self-attention.

        valid: True at positions of `context` that hold a token; None if all do.
        """


def check_heads(dim: int, num_heads: int) -> None:
    """Raises ConfigError where heads do not divide the width."""
    from nat.errors import ConfigError

    if dim % num_heads:
        raise ConfigError(f"num_heads={num_heads}: must divide dim={dim}")
