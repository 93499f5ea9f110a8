"""Paths through a directed acyclic graph of vertices that each hold one token: loss and best path of a known target.

Huang, Zhou, Liu, Li & Huang 2022, "Directed Acyclic Transformer for Non-Autoregressive Machine Translation",
https://arxiv.org/abs/2205.07459, section 3. A path goes from the begin over some of the vertices 1..A, in ascending
order, to the end, and writes the token of every vertex that it visits: two equal tokens in a row are two tokens.

The begin and the end are no vertices here, for they write nothing: `transitions` (B, A + 1, A + 1) holds the
log-probability of each step. Row 0 is the begin and row u vertex u; column v - 1 is vertex v and the last column, A, is
the end, whatever the length of a row. -inf where there is no step: to an earlier vertex (below the diagonal), or to
padding. So a row of the matrix that sums to 1 is one of a distribution over paths.

Every program is a recursion over the target's tokens (section 3.2, equation 5), one step of which takes a row O(A^2)
time and memory. The loss is one operator of torch, with its gradient: a compiled graph holds it as one node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.precision import at_least_float32
from nat.ops.shapes import are_fixed

# What stands at each vertex before a step (B, A) -> what every vertex gets from those that it leads to (B, A).
Step = Callable[[Tensor], Tensor]
# Double precision holds e^-745 .. e^709. A row whose sums may have lost paths of more than e^-200 is computed anew.
SAFE = 500.0


def marginal_loss(
    emissions: Float[Tensor, "B A T"], transitions: Float[Tensor, "B A1 A1"], lengths: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Minus the log-likelihood of each target, summed over all its paths (equation 4), in nats, unreduced.

    emissions: log-probability that a vertex holds each token of the target. lengths: tokens of each target.
    Returns (nll, possible). possible is False where no path has a probability, for one because there are fewer vertices
    than tokens; there nll is 0, and so is its gradient. -inf entries are welcome anywhere. The gradient is that in
    emissions and transitions, normalised or not: minus how often a path of this target uses each. nll is float32, or
    float64 for float64 emissions.
    """
    learning = torch.is_grad_enabled() and (emissions.requires_grad or transitions.requires_grad)
    nll, _, _ = _nll(at_least_float32(emissions), at_least_float32(transitions), lengths, learning)
    possible = ~(nll == torch.inf)  # a NaN must stay one: it is for the trainer to see
    return nll.where(possible, 0.0), possible


def best_path(
    emissions: Float[Tensor, "B A T"], transitions: Float[Tensor, "B A1 A1"], lengths: Int[Tensor, " B"]
) -> Int[Tensor, "B A"]:
    """The most probable path of each target: the recursion of `marginal_loss` with max for the sum.

    Returns, for each vertex, the index of the target's token that it holds, -1 where the path does not visit it; -1
    everywhere in rows without a path.
    """
    return _best_path(at_least_float32(emissions), at_least_float32(transitions), lengths)  # type: ignore[no-any-return]


def first_vertices(transitions: Float[Tensor, "B A1 A1"]) -> Float[Tensor, "B A"]:
    """The steps from the begin to each vertex."""
    return transitions[:, 0, :-1]


def inner_steps(transitions: Float[Tensor, "B A1 A1"]) -> Float[Tensor, "B A A"]:
    """The steps from vertex to vertex."""
    return transitions[:, 1:, :-1]


def last_vertices(transitions: Float[Tensor, "B A1 A1"]) -> Float[Tensor, "B A"]:
    """The steps from each vertex to the end."""
    return transitions[:, 1:, -1]


def most_probable(steps: Float[Tensor, "B A A"]) -> Step:
    """The best single successor."""
    return lambda after: (steps + after[:, None]).amax(dim=2)


def suffixes(step: Step, tokens: Float[Tensor, "B T A"], ends: Float[Tensor, "B A"], lengths: Tensor) -> Tensor:
    """What follows token i at each vertex (B, T, A): the steps and tokens from there to the end. tokens: emissions."""
    following = ends
    found = [following]
    for i in range(tokens.size(1) - 1, 0, -1):
        following = step(tokens[:, i] + following).where((i < lengths)[:, None], ends)
        found.append(following)
    return torch.stack(found[::-1], dim=1)


@torch.library.custom_op(
    "nat::dag_nll",
    mutates_args=(),
    schema="(Tensor emissions, Tensor transitions, Tensor lengths, bool learning) -> (Tensor, Tensor, Tensor)",
)
def _nll(emissions: Tensor, transitions: Tensor, lengths: Tensor, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, infinite where there is no path, and its gradients where one learns.

    Where the host need not wait for it, the steps are products of matrices of probabilities, in double precision and
    relative to the largest of each row, four times as quick as logarithms of sums. A row whose paths are too unlike for
    that is computed in logarithms.
    """
    if are_fixed(emissions):
        return _Recursions.of(emissions, transitions, lengths, _LogSpace).results(learning)
    found = _Recursions.of(emissions, transitions, lengths, _Products)
    results = found.results(learning)
    unsafe = (~found.is_safe()).nonzero().squeeze(1)
    if len(unsafe):
        rows = emissions[unsafe].double(), transitions[unsafe].double(), lengths[unsafe]
        anew = _Recursions.of(*rows, _LogSpace).results(learning)
        for result, part in zip(results[: 3 if learning else 1], anew, strict=False):
            result[unsafe] = part.to(result.dtype)
    return results


@_nll.register_fake
def _(emissions: Tensor, transitions: Tensor, lengths: Tensor, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    def gradient(x: Tensor) -> Tensor:
        return x.new_empty(x.shape if learning else 0)

    return emissions.new_empty(emissions.size(0)), gradient(emissions), gradient(transitions)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _times_gradients(ctx: Any, of_nll: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    of_emissions, of_transitions = ctx.saved_tensors
    factor = of_nll[:, None, None]
    return factor * of_emissions, factor * of_transitions, None, None


_nll.register_autograd(_times_gradients, setup_context=_keep_gradients)


@torch.library.custom_op(
    "nat::dag_best_path", mutates_args=(), schema="(Tensor emissions, Tensor transitions, Tensor lengths) -> Tensor"
)
def _best_path(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    tokens, steps = emissions.transpose(1, 2).contiguous(), inner_steps(transitions)
    (num_rows, num_tokens, num_vertices), rows = tokens.shape, torch.arange(len(tokens), device=tokens.device)
    held = lengths.new_full((num_rows, num_vertices + 1), -1)  # and a column for what is on no path
    if num_tokens:
        after = tokens + suffixes(most_probable(steps), tokens, last_vertices(transitions), lengths)
        score, vertex = (first_vertices(transitions) + after[:, 0]).max(dim=1)
        path = [vertex]
        for i in range(1, num_tokens):
            path.append((steps[rows, path[-1]] + after[:, i]).argmax(dim=1))
        numbers = torch.arange(num_tokens, device=tokens.device).expand(num_rows, -1)
        visited = (numbers < lengths[:, None]) & (score > -torch.inf)[:, None]
        held.scatter_(1, torch.stack(path, 1).where(visited, num_vertices), numbers)
    return held[:, :num_vertices].contiguous()


@_best_path.register_fake
def _(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    return lengths.new_empty(emissions.shape[:2])


class _LogSpace:
    """Sums of probabilities as logarithms: exact wherever logarithms are. steps: (B, A, A)."""

    dtype: torch.dtype | None = None  # that of the input

    def __init__(self, steps: Tensor) -> None:
        self.steps = steps

    def forwards(self, before: Tensor) -> Tensor:
        return (self.steps + before[:, :, None]).logsumexp(dim=1)

    def backwards(self, after: Tensor) -> Tensor:
        return (self.steps + after[:, None]).logsumexp(dim=2)

    def uses(self, left: Tensor, right: Tensor) -> Tensor:
        """How often paths take each step: the sum over i of exp(left[i, u] + step[u, v] + right[i, v]). (B, N, A)."""
        total = torch.zeros_like(self.steps)
        for before, after in zip(left.unbind(1), right.unbind(1), strict=True):
            total += (before[:, :, None] + self.steps + after[:, None]).exp_()
        return total


class _Products(_LogSpace):
    """Sums of probabilities as such."""

    dtype = torch.double

    def __init__(self, steps: Tensor) -> None:
        self.steps = steps.exp()

    def forwards(self, before: Tensor) -> Tensor:
        largest = _finite(before.amax(dim=1, keepdim=True))
        return torch.bmm((before - largest).exp_()[:, None], self.steps).squeeze(1).log_() + largest

    def backwards(self, after: Tensor) -> Tensor:
        largest = _finite(after.amax(dim=1, keepdim=True))
        return torch.bmm(self.steps, (after - largest).exp_()[:, :, None]).squeeze(2).log_() + largest

    def uses(self, left: Tensor, right: Tensor) -> Tensor:
        highest = _finite(left.amax(dim=2, keepdim=True)), _finite(right.amax(dim=2, keepdim=True))
        half = (highest[0] + highest[1]) / 2  # what both together have too much, in equal parts
        before, after = (half + left - highest[0]).exp_(), (half + right - highest[1]).exp_()
        return self.steps * torch.bmm(before.transpose(1, 2), after)


def _finite(largest: Tensor) -> Tensor:
    return largest.masked_fill(largest == -torch.inf, 0.0)


@dataclass(frozen=True)
class _Recursions:
    """Both recursions of a batch. sums: how probabilities are added. prefixes: (B, T, A) log-probability of all paths
    up to token i at a vertex, with its emission; following: of all that then leads to the end. total: (B) of the
    target. dtypes: of what came in."""

    sums: _LogSpace
    transitions: Tensor
    tokens: Tensor
    lengths: Tensor
    prefixes: Tensor
    following: Tensor
    total: Tensor
    dtypes: tuple[torch.dtype, torch.dtype]

    @classmethod
    def of(cls, emissions: Tensor, transitions: Tensor, lengths: Tensor, kind: type[_LogSpace]) -> _Recursions:
        dtypes = emissions.dtype, transitions.dtype
        dtype = kind.dtype or torch.promote_types(*dtypes)
        tokens, transitions = emissions.transpose(1, 2).to(dtype).contiguous(), transitions.to(dtype)
        sums = kind(inner_steps(transitions))
        prefixes: list[Tensor] = []
        for i in range(tokens.size(1)):
            reached = sums.forwards(prefixes[-1]) if prefixes else first_vertices(transitions)
            prefixes.append(tokens[:, i] + reached)
        if not prefixes:  # all targets are empty
            empty = tokens.new_empty(tokens.shape)
            return cls(sums, transitions, tokens, lengths, empty, empty, transitions[:, 0, -1], dtypes)
        following = suffixes(sums.backwards, tokens, last_vertices(transitions), lengths)
        total = (prefixes[0] + following[:, 0]).logsumexp(dim=1).where(lengths > 0, transitions[:, 0, -1])
        return cls(sums, transitions, tokens, lengths, torch.stack(prefixes, 1), following, total, dtypes)

    @property
    def inside(self) -> Tensor:
        """Where a target has a token (B, T)."""
        return torch.arange(self.tokens.size(1), device=self.tokens.device) < self.lengths[:, None]

    def is_safe(self) -> Tensor:
        """Where sums of probabilities have lost nothing that counts (B). A sum loses terms of less than e^-700 of the
        largest; what leads to them is at most the best prefix, what follows at most the best suffix."""
        if not self.tokens.size(1):
            return self.total > -torch.inf
        after = (self.tokens + self.following)[:, 1:].amax(dim=2)
        most = (self.prefixes[:, :-1].amax(dim=2) + after).masked_fill(~self.inside[:, 1:], -torch.inf)
        return (self.total > -torch.inf) & (most - self.total[:, None] < SAFE).all(dim=1)

    def results(self, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
        """nll, and its gradients in emissions and transitions."""
        nll = -self.total.to(self.dtypes[0])
        if not learning:
            return nll, nll.new_empty(0), nll.new_empty(0, dtype=self.dtypes[1])
        log_z = _finite(self.total)[:, None, None]
        visits = (self.prefixes + self.following - log_z).exp_().masked_fill_(~self.inside[:, :, None], 0.0)
        of_transitions = self.transitions.new_zeros(self.transitions.shape)
        of_transitions[:, 0, -1] = (self.lengths == 0).to(visits.dtype)
        if self.tokens.size(1):
            after = (self.tokens + self.following)[:, 1:] - log_z
            after = after.masked_fill(~self.inside[:, 1:, None], -torch.inf)
            inner_steps(of_transitions).copy_(self.sums.uses(self.prefixes[:, :-1], after))
            first_vertices(of_transitions).copy_(visits[:, 0])
            last = (self.lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, visits.size(2))
            last_vertices(of_transitions).copy_(visits.gather(1, last).squeeze(1))
        of_transitions.masked_fill_((self.total == -torch.inf)[:, None, None], 0.0)
        of_emissions = -visits.transpose(1, 2).contiguous().to(self.dtypes[0])
        return nll, of_emissions, -of_transitions.to(self.dtypes[1])
