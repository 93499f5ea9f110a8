"""Linear chains of K candidates a position: conditional random fields (Lafferty, McCallum & Pereira 2001,
https://dl.acm.org/doi/10.5555/645530.655813).

A sequence of one candidate at each position has the score of its candidates and of its neighbours, and the probability
exp(score) / Z, where Z sums over all K^L sequences. One recursion from right to left gives everything: suffix sums, of
all that can follow a candidate. At the first position they tell Z, and at every other one what a candidate adds to the
probability of those before it. A candidate of score FLOOR is never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.sampling import class_of

FLOOR = -1e9  # stands for -inf, of which differences are no numbers


@dataclass(frozen=True)
class Chain:
    """Right-padded rows of at least one position. emissions: of each candidate. transitions: [b, i, k, m] of candidate
    k at position i before candidate m at i + 1. lengths: positions of each row."""

    emissions: Float[Tensor, "B L K"]
    transitions: Float[Tensor, "B L1 K K"]
    lengths: Int[Tensor, " B"]

    @property
    def valid(self) -> Bool[Tensor, "B L"]:
        return torch.arange(self.emissions.size(1), device=self.lengths.device) < self.lengths[:, None]

    def cooled(self, temperature: float) -> Chain:
        """Of probabilities p^(1 / temperature), normalised."""
        return Chain(self.emissions / temperature, self.transitions / temperature, self.lengths)

    def scores(self, places: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Of the sequence that has these candidates, not normalised."""
        own, between, valid = at(self.emissions, places), self.between(places), self.valid
        return own.masked_fill(~valid, 0.0).sum(dim=1) + between.masked_fill(~valid[:, 1:], 0.0).sum(dim=1)

    def between(self, places: Int[Tensor, "B L"]) -> Float[Tensor, "B L1"]:
        """The transitions from each candidate of a sequence to the next one."""
        rows = places[:, :-1, None, None].expand(-1, -1, -1, self.transitions.size(3))
        return at(self.transitions.gather(2, rows).squeeze(2), places[:, 1:])

    def log_normaliser(self) -> Float[Tensor, " B"]:
        """log Z. Its gradient are the probabilities of candidates and of neighbours."""
        learning = torch.is_grad_enabled() and (self.emissions.requires_grad or self.transitions.requires_grad)
        log_sum, _, _ = _log_normaliser(self.emissions, self.transitions, self.lengths, learning)
        return log_sum  # type: ignore[no-any-return]

    @torch.no_grad()
    def conditionals(self, places: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log p of each candidate of a sequence given those before it; 0 where not valid. Their sum is its log p."""
        sums = suffix_sums(self.emissions, self.transitions, self.lengths)
        following = self.emissions + sums
        first = at(following[:, :1], places[:, :1]) - following[:, :1].logsumexp(dim=2)
        later = self.between(places) + at(following[:, 1:], places[:, 1:]) - at(sums[:, :-1], places[:, :-1])
        return torch.cat((first, later), dim=1).masked_fill(~self.valid, 0.0)

    @torch.no_grad()
    def best(self) -> Int[Tensor, "B L"]:
        """The candidates of the most probable sequence (Viterbi); of equally probable ones the first."""
        onward = torch.zeros_like(self.emissions[:, 0])
        follower = []
        for i in range(self.emissions.size(1) - 2, -1, -1):
            ways = self.transitions[:, i] + (self.emissions[:, i + 1] + onward)[:, None]  # (B, K, K)
            greatest, place = ways.max(dim=2)
            onward = greatest.masked_fill((i + 1 >= self.lengths)[:, None], 0.0)
            follower.append(place)
        places = [(self.emissions[:, 0] + onward).argmax(dim=1)]
        for place in reversed(follower):
            places.append(place.gather(1, places[-1][:, None]).squeeze(1))
        return torch.stack(places, dim=1)

    @torch.no_grad()
    def sampled(self, drawn: Float[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The candidates that numbers uniform in (0, 1) draw, from left to right."""
        following = self.emissions + suffix_sums(self.emissions, self.transitions, self.lengths)
        places = [class_of(following[:, 0], drawn[:, 0])]
        for i in range(1, following.size(1)):
            last = places[-1][:, None, None].expand(-1, 1, following.size(2))
            logits = self.transitions[:, i - 1].gather(1, last).squeeze(1) + following[:, i]
            places.append(class_of(logits, drawn[:, i]))
        return torch.stack(places, dim=1)


def at(values: Float[Tensor, "B N K"], places: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    return values.gather(2, places[:, :, None]).squeeze(2)


def suffix_sums(
    emissions: Float[Tensor, "B L K"], transitions: Float[Tensor, "B L1 K K"], lengths: Int[Tensor, " B"]
) -> Float[Tensor, "B L K"]:
    """log of the sum, over all that can follow a candidate, of exp(score); 0 at the last position and at padding."""
    sums = [torch.zeros_like(emissions[:, 0])]
    for i in range(emissions.size(1) - 2, -1, -1):
        ways = transitions[:, i] + (emissions[:, i + 1] + sums[-1])[:, None]
        sums.append(ways.logsumexp(dim=2).masked_fill((i + 1 >= lengths)[:, None], 0.0))
    return torch.stack(sums[::-1], dim=1)


@torch.library.custom_op(
    "nat::chain_normaliser",
    mutates_args=(),
    schema="(Tensor emissions, Tensor transitions, Tensor lengths, bool learning) -> (Tensor, Tensor, Tensor)",
)
def _log_normaliser(
    emissions: Tensor, transitions: Tensor, lengths: Tensor, learning: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, and the probabilities of candidates and of neighbours where one learns. One operator of torch: a compiled
    graph holds it as one node, and there is no tape of L steps."""
    sums = suffix_sums(emissions, transitions, lengths)
    following = emissions + sums
    log_sum = following[:, 0].logsumexp(dim=1)
    if not learning:
        return log_sum, emissions.new_empty(0), emissions.new_empty(0)
    of_emissions, of_transitions = torch.zeros_like(emissions), torch.zeros_like(transitions)
    of_emissions[:, 0] = (following[:, 0] - log_sum[:, None]).exp()
    for i in range(transitions.size(1)):
        given = (transitions[:, i] + following[:, i + 1, None] - sums[:, i, :, None]).exp()  # p(next | this one)
        inside = (i + 1 < lengths)[:, None, None]
        of_transitions[:, i] = (of_emissions[:, i, :, None] * given).masked_fill(~inside, 0.0)
        of_emissions[:, i + 1] = of_transitions[:, i].sum(dim=1)
    return log_sum, of_emissions, of_transitions


@_log_normaliser.register_fake
def _(emissions: Tensor, transitions: Tensor, lengths: Tensor, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    none = emissions.new_empty(0)
    if not learning:
        return emissions.new_empty(emissions.size(0)), none, none.clone()
    return emissions.new_empty(emissions.size(0)), torch.empty_like(emissions), torch.empty_like(transitions)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _times_gradient(ctx: Any, of_sum: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    of_emissions, of_transitions = ctx.saved_tensors
    return of_sum[:, None, None] * of_emissions, of_sum[:, None, None, None] * of_transitions, None, None


_log_normaliser.register_autograd(_times_gradient, setup_context=_keep_gradients)
