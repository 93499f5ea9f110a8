"""What every kind of attention promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import Component
from nat.errors import ConfigError, DataError


class Attention(nn.Module, ABC):
    """A map `(x, context, valid) -> x`, chosen in the config by `_target_`.

    A kind has a nested dataclass `Config` and takes its dimensions from its parent, see `stack`. Causality and windows
    belong to the kind. Input is already normalised; residual connection and dropout on the output belong to the layer.
    """

    Config: ClassVar[type]
    max_length: int | None = None  # the longest sequence that the kind takes; None where there is no limit
    static: ClassVar[bool] = False  # whether equal shapes run the same kernels, and the host waits for none of them

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        """Queries from `x`; keys and values from `context`, which is `x` itself in self-attention.

        valid: True at positions of `context` that hold a token, the first ones of each row in self-attention; None if
        all do. What the result holds at padding means nothing, and what stands there changes nothing.
        """

    @classmethod
    def stack(
        cls, config: Any, *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> list[Attention]:
        """One for each layer of a stack; a kind that shares parameters between layers does it here.

        head_dim: width of a head; None: dim / num_heads, which a group of a layer's heads must not assume.
        """
        return [cls(config, dim=dim, num_heads=num_heads, head_dim=head_dim) for _ in range(num_layers)]  # type: ignore[call-arg]


class AttentionOfLayer(Attention):
    """A kind that draws something, other numbers in each layer: its `__init__` takes `layer`, the layer's number from
    0, as well."""

    @classmethod
    def stack(
        cls, config: Any, *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> list[Attention]:
        return [
            cls(config, dim=dim, num_heads=num_heads, head_dim=head_dim, layer=layer)  # type: ignore[call-arg]
            for layer in range(num_layers)
        ]


def attention_stack(
    kind: Component[Attention], *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
) -> list[Attention]:
    """The attention of each layer of a stack, of the kind that the config names."""
    return kind.target.stack(kind.config, num_layers=num_layers, dim=dim, num_heads=num_heads, head_dim=head_dim)


class HeadAttention(Attention):
    """Queries, keys and values of each head, and the heads side by side again; E is the width of a head."""

    def __init__(self, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__()
        if head_dim is None:
            check_heads(dim, num_heads)
            head_dim = dim // num_heads
        self.num_heads, self.head_dim = num_heads, head_dim
        self.project_in = nn.Linear(dim, 3 * num_heads * head_dim)  # queries, keys, values
        self.project_out = nn.Linear(num_heads * head_dim, dim)

    def project(
        self, x: Float[Tensor, "B L D"]
    ) -> tuple[Float[Tensor, "B H L E"], Float[Tensor, "B H L E"], Float[Tensor, "B H L E"]]:
        """Queries, keys and values of the same positions."""
        queries, keys, values = (self.split(part) for part in self.project_in(x).chunk(3, dim=-1))
        return queries, keys, values

    def split(self, x: Float[Tensor, "B L I"]) -> Float[Tensor, "B H L E"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def merge(self, mixed: Float[Tensor, "B H L E"]) -> Float[Tensor, "B L D"]:
        """Heads side by side, and the output projection."""
        return self.project_out(mixed.transpose(1, 2).flatten(2))


class SelfAttention(HeadAttention):
    """A kind for self-attention alone: it says how each head mixes its values."""

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "this kind of attention is self-attention"
        return self.merge(self.mix(*self.project(x), valid))

    @abstractmethod
    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        """What each position takes from the others; valid: as in `forward`."""


def check_heads(dim: int, num_heads: int) -> None:
    """Raises ConfigError where heads do not divide the width."""
    if dim % num_heads:
        raise ConfigError(f"num_heads={num_heads}: must divide dim={dim}")


def tightest(limits: Iterable[int | None]) -> int | None:
    """The smallest limit; None where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def within(
    x: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None, max_length: int
) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
    """The first `max_length` columns; what is cut must be padding. Raises DataError where it is not."""
    if x.size(1) <= max_length:
        return x, valid
    if valid is None or bool(valid[:, max_length:].any()):
        longest = x.size(1) if valid is None else int(valid.sum(dim=1).max())
        raise DataError(
            f"a sequence of {longest} positions exceeds attention.max_length={max_length} of this model; shorten the "
            "sentence or use another kind of attention"
        )
    return x[:, :max_length], valid[:, :max_length]
