"""BigBird: a window, global tokens and random blocks (Zaheer et al. 2020, section 2 and appendix D,
https://arxiv.org/abs/2007.14062)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.base import AttentionOfLayer, SelfAttention
from nat.nn.attention.global_tokens import ExtraTokens
from nat.nn.rng import RowRandom, seed_for
from nat.ops.blocks import row_lengths
from nat.ops.global_tokens import attend_from_first, with_first
from nat.ops.random_blocks import random_block_attention


class BigBirdAttention(AttentionOfLayer, SelfAttention):
    """A block sees the blocks around it, random ones, and global tokens: the sequence's first (the paper's ITC), extra
    ones (ETC), or both. Time and memory: N * (all that a block sees).

    The random blocks are drawn once, by the seed, for each layer and head: their keys are part of the weights. They are
    spread over the row's own blocks.

    Departs from the paper: the global tokens are the first ones alone; extra tokens as in `ExtraTokens`.
    """

    keys: Tensor

    @dataclass(frozen=True)
    class Config:
        block_size: int = option(64, "positions of a block", minimum=1, maximum=1_000_000)
        num_window_blocks: int = option(
            3, "blocks of the window, its own in the middle: an odd number", minimum=1, maximum=1_000_000
        )
        num_random_blocks: int = option(3, "random blocks that a block sees", minimum=1, maximum=1_000_000)
        num_tokens: int = option(128, "the sequence's first tokens that are global", minimum=0, maximum=1_000_000)
        num_extra: int = option(0, "extra, learned global tokens", minimum=0, maximum=1_000_000)
        seed: int = option(1, "seed of the random blocks", minimum=0)
        dropout: float = option(0.0, "dropout on the attention weights", minimum=0, below=1)

        def __post_init__(self) -> None:
            if self.num_window_blocks % 2 == 0:
                raise ConfigError(f"num_window_blocks={self.num_window_blocks}: must be odd, as many to each side")

    def __init__(
        self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None, layer: int = 0
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.config = config
        self.extra = ExtraTokens(config.num_extra, dim=dim) if config.num_extra else None
        seeds = [seed_for("bigbird", config.seed, layer, head) % 2**40 for head in range(num_heads)]
        self.register_buffer("keys", torch.tensor(seeds))  # so small that the mean of several checkpoints is exact

    def mix(
        self,
        queries: Float[Tensor, "B H N E"],
        keys: Float[Tensor, "B H N E"],
        values: Float[Tensor, "B H N E"],
        valid: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N E"]:
        config, lengths = self.config, row_lengths(queries, valid)
        dropout, first = config.dropout if self.training else 0.0, config.num_tokens
        extra = None if self.extra is None else self.extra(self, keys, values, lengths, dropout=dropout)
        mixed = random_block_attention(
            queries,
            keys,
            values,
            lengths,
            width=config.block_size,
            reach=config.num_window_blocks // 2,
            uniform=self.uniform(-(-keys.size(2) // config.block_size)),
            shared=with_first(keys, values, lengths, first=first, extra=extra),
            skip=first,
            dropout=dropout,
        )
        if not first:
            return mixed
        rows = attend_from_first(queries[:, :, :first], keys, values, lengths, extra=extra, dropout=dropout)
        return torch.cat((rows, mixed[:, :, first:]), dim=2)

    def uniform(self, num_blocks: int) -> Float[Tensor, "H C R"]:
        """The numbers that choose random blocks: those of a block do not depend on how many there are."""
        return RowRandom(self.keys).uniform(num_blocks, self.config.num_random_blocks)
