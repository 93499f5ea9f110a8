"""Softmax attention to a fixed number of mixtures of the keys (Wang et al. 2020, https://arxiv.org/abs/2006.04768)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import Attention, within
from nat.nn.attention.full import FullAttention


class Sharing(Enum):
    NONE = "none"
    HEADWISE = "headwise"
    KEY_VALUE = "key_value"
    LAYERWISE = "layerwise"


class LengthProjection(nn.Module):
    """Mixtures of the positions of a sequence, the same for all sequences: E and F of the paper.

    Drawn from N(0, 1 / max_length), so that mixtures of the longest sequence are of the size of what they mix.
    """

    def __init__(self, *, num_heads: int, num_keys: int, max_length: int) -> None:
        """num_heads: 1 is one projection for all heads."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_heads, num_keys, max_length) * max_length**-0.5)

    def forward(self, x: Float[Tensor, "B H N E"]) -> Float[Tensor, "B H K E"]:
        """x: zeros at padding, which so adds nothing."""
        weight = self.weight[:, :, : x.size(2)]
        if len(weight) == 1:
            return torch.einsum("kn,bhne->bhke", weight[0], x)  # without a copy of the weights for each row
        return torch.einsum("hkn,bhne->bhke", weight, x)


class LinformerAttention(FullAttention):
    """Keys and values of all positions are projected to num_keys (section 4, equation 7).

    sharing (section 4, "Parameter sharing"): none: each head has a projection of keys and one of values; headwise: one
    of keys and one of values for all heads; key_value: one for both and for all heads; layerwise: this one for all
    layers of the stack. A shorter sequence has the first columns of the projections.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(FullAttention.Config):
        max_length: int = option(1024, "longest sequence; longer ones are refused", minimum=1, maximum=1_000_000)
        num_keys: int = option(128, "keys K that are left of a sequence", minimum=1, maximum=65536)
        sharing: Sharing = option(Sharing.HEADWISE, "of the projections: none, headwise, key_value or layerwise")

        def __post_init__(self) -> None:
            if self.num_keys > self.max_length:
                raise ConfigError(f"num_keys={self.num_keys}: must be at most max_length={self.max_length}")

    max_length: int

    def __init__(
        self,
        config: Config,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        shared: LengthProjection | None = None,
    ) -> None:
        """shared: the projection of all layers, where there is one."""
        super().__init__(config, dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.max_length = config.max_length
        own = num_heads if config.sharing is Sharing.NONE else 1
        sizes = {"num_heads": own, "num_keys": config.num_keys, "max_length": config.max_length}
        self.shorten_keys = shared or LengthProjection(**sizes)
        both = config.sharing in (Sharing.KEY_VALUE, Sharing.LAYERWISE)
        self.shorten_values = None if both else LengthProjection(**sizes)

    @classmethod
    def stack(
        cls, config: Config, *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> list[Attention]:
        shared = None
        if config.sharing is Sharing.LAYERWISE:
            shared = LengthProjection(num_heads=1, num_keys=config.num_keys, max_length=config.max_length)
        return [cls(config, dim=dim, num_heads=num_heads, head_dim=head_dim, shared=shared) for _ in range(num_layers)]

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        """Raises DataError for a sequence longer than max_length."""
        assert context is x, "this kind of attention is self-attention"
        context, valid = within(context, valid, self.max_length)
        keys, values = self.keys_values(context)
        if valid is not None:
            padding = ~valid[:, None, :, None]
            keys, values = keys.masked_fill(padding, 0.0), values.masked_fill(padding, 0.0)
        fewer_keys = self.shorten_keys(keys)
        fewer_values = (self.shorten_values or self.shorten_keys)(values)
        return self.attend(self.queries(x), fewer_keys, fewer_values, None)
