"""Several kinds of self-attention in one stack: another in each layer, or in each group of a layer's heads."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import Component, option
from nat.errors import ConfigError
from nat.nn.attention.base import Attention, attention_stack, check_heads, tightest


@dataclass(frozen=True)
class HeadGroup:
    """Heads of one kind."""

    attention: Component[Attention] = option(help="the kind, from the group `attention`")
    num_heads: int = option(help="heads of this kind", minimum=1, maximum=4096)


class MixedAttention(Attention):
    """Groups of heads of different kinds, side by side.

    Each group has an output projection of its own; their sum is one projection of all heads.
    """

    @dataclass(frozen=True)
    class Config:
        groups: list[HeadGroup] = option(help="the kinds, and how many heads each has; together all heads of a layer")

        def __post_init__(self) -> None:
            if not self.groups:
                raise ConfigError("groups=[]: one group of heads at least is needed")

    def __init__(self, groups: list[Attention]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.max_length = tightest(kind.max_length for kind in groups)

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        first, *others = (group(x, context, valid) for group in self.groups)
        return sum(others, start=first)

    @classmethod
    def stack(
        cls, config: Config, *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> list[Attention]:
        """Raises ConfigError if the groups have another number of heads than the layer."""
        head_counts = [group.num_heads for group in config.groups]
        if sum(head_counts) != num_heads:
            raise ConfigError(
                f"attention.groups: {' + '.join(map(str, head_counts))} heads, but size.num_heads={num_heads}"
            )
        if head_dim is None:
            check_heads(dim, num_heads)
            head_dim = dim // num_heads
        kinds = (
            attention_stack(
                group.attention, num_layers=num_layers, dim=dim, num_heads=group.num_heads, head_dim=head_dim
            )
            for group in config.groups
        )
        return [cls(list(groups)) for groups in zip(*kinds, strict=True)]


class LayeredAttention(Attention):
    """Another kind in each layer: a choice for a stack, no kind of its own."""

    @dataclass(frozen=True)
    class Config:
        layers: list[Component[Attention]] = option(
            help="the kind of each layer, from the first; where there are more layers, again"
        )

        def __post_init__(self) -> None:
            if not self.layers:
                raise ConfigError("layers=[]: one kind at least is needed")

    @classmethod
    def stack(
        cls, config: Config, *, num_layers: int, dim: int, num_heads: int, head_dim: int | None = None
    ) -> list[Attention]:
        """Raises ConfigError if there are more kinds than layers."""
        period = len(config.layers)
        if period > num_layers:
            raise ConfigError(f"attention.layers: {period} kinds, but the stack has num_layers={num_layers}")
        kinds = [  # layers of the same kind come from one stack, so that they can share parameters
            iter(
                attention_stack(
                    kind,
                    num_layers=len(range(number, num_layers, period)),
                    dim=dim,
                    num_heads=num_heads,
                    head_dim=head_dim,
                )
            )
            for number, kind in enumerate(config.layers)
        ]
        return [next(kinds[layer % period]) for layer in range(num_layers)]

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        raise AssertionError("its layers are other kinds")
