"""The canvas of latent alignments: every encoder state split into s slots."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.nn.attention.base import tightest
from nat.nn.copying import Copying
from nat.nn.head import Head
from nat.nn.limits import LengthLimits
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.transformer import DecoderConfig, Memory
from nat.ops import ctc
from nat.ops.lattice import TargetScores, target_ids
from nat.rows import Padded


@dataclass(frozen=True)
class SlotDecoderConfig(DecoderConfig):
    """Without cross-attention, layers see the source through the split alone (late upsampling): then most layers belong
    into the encoder, which computes at S positions and not at s S."""

    cross_attention: bool = option(True, "layers attend to the encoder; false: late upsampling, slots are all they see")


@dataclass(frozen=True, kw_only=True)
class SplitConfig(ParallelConfig):
    """Options of every method whose canvas is made of split encoder states."""

    decoder: SlotDecoderConfig = field(default_factory=SlotDecoderConfig)
    upsampling: int = option(2, "slots s for each source token", minimum=1, maximum=100)
    label_smoothing: float = option(0.0, "weight of the uniform distribution over slots", minimum=0, below=1)
    copying: Copying = field(default_factory=Copying)

    def build(
        self,
        vocabularies: Vocabularies,
        *,
        symbols: tuple[Symbol, ...],
        deep: bool = False,
        factored_blank: bool = False,
    ) -> tuple[Seq2Seq, SlotSplit]:
        """The parts of such a method; symbols, deep, factored_blank: as `Seq2Seq` has them."""
        net = Seq2Seq(
            self,
            vocabularies=vocabularies,
            symbols=symbols,
            decoder=self.attentions(),
            cross_attention=self.decoder.cross_attention,
            deep=deep,
            copying=self.copying,
            factored_blank=factored_blank,
        )
        return net, SlotSplit(self.upsampling, dim=self.size.dim)


@dataclass(frozen=True, kw_only=True)
class SlotConfig(SplitConfig):
    """Options of every method whose slots may be blank."""

    factored_blank: bool = option(False, "a gate decides the blank, the softmax is over words alone: quicker to decode")

    def parts(self, vocabularies: Vocabularies, *, deep: bool = False) -> tuple[Seq2Seq, SlotSplit]:
        """The parts of such a method. deep: with deep supervision."""
        symbols = (Symbol.UNK, Symbol.BLANK)
        return self.build(vocabularies, symbols=symbols, deep=deep, factored_blank=self.factored_blank)


@dataclass(frozen=True)
class Slots(Padded):
    """states: (B, A, D) decoder inputs, without positions. valid: (B, A), A = s S. full: as in
    `nat.rows.Padded`."""

    states: Float[Tensor, "B A D"]
    valid: Bool[Tensor, "B A"]
    full: bool = False


class SlotSplit(nn.Module):
    """A linear map from each encoder state to s decoder inputs (Libovicky & Helcl 2018, section 3,
    https://arxiv.org/abs/1811.04719)."""

    def __init__(self, num_slots: int, *, dim: int) -> None:
        """num_slots: s. Every slot begins as a copy of its encoder state, to be told apart by its position."""
        super().__init__()
        self.num_slots = num_slots
        self.weight = nn.Parameter(torch.randn(num_slots * dim, dim) * 0.02 + torch.eye(dim).repeat(num_slots, 1))
        self.bias = nn.Parameter(torch.zeros(num_slots * dim))

    def forward(self, memory: Memory) -> Slots:
        states = F.linear(memory.states, self.weight, self.bias)
        states = states.unflatten(-1, (self.num_slots, -1)).flatten(1, 2)  # (B, S, s D) -> (B, A, D)
        return Slots(states, memory.valid.repeat_interleave(self.num_slots, dim=1), full=memory.full)

    def length_limits(self, net: Seq2Seq) -> LengthLimits:
        """Of sources whose slots the decoder takes, and of slots."""
        most = net.max_target_length
        return LengthLimits(tightest((net.max_source_length, None if most is None else most // self.num_slots)), most)

    def alignable(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Where the target has an alignment: no more tokens and repeats than slots."""
        batch = batch.compact()
        return ctc.alignable(batch.target.tokens, batch.target.lengths, self.num_slots * batch.source.lengths)


def target_scores(
    head: Head, states: Float[Tensor, "B A D"], slots: Slots, target: Tokens, *, with_mean: bool = False
) -> tuple[TargetScores, Float[Tensor, "B A"]]:
    """What every slot gives to the blank and to each token of its target: all that alignments are made of. Also the
    mean log-probability over all tokens, where asked for. target: right-padded."""
    ids = target_ids(target.tokens, target.lengths, blank=int(Symbol.BLANK))
    columns, mean = head.columns(states, ids, with_mean=with_mean)
    return TargetScores.of(columns, ids, slots.lengths, target.lengths), mean


def glanced_scores(
    head: Head, states: Float[Tensor, "B A D"], slots: Slots, target: Tokens
) -> tuple[TargetScores, Int[Tensor, "B A"]]:
    """As `target_scores`, and the best symbol of every slot; without a gradient."""
    ids = target_ids(target.tokens, target.lengths, blank=int(Symbol.BLANK))
    columns, best = head.glanced(states, ids)
    return TargetScores.of(columns, ids, slots.lengths, target.lengths), best


def marginal_log_prob(head: Head, states: Float[Tensor, "B A D"], slots: Slots, target: Tokens) -> Float[Tensor, " B"]:
    """log p(y | x), the marginal over all alignments; -inf for a target that has none. target: right-padded."""
    scores, _ = target_scores(head, states, slots, target)
    nll, alignable = ctc.marginal_loss(scores, states.dtype)
    return (-nll).masked_fill(~alignable, -torch.inf)
