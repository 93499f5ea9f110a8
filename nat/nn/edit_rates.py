"""What Edit Flows decide about a canvas at a time: rates of edits, and the tokens that they write.

Havasi et al. 2025, https://arxiv.org/abs/2506.09018, section 4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.data.vocabulary import Symbol
from nat.nn.seq2seq import Seq2Seq
from nat.nn.transformer import Memory, Size, initialise
from nat.ops.editing import bracket
from nat.ops.precision import at_least_float32

SMALL = -15.0  # below it the softplus and its argument's exponential are the same in float32


class TimeEmbedding(nn.Module):
    """Of times from 0 to 1: sines and cosines of many frequencies, through a network of one hidden layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        half = (size.dim + 1) // 2
        # from a sixth of a period to about a hundred, in equal ratios
        self.register_buffer("frequencies", torch.logspace(0.0, 3.0, half), persistent=False)
        self.dim = size.dim
        self.widen, self.mix = nn.Linear(size.dim, size.dim), nn.Linear(size.dim, size.dim)
        initialise(self, size.initial)

    frequencies: Tensor

    def forward(self, time: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        angles = time[:, None].to(self.frequencies) * self.frequencies
        features = torch.cat((angles.sin(), angles.cos()), dim=1)[:, : self.dim] * math.sqrt(2)
        mixed: Tensor = self.mix(F.silu(self.widen(features.to(self.widen.weight.dtype))))
        return mixed


class EditRates(nn.Module):
    """Heads on the states of the begin mark and of every token: how many insertions behind it, substitutions and
    deletions of it are left to do, and which tokens are inserted behind it or written in its place.

    Departs from the paper: a rate is the hazard at which one edit happens that is left, `nat.ops.edit_flow.hazard`,
    times the softplus of a head, which so learns a number of edits and not how they are spread over time.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.time = TimeEmbedding(size)
        self.counts = nn.Linear(size.dim, 3)
        self.behind = nn.Linear(size.dim, size.dim)
        for part in (self.counts, self.behind):
            initialise(part, size.initial)

    def states(
        self,
        net: Seq2Seq,
        tokens: Int[Tensor, "B L"],
        valid: Bool[Tensor, "B L"],
        time: Float[Tensor, " B"],
        memory: Memory,
    ) -> Float[Tensor, "B G D"]:
        """Of the begin mark and the L tokens; the decoder reads an end mark, too."""
        marked, inside = bracket(tokens, valid, first=int(Symbol.BOS), last=int(Symbol.EOS))
        x = net.embed(marked) + self.time(time)[:, None]
        return net.states(net.place(x), inside, memory)[:, :-1]

    def logits(self, states: Float[Tensor, "B G D"]) -> Float[Tensor, "B G 3"]:
        """Their softplus are the edits that are left, of insertion, substitution and deletion."""
        return at_least_float32(self.counts(states))

    def token_states(self, states: Float[Tensor, "B N D"], inserted: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """For the net's head: of the token behind a place where `inserted`, else of the one in it."""
        behind: Tensor = self.behind(states)
        return behind.where(inserted[:, :, None], states)


def log_softplus(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(softplus(x)), finite for every x."""
    return torch.where(x < SMALL, x, F.softplus(x.clamp(min=SMALL)).log())
