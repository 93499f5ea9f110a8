"""One stack over a source and a target side by side: neither an encoder nor a decoder.

Chan et al. 2019, https://arxiv.org/abs/1906.01604, section 3. The canvas of a row is [BOS x EOS BOS y EOS]; positions
begin again with each segment, so that neither side's depend on how long the other one is (it may be unknown, or grow),
and an embedding of the segment tells the sides apart. A side that is absent is not on the canvas at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import Component, option
from nat.data.batch import Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.nn.attention.base import tightest
from nat.nn.dropout import Dropout
from nat.nn.embedding import Embeddings, OutputLayer, PositionConfig, Positions, TokenEmbedding
from nat.nn.head import without
from nat.nn.transformer import Encoder, Size, initialise
from nat.ops.editing import bracket, deletion, rearrange

BOS, EOS = int(Symbol.BOS), int(Symbol.EOS)


class Side(IntEnum):
    SOURCE = 0
    TARGET = 1


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Options of a method with one stack."""

    encoder: Component[Encoder] = option(help="the one stack, from the group `encoder`")
    size: Size = field(default_factory=Size)
    positions: PositionConfig = field(default_factory=PositionConfig)


@dataclass(frozen=True)
class Segment(Tokens):
    """One side of the canvases, right-padded. present: (B,) False where the side is not on the canvas."""

    present: Bool[Tensor, " B"]


class JointNet(nn.Module):
    """From two segments to the logits of what may be inserted into the slots of each.

    Slot g of a segment lies between the positions g and g + 1 of the bracketed one; its state is a linear map of the
    states of the two. Parts have the names of `nat.nn.seq2seq.Seq2Seq`, for `init_from`.
    """

    def __init__(self, config: JointConfig, *, vocabularies: Vocabularies, symbols: tuple[Symbol, ...]) -> None:
        """symbols: the special symbols that the method can insert."""
        super().__init__()
        if vocabularies.points:
            raise ConfigError("data.tokenizer.kind=points: one stack over both sides needs text on both")
        dim, initial = config.size.dim, config.size.initial
        self.encoder = config.encoder.build(size=config.size)
        self.embeddings = Embeddings(vocabularies, dim=dim, initial=initial)
        self.source_positions = Positions(config.positions, dim=dim, initial=initial)
        self.target_positions = Positions(config.positions, dim=dim, initial=initial)
        self.segments = nn.Parameter(torch.randn(2, dim))  # of the size of scaled token embeddings
        self.dropout = Dropout(config.size.dropout)
        self.slot = nn.Linear(2 * dim, dim)
        initialise(self.slot, config.size.initial)
        self.source_output = OutputLayer(vocabularies.source_size, symbols=symbols)
        self.target_output = OutputLayer(vocabularies.target_size, symbols=symbols)

    @property
    def max_length(self) -> int | None:
        """The most tokens that a side may have, beside one of the other side; None where there is no limit."""
        positions, total = self.source_positions.max_length, self.max_total_length
        return tightest((None if positions is None else positions - 2, None if total is None else total - 1))

    @property
    def max_total_length(self) -> int | None:
        """The most tokens that both sides may have together, for one attention reads both and the four ends; None where
        there is no limit."""
        return None if self.encoder.max_length is None else self.encoder.max_length - 4

    @property
    def forbidden(self) -> list[int]:
        """Symbols that are never inserted, the same on both sides."""
        return self.target_output.forbidden

    def forward(self, source: Segment, target: Segment) -> tuple[Float[Tensor, "B G D"], Float[Tensor, "B H D"]]:
        """States of the slots of the source and of the target; what stands in slots that a row does not have means
        nothing."""
        left, left_valid = self.place(source, Side.SOURCE)
        right, right_valid = self.place(target, Side.TARGET)
        both, valid = torch.cat((left, right), dim=1), torch.cat((left_valid, right_valid), dim=1)
        # no padding within a canvas: windows and blocks of attention count columns
        origin, together = deletion(valid, most=valid.size(1))
        states = self.encoder(self.dropout(rearrange(both, origin)), together)
        begins = left_valid.sum(dim=1, keepdim=True)
        return self.slots(states, torch.zeros_like(begins), left.size(1)), self.slots(states, begins, right.size(1))

    def place(self, segment: Segment, side: Side) -> tuple[Float[Tensor, "B E D"], Bool[Tensor, "B E"]]:
        """The bracketed segment, embedded."""
        tokens, valid = bracket(segment.tokens, segment.valid, first=BOS, last=EOS)
        positions = self.source_positions if side is Side.SOURCE else self.target_positions
        x = self.embedding(side)(tokens) + positions(tokens.size(1)) + self.segments[int(side)]
        return x, valid & segment.present[:, None]

    def slots(self, states: Float[Tensor, "B L D"], begins: Int[Tensor, "B 1"], width: int) -> Float[Tensor, "B G D"]:
        """Of the segment that begins at this column of each canvas; the longest one has `width` columns."""
        columns = (begins + torch.arange(width, device=states.device)).clamp(max=states.size(1) - 1)
        segment = rearrange(states, columns)
        return self.slot(torch.cat((segment[:, :-1], segment[:, 1:]), dim=-1))

    def logits(
        self, slots: Float[Tensor, "*B D"], side: Side, *, banned: tuple[int, ...] = ()
    ) -> Float[Tensor, "*B V"]:
        """Of the tokens of each slot, in the vocabulary of the side without the banned symbols."""
        output = self.source_output if side is Side.SOURCE else self.target_output
        logits: Tensor = output(slots, self.embedding(side))
        return without(logits, banned)

    def embedding(self, side: Side) -> TokenEmbedding:
        embedding = self.embeddings.source if side is Side.SOURCE else self.embeddings.target
        assert isinstance(embedding, TokenEmbedding)
        return embedding
