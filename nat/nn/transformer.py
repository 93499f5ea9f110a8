"""The transformer stacks that all methods share (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Normalisation before each sub-layer by default (Xiong et al. 2020, https://arxiv.org/abs/2002.04745).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import Component, option
from nat.nn.attention.base import Attention, attention_stack, tightest
from nat.nn.attention.full import FullAttention
from nat.nn.dropout import Dropout
from nat.nn.embedding import NORMAL_STD, Initial
from nat.ops.precision import as_multiplied
from nat.rows import Padded


class Norm(Enum):
    PRE = "pre"
    POST = "post"


@dataclass(frozen=True)
class Size:
    """The dimensions that the stacks of a model share; the model gives them to its parts."""

    dim: int = option(512, "width D of the hidden states", minimum=2, maximum=65536)
    num_heads: int = option(8, "attention heads; must divide dim", minimum=1, maximum=4096)
    ffn_dim: int = option(2048, "width of the feed-forward layers", minimum=1, maximum=2**20)
    dropout: float = option(0.1, "dropout after embeddings and sub-layers", minimum=0, below=1)
    norm: Norm = option(Norm.PRE, "layer normalisation: pre or post")
    initial: Initial = option(Initial.XAVIER, "initial weights: xavier (uniform) or normal (standard deviation 0.02)")


@dataclass(frozen=True)
class Memory(Padded):
    """The encoder's view of the source. states: (B, S, D). valid: (B, S). tokens: (B, S) what stands there, for who
    copies; None from an encoder that is asked by itself. banned: symbols that are not to be written from it. full: see
    `nat.rows.Padded`.

    copies: rows that read each sentence, side by side, see `shared`: of N = B * copies rows, B are stored. projected:
    keys and values (B, H, S, E) by the cross-attention that they are of, where they are made, see `Decoder.project`.
    """

    states: Float[Tensor, "B S D"]
    valid: Bool[Tensor, "B S"]
    tokens: Int[Tensor, "B S"] | None = None
    banned: tuple[int, ...] = ()
    copies: int = 1
    projected: dict[FullAttention, tuple[Tensor, Tensor]] = field(default_factory=dict)
    full: bool = False

    def __len__(self) -> int:
        """Rows that read it, N."""
        return len(self.states) * self.copies

    def shared(self, copies: int) -> Self:
        """Read by `copies` rows for each row that reads it now: as `repeat_rows`, with nothing repeated."""
        return replace(self, copies=self.copies * copies)

    def select(self, rows: Int[Tensor, " M"] | Bool[Tensor, " N"]) -> Self:
        """What these of the N rows read, each its own copy."""
        if self.copies == 1:
            return super().select(rows)
        places = rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows
        return replace(self, copies=1).select(places // self.copies)

    def keys_values(self, attention: FullAttention) -> tuple[Float[Tensor, "B H S E"], Float[Tensor, "B H S E"]]:
        """What this cross-attention reads."""
        made = self.projected.get(attention)
        return attention.keys_values(self.states) if made is None else made


class FeedForward(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.widen = nn.Linear(size.dim, size.ffn_dim)
        self.narrow = nn.Linear(size.ffn_dim, size.dim)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.narrow(F.relu(self.widen(x)))


class Residual(nn.Module):
    """Normalisation, dropout and residual connection around a sub-layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.pre = size.norm is Norm.PRE
        self.norm = nn.LayerNorm(size.dim)
        self.dropout = Dropout(size.dropout)

    def enter(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.norm(x) if self.pre else x

    def leave(self, x: Float[Tensor, "B L D"], update: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        x = x + self.dropout(update)
        return x if self.pre else self.norm(x)


class Layer(nn.Module):
    """Self-attention, positional attention where a method has it, cross-attention where there is a memory,
    feed-forward."""

    def __init__(
        self,
        size: Size,
        self_attention: Attention,
        cross_attention: FullAttention | None,
        *,
        positional_attention: Attention | None = None,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual = Residual(size)
        self.positional_attention = positional_attention
        self.positional_residual = None if positional_attention is None else Residual(size)
        self.cross_attention = cross_attention
        self.cross_residual = None if cross_attention is None else Residual(size)
        self.feed_forward = FeedForward(size)
        self.feed_forward_residual = Residual(size)

    def forward(
        self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"] | None, memory: Memory | None = None
    ) -> Float[Tensor, "B L D"]:
        entered = self.self_residual.enter(x)
        x = self.self_residual.leave(x, self.self_attention(entered, entered, valid))
        if self.positional_attention is not None and self.positional_residual is not None:
            entered = self.positional_residual.enter(x)
            x = self.positional_residual.leave(x, self.positional_attention(entered, entered, valid))
        if self.cross_attention is not None and self.cross_residual is not None:
            assert memory is not None
            x = self.cross_residual.leave(x, read(self.cross_attention, self.cross_residual.enter(x), memory))
        return self.feed(x)

    @property
    def max_length(self) -> int | None:
        """The most positions that its attention takes; None where there is no limit."""
        kinds = (self.self_attention, self.positional_attention)
        return tightest(kind.max_length for kind in kinds if kind is not None)

    def cross_weights(
        self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"] | None, memory: Memory
    ) -> Float[Tensor, "B H L S"]:
        """Where each head of the cross-attention looks, for the input that `forward` has."""
        assert self.cross_attention is not None
        assert self.cross_residual is not None
        entered = self.self_residual.enter(x)
        x = self.self_residual.leave(x, self.self_attention(entered, entered, valid))
        queries = self.cross_attention.queries(self.cross_residual.enter(x))
        keys, _ = memory.keys_values(self.cross_attention)
        return self.cross_attention.weights(queries, keys, memory.mask)

    def feed(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        update = self.feed_forward(self.feed_forward_residual.enter(x))
        return self.feed_forward_residual.leave(x, update)


def read(attention: FullAttention, x: Float[Tensor, "N L D"], memory: Memory) -> Float[Tensor, "N L D"]:
    """What each position takes from the memory. Rows that read one sentence are more queries of its one memory."""
    queries = attention.queries(x.reshape(len(memory.states), -1, x.size(2)))  # (B, H, copies * L, E)
    return attention.attend(queries, *memory.keys_values(attention), memory.mask).view_as(x)


class Encoder(nn.Module):
    """Embedded source -> the states of a memory. Its self-attention kind comes from the config."""

    @dataclass(frozen=True)
    class Config:
        attention: Component[Attention] = option(help="the self-attention kind, from the group `attention`")
        num_layers: int = option(6, "layers", minimum=1, maximum=1024)

    def __init__(self, config: Config, *, size: Size) -> None:
        super().__init__()
        kinds = attention_stack(config.attention, num_layers=config.num_layers, dim=size.dim, num_heads=size.num_heads)
        self.layers = nn.ModuleList(Layer(size, attention, None) for attention in kinds)
        self.norm = nn.LayerNorm(size.dim) if size.norm is Norm.PRE else nn.Identity()
        initialise(self, size.initial)

    @property
    def max_length(self) -> int | None:
        """The most positions that its attention takes; None where there is no limit."""
        return tightest(layer.max_length for layer in self.layers if isinstance(layer, Layer))

    def forward(self, x: Float[Tensor, "B S D"], valid: Bool[Tensor, "B S"] | None) -> Float[Tensor, "B S D"]:
        """valid: None where all positions are."""
        for layer in self.layers:
            x = layer(x, valid)
        return as_multiplied(self.norm(x))


@dataclass(frozen=True)
class DecoderConfig:
    """A stack with cross-attention to the memory. `attention` is its self-attention where nothing is causal."""

    num_layers: int = option(6, "layers", minimum=1, maximum=1024)


class Decoder(nn.Module):
    """A stack over the canvas that also attends to the memory, unless the canvas is made of it."""

    def __init__(
        self,
        self_attentions: list[Attention],
        *,
        size: Size,
        positional_attentions: list[Attention] | None = None,
        cross_attention: bool = True,
    ) -> None:
        """positional_attentions: one for each layer (Gu et al. 2018, section 3.2); None: layers have none.
        cross_attention: False where layers see the source in their input alone."""
        super().__init__()
        without: list[Attention | None] = [None] * len(self_attentions)
        self.layers = nn.ModuleList(
            Layer(
                size,
                attention,
                FullAttention(FullAttention.Config(), dim=size.dim, num_heads=size.num_heads)
                if cross_attention
                else None,
                positional_attention=between,
            )
            for attention, between in zip(self_attentions, positional_attentions or without, strict=True)
        )
        self.norm = nn.LayerNorm(size.dim) if size.norm is Norm.PRE else nn.Identity()
        initialise(self, size.initial)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        valid: Bool[Tensor, "B L"] | None,
        memory: Memory,
        *,
        num_layers: int | None = None,
    ) -> Float[Tensor, "B L D"]:
        """num_layers: leave the stack after so many (early exit); None: after all."""
        for layer in self.stack[:num_layers]:
            x = layer(x, valid, memory)
        return self.norm(x)

    def project(self, memory: Memory) -> Memory:
        """With the keys and values of every layer: for who reads a memory several times, or through copies of it."""
        readers = [layer.cross_attention for layer in self.stack if layer.cross_attention is not None]
        return replace(memory, projected=memory.projected | {reader: memory.keys_values(reader) for reader in readers})

    def cross_weights(
        self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"] | None, memory: Memory, *, layer: int
    ) -> Float[Tensor, "B H L S"]:
        """Where each head of the cross-attention of layer `layer`, from 0, looks."""
        for before in self.stack[:layer]:
            x = before(x, valid, memory)
        return self.stack[layer].cross_weights(x, valid, memory)

    @property
    def max_length(self) -> int | None:
        """The longest canvas that its attention takes, in positions; None where there is no limit."""
        return tightest(layer.max_length for layer in self.stack)

    @property
    def stack(self) -> list[Layer]:
        """The layers with their type, for decoders that step through them."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]


def initialise(module: nn.Module, initial: Initial) -> None:
    """Weights of every linear map inside, with zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            if initial is Initial.XAVIER:
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.normal_(part.weight, std=NORMAL_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
