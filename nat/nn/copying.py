"""A pointer-generator head: the output mixes the vocabulary's distribution with copies of source tokens.

See, Liu & Manning 2017, section 2.2, https://arxiv.org/abs/1704.04368. Whatever predicts tokens from decoder states can
have it: a step of the teacher, the positions of a canvas, slots, every layer under deep supervision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import check_heads
from nat.nn.transformer import Memory, Size, initialise
from nat.ops.mixture import mix_with_copies
from nat.ops.precision import at_least_float32
from nat.rows import Rows


@dataclass(frozen=True)
class Copying:
    """Options of the head."""

    enabled: bool = option(False, "mix the vocabulary's distribution with copies of source tokens")
    num_heads: int = option(
        1, "heads of the attention that points at what is copied, their mean", minimum=1, maximum=4096
    )
    initial_share: float = option(0.5, "share of copies, 1 - p_gen, that training begins with", above=0, below=1)

    def __post_init__(self) -> None:
        for f in fields(self):
            if not self.enabled and getattr(self, f.name) != f.default:
                raise ConfigError(f"{f.name}={getattr(self, f.name)}: has no effect without enabled=true")


@dataclass(frozen=True)
class Copyable(Rows):
    """A source to copy from. keys: (B, H, S, D/H) what attention compares with. states: (B, S, D). tokens: (B, S).
    allowed: (B, S) True at tokens that the method may write."""

    keys: Float[Tensor, "B H S E"]
    states: Float[Tensor, "B S D"]
    tokens: Int[Tensor, "B S"]
    allowed: Bool[Tensor, "B S"]


class CopyHead(nn.Module):
    """Attention from a decoder state to the source, and the gate p_gen.

    Departs from the paper: the attention is a scaled dot product, of this head alone, not the one that the decoder
    reads the source with; and the gate sees the decoder's input only through the state (residual connections).
    """

    def __init__(self, config: Copying, *, size: Size, forbidden: list[int]) -> None:
        """forbidden: ids that the method must not write, and so must not copy. Raises ConfigError."""
        super().__init__()
        try:
            check_heads(size.dim, config.num_heads)
        except ConfigError as error:
            raise ConfigError(f"copying.{error}") from None
        self.num_heads = config.num_heads
        self.query, self.key = nn.Linear(size.dim, size.dim), nn.Linear(size.dim, size.dim)
        self.gate = nn.Linear(2 * size.dim, 1)
        initialise(self, size.initial)
        nn.init.constant_(self.gate.bias, math.log(1 / config.initial_share - 1))
        self.register_buffer("forbidden", torch.tensor(forbidden), persistent=False)

    forbidden: Tensor

    def copyable(self, memory: Memory) -> Copyable:
        """What is the same for all that is predicted from a source."""
        assert memory.tokens is not None
        allowed = memory.valid & ~torch.isin(memory.tokens, self.forbidden)
        return Copyable(self.split(self.key(memory.states)), memory.states, memory.tokens, allowed)

    def forward(
        self, log_probs: Float[Tensor, "B L V"], states: Float[Tensor, "B L D"], source: Copyable
    ) -> Float[Tensor, "B L V"]:
        """log P of the mixture, from log P_vocab and the decoder states that it was made of."""
        weights = self.weights(states, source)
        context = weights.to(source.states.dtype) @ source.states  # h* of equation 3
        gate = at_least_float32(self.gate(torch.cat((states, context.to(states.dtype)), dim=-1))).squeeze(-1)
        return mix_with_copies(log_probs, weights, gate, source.tokens, source.allowed)

    def weights(self, states: Float[Tensor, "B L D"], source: Copyable) -> Float[Tensor, "B L S"]:
        """Where each state points; 0 where nothing may be copied."""
        scores = at_least_float32(self.split(self.query(states)) @ source.keys.transpose(2, 3))
        closed = ~source.allowed & source.allowed.any(dim=1, keepdim=True)  # a softmax over nothing is NaN
        scores = (scores / math.sqrt(source.keys.size(-1))).masked_fill(closed[:, None, None], -torch.inf)
        return scores.softmax(dim=-1).mean(dim=1).masked_fill(~source.allowed[:, None], 0.0)

    def split(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N E"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
