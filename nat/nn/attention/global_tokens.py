"""Global tokens: some of the sequence's own, or extra ones, that see everything and are seen by everything.

Both kinds are those of Ainslie et al. 2020 (https://arxiv.org/abs/2004.08483), Beltagy et al. 2020, section 3.1
(https://arxiv.org/abs/2004.05150), and Zaheer et al. 2020, section 2 (https://arxiv.org/abs/2007.14062).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import HeadAttention, SelfAttention
from nat.ops.blocks import row_lengths
from nat.ops.global_tokens import attend_from_first, global_attention
from nat.ops.window import Shared


class ExtraTokens(nn.Module):
    """Learned tokens beside the sequence: they look at all of it and at each other, and the sequence then looks at what
    has become of them.

    Departs from ETC: they begin anew in every layer instead of living through the stack, so a layer does both steps,
    with the projections that the sequence has, and a normalisation between them.
    """

    def __init__(self, number: int, *, dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(number, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        heads: HeadAttention,
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        lengths: Int[Tensor, " B"],
        *,
        dropout: float,
    ) -> Shared:
        """Their keys and values after they have looked at the sequence."""
        batch = (keys.size(0), -1, -1, -1)
        own_queries, own_keys, own_values = (part.expand(batch) for part in heads.project(self.tokens[None]))
        seen = torch.ones(own_keys.size(0), own_keys.size(2), dtype=torch.bool, device=keys.device)
        themselves = Shared(own_keys, own_values, seen)
        taken = attend_from_first(own_queries, keys, values, lengths, extra=themselves, dropout=dropout)
        _, own_keys, own_values = heads.project(self.norm(self.tokens + heads.merge(taken)))
        return Shared(own_keys, own_values, seen)


class GlobalAttention(SelfAttention):
    """A window, and global tokens. Time and memory: N * (window + global tokens)."""

    @dataclass(frozen=True)
    class Config:
        num_tokens: int = option(1, "the sequence's first tokens that are global", minimum=0, maximum=1_000_000)
        num_extra: int = option(0, "extra, learned global tokens", minimum=0, maximum=1_000_000)
        window: int = option(
            64, "positions that are seen to each side, beside the global ones", minimum=0, maximum=1_000_000
        )
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

        def __post_init__(self) -> None:
            if not self.num_tokens + self.num_extra:
                raise ConfigError("num_tokens=0: needs num_extra; without global tokens it is the kind `local`")

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config
        self.extra = ExtraTokens(config.num_extra, dim=dim) if config.num_extra else None

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        config, lengths = self.config, row_lengths(queries, valid)
        dropout = config.dropout if self.training else 0.0
        extra = None if self.extra is None else self.extra(self, keys, values, lengths, dropout=dropout)
        return global_attention(
            queries,
            keys,
            values,
            lengths,
            window=config.window,
            first=config.num_tokens,
            extra=extra,
            dropout=dropout,
        )
