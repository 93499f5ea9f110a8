"""Attention between positions, and attention to all positions but one's own.

The two kinds of self-attention in every decoder layer of Gu et al. 2018, section 3.2,
https://arxiv.org/abs/1711.02281.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nat.nn.attention.full import FullAttention
from nat.nn.embedding import PositionConfig, Positions


class PositionalAttention(FullAttention):
    """Queries and keys are sinusoidal position encodings, values the states (Gu et al. 2018, section 3.2).

    Where a state looks depends on positions alone, the same in all rows: column p of `x` is position p, so padding
    must be on the right.
    """

    def __init__(self, config: FullAttention.Config, *, dim: int, num_heads: int) -> None:
        super().__init__(config, dim=dim, num_heads=num_heads)
        self.positions = Positions(PositionConfig(), dim=dim)

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "positional attention is self-attention"
        weight, bias, cut = self.project_in.weight, self.project_in.bias, 2 * x.size(-1)
        places = F.linear(self.positions(x.size(1))[None], weight[:cut], bias[:cut])  # (1, L, 2 D)
        queries, keys = (self.split(part).expand(len(x), -1, -1, -1) for part in places.chunk(2, dim=-1))
        values = self.split(F.linear(x, weight[cut:], bias[cut:]))
        return self.attend(queries, keys, values, valid)


class OthersAttention(FullAttention):
    """Self-attention in which a position does not see itself (Gu et al. 2018, section 3.2).

    A position that has no other (a canvas of one token) receives nothing: zeros from the mixing, hence the bias of
    the output projection alone.
    """

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "attention to the others is self-attention"
        queries, keys, values = self.project(x)
        others = ~torch.eye(x.size(1), dtype=torch.bool, device=x.device)[None]  # (1, L, L)
        if valid is not None:
            others = others & valid[:, None, :]
        alone = ~others.any(dim=-1)  # (B or 1, L)
        # A softmax over nothing is NaN in some kernels: let these look everywhere, and take it away again.
        mixed = self.mix(queries, keys, values, (others | alone[:, :, None])[:, None])
        return self.merge(mixed.masked_fill(alone[:, None, :, None], 0.0))
