"""Encoder, decoder, embeddings and output layer: what every method is built from, once.

A model holds one of these as `net`, so that the weights of the same part have the same name in every method
(`init_from` copies by name).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import Component, option
from nat.data.batch import Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.nn.attention.base import Attention, attention_stack, tightest
from nat.nn.copying import Copyable, CopyHead, Copying
from nat.nn.dropout import Dropout
from nat.nn.embedding import Embeddings, OutputLayer, PositionConfig, Positions
from nat.nn.factored_blank import FactoredHead, blank_gate
from nat.nn.head import Head
from nat.nn.rng import RowRandom
from nat.nn.transformer import Decoder, DecoderConfig, Encoder, Memory, Size
from nat.rows import Rows

Guide = Callable[[Tensor], Tensor]  # states (B, L, D) of a layer -> tokens (B, L) that the next one feeds on


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Options of every method with an encoder and a decoder."""

    encoder: Component[Encoder] = option(help="the source encoder, from the group `encoder`")
    size: Size = field(default_factory=Size)
    positions: PositionConfig = field(default_factory=PositionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Seq2SeqConfig):
    """Options of every method whose decoder sees the whole canvas."""

    attention: Component[Attention] = option(help="the decoder's self-attention kind, from the group `attention`")

    def attentions(self, num_layers: int | None = None) -> Iterator[Attention]:
        """The self-attention of each decoder layer, made when asked for: a seed's weights depend on the order in which
        parts are made. num_layers: None is the decoder's own number."""
        size = self.size
        yield from attention_stack(
            self.attention, num_layers=num_layers or self.decoder.num_layers, dim=size.dim, num_heads=size.num_heads
        )


@dataclass(frozen=True)
class DeepSupervision:
    """Every decoder layer predicts, and feeds its prediction on (Huang et al. 2022,
    https://arxiv.org/abs/2110.07515)."""

    enabled: bool = option(False, "every decoder layer predicts and feeds its prediction on to the next")
    gold: float = option(
        0.3, "training: share of positions that feed the reference's token on instead", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class Conditions(Rows):
    """What the passes over a canvas are conditioned on. random: the rows' own numbers, where tokens are sampled."""

    memory: Memory
    random: RowRandom | None = None


class Seq2Seq(nn.Module):
    """The parts, and the steps from tokens to states, of which `head` tells the tokens."""

    def __init__(
        self,
        config: Seq2SeqConfig,
        *,
        vocabularies: Vocabularies,
        symbols: tuple[Symbol, ...],
        decoder: Decoder | Iterable[Attention],
        cross_attention: bool = True,
        deep: bool = False,
        copying: Copying | None = None,
        factored_blank: bool = False,
    ) -> None:
        """symbols: the special symbols that the method can produce. decoder: the stack, or the self-attention of
        each layer of an ordinary one. cross_attention: of such a one. deep: layers feed their predictions on. copying:
        None is without. factored_blank: a gate of its own decides the blank, see `nat.nn.factored_blank`."""
        super().__init__()
        if deep and config.decoder.num_layers == 1:
            raise ConfigError("deep_supervision.enabled=true: has no effect with decoder.num_layers=1")
        copies = copying is not None and copying.enabled
        if copies and not vocabularies.shared:
            raise ConfigError(
                "copying.enabled=true: needs one vocabulary for source and target, data.tokenizer.joint=true"
            )
        dim, initial = config.size.dim, config.size.initial
        self.encoder = config.encoder.build(size=config.size)
        if not isinstance(decoder, Decoder):
            decoder = Decoder(list(decoder), size=config.size, cross_attention=cross_attention)
        self.decoder = decoder
        self.embeddings = Embeddings(vocabularies, dim=dim, initial=initial)
        self.source_positions = Positions(config.positions, dim=dim, initial=initial)
        self.target_positions = Positions(config.positions, dim=dim, initial=initial)
        self.dropout = Dropout(config.size.dropout)
        self.blank_gate = blank_gate(dim) if factored_blank else None
        words = tuple(symbol for symbol in symbols if symbol is not Symbol.BLANK)
        self.output = OutputLayer(vocabularies.target_size, symbols=words if factored_blank else symbols)
        self.feedback = nn.ModuleList(
            _identity_of_first(dim) for _ in range(config.decoder.num_layers - 1 if deep else 0)
        )
        self.copying: CopyHead | None = None
        if copying is not None and copies:
            self.copying = CopyHead(copying, size=config.size, forbidden=self.output.forbidden)

    @property
    def max_source_length(self) -> int | None:
        """The most tokens that positions and attention of the encoder take; None where there is no limit."""
        return tightest((self.source_positions.max_length, self.encoder.max_length))

    @property
    def max_target_length(self) -> int | None:
        """The longest canvas that positions and attention of the decoder take, in positions; None where there is no
        limit."""
        return tightest((self.target_positions.max_length, self.decoder.max_length))

    @property
    def static(self) -> bool:
        """Whether equal shapes run the same kernels, and the host waits for none of them."""
        kinds = [part for part in self.modules() if isinstance(part, Attention)]
        return type(self.encoder) is Encoder and all(kind.static for kind in kinds)

    def encode(self, source: Source, *, first: Float[Tensor, " D"] | None = None) -> Memory:
        """source: right-padded. first: the embedding of an extra position before the tokens."""
        x = self.embeddings.source(source.tokens) + self.source_positions(source.tokens.size(1))
        tokens, valid, full = source.tokens, source.valid, source.mask is None
        if first is not None:
            x = torch.cat((first.expand(x.size(0), 1, -1).to(x.dtype), x), dim=1)
            tokens, valid = F.pad(tokens, (1, 0), value=int(Symbol.PAD)), F.pad(valid, (1, 0), value=True)
        return Memory(self.encoder(self.dropout(x), None if full else valid), valid, tokens, full=full)

    def encode_once(self, source: Source) -> Memory:
        """As `encode`, where many sources are equal: each is encoded, and its keys and values are projected, once for
        all rows that read it."""
        tokens = source.tokens.masked_fill(~source.valid, int(Symbol.PAD))
        distinct, reader = torch.unique(tokens, dim=0, return_inverse=True)
        if len(distinct) == len(source):
            return self.encode(source)
        rows = torch.arange(len(source), device=source.device)
        memory = self.encode(source.select(rows.new_empty(len(distinct)).scatter(0, reader, rows)))
        return self.decoder.project(memory).select(reader)

    def embed(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Target embeddings, without positions."""
        return self.embeddings.target(tokens)

    def place(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The decoder's input: with positions added, and dropout."""
        return self.dropout(x + self.target_positions(x.size(1)))

    def head(self, memory: Memory) -> Head:
        """What is asked of states that read this memory."""
        return self.head_for(self.copyable(memory), memory.banned)

    def copyable(self, memory: Memory) -> Copyable | None:
        """What the head may copy from; None where nothing is copied."""
        return None if self.copying is None else self.copying.copyable(memory).repeat_rows(memory.copies)

    def head_for(self, source: Copyable | None, banned: tuple[int, ...] = ()) -> Head:
        """source: what `copyable` gave."""
        parts = self.output, self.embeddings.target, self.copying, source, banned
        return Head(*parts) if self.blank_gate is None else FactoredHead(*parts, gate=self.blank_gate)

    def states(
        self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"] | None, memory: Memory
    ) -> Float[Tensor, "B L D"]:
        """Of the last layer, for the head; x: placed decoder inputs. valid: None where all are."""
        return self.layers(x, valid, memory)[-1]

    def log_probs(
        self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"], memory: Memory
    ) -> Float[Tensor, "B L V"]:
        """All that the head says of the last layer's states."""
        return self.head(memory).full(self.states(x, valid, memory))

    def layers(
        self,
        x: Float[Tensor, "B L D"],
        valid: Bool[Tensor, "B L"] | None,
        memory: Memory,
        *,
        guide: Guide | None = None,
    ) -> list[Float[Tensor, "B L D"]]:
        """States of the layers that predict, the last layer's last; x: placed decoder inputs.

        guide: with deep supervision, the tokens that a layer feeds on, given its states; None: its arg max.
        """
        if not self.feedback:
            return [self.decoder(x, valid, memory)]
        choose = self.head(memory).argmax if guide is None else guide
        layers = []
        for number, layer in enumerate(self.decoder.stack):
            x = layer(x, valid, memory)
            layers.append(self.decoder.norm(x))
            if number < len(self.feedback):
                with torch.no_grad():
                    tokens = choose(layers[-1])
                x = self.feedback[number](torch.cat((x, self.embed(tokens)), dim=-1))
        return layers


def _identity_of_first(dim: int) -> nn.Linear:
    """(state, embedding) -> state: it begins as if nothing was fed on."""
    layer = nn.Linear(2 * dim, dim)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim, 2 * dim))
        layer.bias.zero_()
    return layer
