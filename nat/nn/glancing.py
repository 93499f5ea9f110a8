"""Glancing training as an option of single-pass models (Qian et al. 2021, https://arxiv.org/abs/2008.07905)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Target
from nat.losses import CrossEntropy
from nat.nn.head import Head
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import DeepSupervision, Guide, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.glancing import glance
from nat.schedule import Schedule


@dataclass(frozen=True)
class Glancing(Schedule):
    """The share of a sentence's mistakes that is revealed, from `start` to `end`; the paper's is 0.5 to 0.3."""

    start: float = option(
        0.0, "share of the mistakes revealed at update 0; 0, with end=0: no glancing", minimum=0, maximum=1
    )
    end: float = option(0.0, "share of the mistakes revealed from `updates` on", minimum=0, maximum=1)
    updates: int = option(300000, "updates from start to end", minimum=0, maximum=1_000_000_000)


@dataclass(frozen=True, kw_only=True)
class SinglePassConfig:
    """Options of every single-pass method."""

    glancing: Glancing = field(default_factory=Glancing)
    deep_supervision: DeepSupervision = field(default_factory=DeepSupervision)


def reveal(
    x: Float[Tensor, "B L D"], embedded: Float[Tensor, "B L D"], where: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """Decoder inputs with the reference's embeddings at the positions that are shown."""
    return torch.where(where[:, :, None], embedded.to(x.dtype), x)


def shown(
    predicted: Int[Tensor, "B L"],
    reference: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    random: RowRandom,
    *,
    ratio: float,
) -> Bool[Tensor, "B L"]:
    """See `ops.glancing.glance`; the noise is the rows' own."""
    return glance(predicted, reference, valid, random.uniform(valid.size(1)), ratio=ratio)


def glanced_cross_entropy(
    net: Seq2Seq,
    x: Float[Tensor, "B L D"],
    target: Target,
    memory: Memory,
    random: RowRandom,
    config: SinglePassConfig,
    *,
    update: int | None,
    label_smoothing: float,
) -> CrossEntropy:
    """Of canvases of one position for each target token, at the positions that are left to predict: the mean over the
    layers that predict.

    x: decoder inputs, without positions. update: None where nothing is learnt; then nothing is revealed, and layers
    feed on their own predictions alone.
    """
    hidden, guide, head = target.valid, None, net.head(memory)
    ratio = 0.0 if update is None else config.glancing(update)
    if ratio > 0:
        where = shown(predicted(net, head, x, target, memory), target.tokens, target.valid, random, ratio=ratio)
        x, hidden = reveal(x, net.embed(target.tokens), where), hidden & ~where
    if update is not None and config.deep_supervision.enabled:
        fed = gold_positions(target.valid, random.fork(1), share=config.deep_supervision.gold)
        guide = gold_guide(head, target.tokens, fed)
        hidden = hidden & ~fed  # there the layers need only copy; the paper's results leave these out too
    layers = net.layers(net.place(x), target.mask, memory, guide=guide)
    return CrossEntropy.of_layers(
        [head.cross_entropy(states, target.tokens, hidden, label_smoothing=label_smoothing) for states in layers]
    )


@torch.no_grad()
def predicted(
    net: Seq2Seq, head: Head, x: Float[Tensor, "B L D"], target: Target, memory: Memory
) -> Int[Tensor, "B L"]:
    """What a first pass would write (Qian et al. 2021, section 3.2)."""
    return head.argmax(net.states(net.place(x), target.mask, memory))


def gold_positions(valid: Bool[Tensor, "B L"], random: RowRandom, *, share: float) -> Bool[Tensor, "B L"]:
    """Where layers feed on the reference in training, a random `share` of the positions, the same for all layers (Huang
    et al. 2022, https://arxiv.org/abs/2110.07515, section 3.3)."""
    return valid & (random.uniform(valid.size(1)) < share)


def gold_guide(head: Head, reference: Int[Tensor, "B L"], gold: Bool[Tensor, "B L"]) -> Guide:
    """A layer feeds on its own prediction, or on the reference where `gold` says so."""
    return lambda states: reference.where(gold, head.argmax(states))
