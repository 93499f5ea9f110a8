"""Paths through a graph of vertices (see nat/ops/dag.py) that are to be found: followed, the best one, or a beam.

Huang et al. 2022, https://arxiv.org/abs/2205.07459, section 3.4; Shao, Ma & Feng 2022, "Viterbi Decoding of Directed
Acyclic Transformer for Non-Autoregressive Machine Translation", https://arxiv.org/abs/2210.05193.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.ctc import Prior
from nat.ops.dag import first_vertices, inner_steps, last_vertices, most_probable


def follow(successors: Int[Tensor, "B A1"]) -> Bool[Tensor, "B A1"]:
    """What a path visits that takes, from the begin and from every vertex, the one step given: column 0 is the begin,
    which it always visits, column u vertex u. successors: columns of `transitions`.

    In log2 A rounds, each of which takes twice as many steps as the one before; the host waits for nothing.
    """
    num_nodes = successors.size(1)
    jumps = F.pad(successors + 1, (0, 1), value=num_nodes)  # the end, node A + 1, leads to itself
    visited = torch.zeros_like(jumps, dtype=torch.bool)
    visited[:, 0] = True
    for _ in range(num_nodes.bit_length()):
        visited = visited.scatter(1, jumps.where(visited, num_nodes), True)  # the end is visited in any case
        jumps = jumps.gather(1, jumps)
    return visited[:, :-1]


def joint_viterbi(
    transitions: Float[Tensor, "B A1 A1"], log_probs: Float[Tensor, "B A"], *, length_penalty: float
) -> Int[Tensor, "B A1"]:
    """The steps of the path of highest log-probability / t^length_penalty, t its tokens (at least 1, so that
    the empty one has a value, too), as `follow` takes them (Shao et al. 2022, section 3).

    log_probs: of the best token of each vertex; a larger length_penalty: longer. O(A^3) time, O(A^2) memory a row.
    """
    after = suffixes_by_length(transitions, log_probs)
    totals = (first_vertices(transitions)[:, None] + after).amax(dim=2)
    totals = torch.cat((transitions[:, 0, -1:], totals), dim=1)  # of 0, 1 .. A tokens
    lengths = torch.arange(totals.size(1), device=totals.device).clamp(min=1)
    return best_of_length(transitions, after, (totals / lengths**length_penalty).argmax(dim=1))


def best_of_length(
    transitions: Float[Tensor, "B A1 A1"], after: Float[Tensor, "B A A"], lengths: Int[Tensor, " B"]
) -> Int[Tensor, "B A1"]:
    """The steps of the best path of so many tokens, from the begin and from each vertex on it; from others to the end.
    after: see `suffixes_by_length`."""
    num_vertices, rows = after.size(2), torch.arange(len(after), device=after.device)
    node, left = torch.zeros_like(lengths), lengths
    steps = lengths.new_full((len(lengths), num_vertices + 1), num_vertices)
    for _ in range(num_vertices):
        left = left - 1
        best = (transitions[rows, node, :-1] + after[rows, left.clamp(min=0)]).argmax(dim=1)
        best = best.where(left >= 0, num_vertices)
        steps.scatter_(1, node[:, None], best[:, None])
        node = (best + 1).where(left >= 0, node)  # a path that has ended stays at its last node, which leads to the end
    return steps


def suffixes_by_length(
    transitions: Float[Tensor, "B A1 A1"], log_probs: Float[Tensor, "B A"]
) -> Float[Tensor, "B A A"]:
    """[b, n, v]: the best log-probability of vertex v with exactly n more after it, and the end."""
    step, found = most_probable(inner_steps(transitions)), [log_probs + last_vertices(transitions)]
    for _ in range(log_probs.size(1) - 1):
        found.append(log_probs + step(found[-1]))
    return torch.stack(found, dim=1)


@torch.no_grad()
def beam_search(
    log_probs: Float[Tensor, "B A V"],
    transitions: Float[Tensor, "B A1 A1"],
    *,
    pad: int,
    beam_size: int,
    num_candidates: int = 1,
    length_penalty: float = 0.0,
    token_beam: int | None = None,
    prior: Prior | None = None,
) -> tuple[Int[Tensor, "B N T"], Int[Tensor, "B N"], Float[Tensor, "B N"]]:
    """The most probable targets, each summed over all its paths, token by token.

    A prefix keeps the probability of all paths that write it and stand at each vertex (the recursion of the loss), so
    that paths of equal tokens are one hypothesis, and a score is the target's log-probability itself and its prior.
    Departs from Huang et al. 2022, section 3.4, whose beam holds single paths and merges some of them.

    length_penalty: whole targets are ranked by log-probability and prior, divided by tokens^length_penalty.
    token_beam: a prefix is extended by this many of its most probable tokens; None loses nothing without a prior, and
    tries all tokens with one. prior: prefixes are ranked by log-probability plus prior, and whole targets at the end.
    Returns (tokens, lengths, scores), the best first, as `nat.ops.ctc.prefix_beam_search` does. The host waits once a
    token: the search ends when no prefix can become better than the targets found.
    """
    assert 1 <= num_candidates <= beam_size
    num_useful = beam_size if prior is None else log_probs.size(2)
    num_tokens = min(num_useful, token_beam or num_useful, log_probs.size(2))
    beam = _Beam.start(transitions, beam_size)
    found = _Found.start(beam, num_candidates, length_penalty).with_ended(beam, prior)
    probs, num_vertices, most = log_probs.exp(), log_probs.size(1), 0.0 if prior is None else max(0.0, prior.most)
    for number in range(1, num_vertices + 1):
        beam = beam.advance(log_probs, probs, prior, num_tokens=num_tokens)
        hope = beam.total + beam.prior + (num_vertices - number) * most
        beam = beam.stepped()
        found = found.with_ended(beam, prior)
        if not bool((torch.where(hope < 0, hope / num_vertices**length_penalty, hope) > found.ranks[:, -1:]).any()):
            break
    width = max([1, *found.lengths.amax(dim=1).tolist()])
    filled = torch.arange(width, device=log_probs.device) < found.lengths[:, :, None]
    scores = found.scores.to(torch.promote_types(log_probs.dtype, torch.float32))
    return found.tokens[:, :, :width].where(filled, pad), found.lengths, scores


@dataclass(frozen=True)
class _Beam:
    """K prefixes of equal length for each row, best first; those of probability 0 only fill the beam.

    tokens: (B, K, A), -1 beyond the length (B, K). paths: (B, K, A) log-probability of all paths that wrote the prefix
    and stand at a vertex; or, between two tokens, of those that go there next. prior: (B, K) what else speaks for it.
    """

    transitions: Tensor
    steps: Tensor  # their probabilities, (B, A, A)
    tokens: Tensor
    lengths: Tensor
    paths: Tensor
    ending: Tensor  # (B, K) log-probability that it is the whole target
    prior: Tensor

    @classmethod
    def start(cls, transitions: Tensor, size: int) -> _Beam:
        """The empty prefix, and what it leads to."""
        transitions = transitions.double()
        first = first_vertices(transitions)
        paths = first.new_full((len(first), size, first.size(1)), -torch.inf)
        paths[:, 0] = first
        ending = paths.new_full(paths.shape[:2], -torch.inf)
        ending[:, 0] = transitions[:, 0, -1]
        tokens, lengths = torch.full_like(paths, -1, dtype=torch.long), torch.zeros_like(ending, dtype=torch.long)
        steps = inner_steps(transitions).exp()
        return cls(transitions, steps, tokens, lengths, paths, ending, torch.zeros_like(ending))

    @property
    def total(self) -> Tensor:
        """Log-probability of all targets that begin with each prefix (B, K)."""
        return self.paths.logsumexp(dim=2)

    def advance(self, log_probs: Tensor, probs: Tensor, prior: Prior | None, *, num_tokens: int) -> _Beam:
        """The best prefixes that are one token longer."""
        masses = _times(self.paths, probs)
        tokens = masses.topk(num_tokens, dim=2).indices.sort(dim=2).values  # topk promises no order of ties
        masses, gain = masses.gather(2, tokens), torch.zeros((), dtype=torch.double, device=masses.device)
        if prior is not None:
            gain = prior.extension(self.tokens, self.lengths, tokens)
        priors = (self.prior[:, :, None] + gain).expand_as(masses).flatten(1)
        size = self.prior.size(1)
        chosen = (masses.flatten(1) + priors).sort(stable=True, dim=1, descending=True).indices[:, :size]
        origin, token = chosen // num_tokens, tokens.flatten(1).gather(1, chosen)
        rows = torch.arange(len(token), device=token.device)[:, None]
        written = self.tokens[rows, origin].scatter(2, self.lengths[:, :, None], token[:, :, None])
        paths = self.paths[rows, origin] + log_probs.transpose(1, 2)[rows, token].double()
        dead = torch.full_like(self.ending, -torch.inf)
        return _Beam(self.transitions, self.steps, written, self.lengths + 1, paths, dead, priors.gather(1, chosen))

    def stepped(self) -> _Beam:
        """The same prefixes, whose paths have gone on: to the end, or to another vertex."""
        ending = (self.paths + last_vertices(self.transitions)[:, None]).logsumexp(dim=2)
        paths = _times(self.paths, self.steps)
        return _Beam(self.transitions, self.steps, self.tokens, self.lengths, paths, ending, self.prior)


def _times(logs: Float[Tensor, "B K A"], probs: Float[Tensor, "B A N"]) -> Float[Tensor, "B K N"]:
    """The logarithm of exp(logs) probs, relative to the largest of each."""
    largest = logs.amax(dim=2, keepdim=True)
    largest = largest.masked_fill(largest == -torch.inf, 0.0)
    return torch.bmm((logs - largest).exp().to(probs.dtype), probs).double().log() + largest


@dataclass(frozen=True)
class _Found:
    """The best N whole targets so far of each row, best first: tokens (B, N, A), lengths and scores (B, N)."""

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    length_penalty: float

    @classmethod
    def start(cls, beam: _Beam, num_candidates: int, length_penalty: float) -> _Found:
        """Nothing found."""
        tokens, lengths = beam.tokens[:, :num_candidates], beam.lengths[:, :num_candidates]
        return cls(tokens, lengths, torch.full_like(lengths, -torch.inf, dtype=torch.double), length_penalty)

    @property
    def ranks(self) -> Tensor:
        return self.scores / self.lengths.clamp(min=1) ** self.length_penalty

    def with_ended(self, beam: _Beam, prior: Prior | None) -> _Found:
        """The best of these and of the beam's prefixes as whole targets."""
        scores = beam.ending + beam.prior
        if prior is not None:
            scores = scores + prior.ending(beam.tokens, beam.lengths)
        lengths = torch.cat((self.lengths, beam.lengths.where(scores > -torch.inf, 0)), dim=1)
        tokens, scores = torch.cat((self.tokens, beam.tokens), dim=1), torch.cat((self.scores, scores), dim=1)
        every = _Found(tokens, lengths, scores, self.length_penalty)
        order = every.ranks.sort(stable=True, dim=1, descending=True).indices[:, : self.scores.size(1)]
        tokens = tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.size(2)))
        return _Found(tokens, lengths.gather(1, order), scores.gather(1, order), self.length_penalty)
