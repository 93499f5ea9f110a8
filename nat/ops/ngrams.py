"""Expected bigrams of a distribution over translations, and how many of a reference's they match.

Shao & Feng 2022, "Non-Monotonic Latent Alignments for CTC-Based Non-Autoregressive Machine Translation",
https://arxiv.org/abs/2210.03953: the slots of a CTC canvas are independent, so that bigrams of what their
symbols collapse to can be counted without a sum over paths. Shao, Ma, Zhang & Feng 2023, "Fuzzy Alignments in Directed
Acyclic Graph for Non-Autoregressive Machine Translation", https://arxiv.org/abs/2303.06662: so can those of the paths
through a graph of vertices, see nat/ops/dag.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.dag import first_vertices, inner_steps
from nat.ops.lattice import TargetScores

LEAST = 1e-6  # bigrams that are divided by, of a canvas that is nearly all blank


def distinct_bigrams(
    targets: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]
) -> tuple[Bool[Tensor, "B T1"], Int[Tensor, "B T1"]]:
    """Of the bigrams of right-padded targets, in order: whether each is the first of its kind, and how often its kind
    occurs. Beyond the end neither."""
    inside = torch.arange(1, targets.size(1), device=targets.device) < lengths[:, None]
    left, right = targets[:, :-1], targets[:, 1:]
    same = (left[:, :, None] == left[:, None]) & (right[:, :, None] == right[:, None])
    same = same & inside[:, :, None] & inside[:, None]
    return inside & ~same.tril(diagonal=-1).any(dim=2), same.sum(dim=2)


def expected_bigrams(scored: TargetScores) -> Float[Tensor, "B T1"]:
    """How often each bigram of the targets is expected in what the canvas collapses to, in double precision.

    c(u, v) = sum over slots i < j of p_i(u) p_j(v) and of the probability that all between are blank; of u = v less
    sum_i p_i(u) p_(i+1)(u), which collapse to one token. Logarithms of products of blanks are differences
    of cumulated sums, which would cancel in single precision.
    """
    blanks = scored.scores[:, :, 0].cumsum(dim=1)  # (B, A)
    between = F.pad(blanks[:, :-1], (1, 0))[:, None] - blanks[:, :, None]  # (B, A, A): of slots after i and before j
    slots = torch.arange(blanks.size(1), device=blanks.device)
    all_blank = between.masked_fill(slots[:, None] >= slots, -torch.inf).exp()
    chances = scored.scores[:, :, 1:].exp()  # (B, A, T)
    left, right = chances[:, :, :-1], chances[:, :, 1:]
    doubles = (left[:, :-1] * right[:, 1:]).sum(dim=1)
    is_double = scored.targets[:, :-1] == scored.targets[:, 1:]
    return (left * (all_blank @ right)).sum(dim=1) - doubles.masked_fill(~is_double, 0.0)


def expected_length(
    log_probs: Float[Tensor, "B A V"], valid: Bool[Tensor, "B A"], *, blank: int
) -> Float[Tensor, " B"]:
    """How many tokens a right-padded canvas is expected to collapse to: sum over slots i and tokens w, but the blank,
    of p_i(w) (1 - p_(i-1)(w))."""
    chances = log_probs.exp().masked_fill(~valid[:, :, None], 0.0)
    of_blank = chances[:, :, blank]
    repeated = (chances[:, 1:] * chances[:, :-1]).sum(dim=2) - of_blank[:, 1:] * of_blank[:, :-1]
    return (chances.sum(dim=2) - of_blank).sum(dim=1) - repeated.sum(dim=1)


def bigram_f1(scored: TargetScores, length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """2 sum over distinct bigrams g of the target of min(c_g, count of g) / (T + E - 2), with E the expected length of
    the canvas: the harmonic mean of precision and recall. 0 for targets of fewer than two tokens."""
    matched = matches(expected_bigrams(scored), scored.targets, scored.target_lengths)
    return 2 * matched / (scored.target_lengths + length - 2).clamp(min=LEAST)


def matches(
    expected: Float[Tensor, "B T1"], targets: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """How many bigrams of the targets are matched: sum over distinct ones of min(expected count, count)."""
    is_first, count = distinct_bigrams(targets, lengths)
    return torch.minimum(expected, count.to(expected.dtype)).masked_fill(~is_first, 0.0).sum(dim=1)


def passing(transitions: Float[Tensor, "B A1 A1"]) -> Float[Tensor, "B A"]:
    """The probability that a path visits each vertex, in double precision: a_v = E_begin,v + sum_u<v a_u E_uv, a
    triangular system."""
    steps, first = inner_steps(transitions).double().exp(), first_vertices(transitions).double().exp()
    system = torch.eye(steps.size(1), dtype=steps.dtype, device=steps.device) - steps.mT
    return torch.linalg.solve_triangular(system, first[:, :, None], upper=False, unitriangular=True).squeeze(2)


def bigram_precision(
    emissions: Float[Tensor, "B A T"],
    transitions: Float[Tensor, "B A1 A1"],
    targets: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(BP sum over distinct bigrams g of the target of min(c_g, count of g) / sum of all c, expected length E), with
    the brevity penalty BP = min(1, exp(1 - T / E)).

    emissions: log-probability that a vertex holds each token of the target. c_g is the expected count of a bigram: of
    (w, v) the sum over vertices i < j of a_i p_i(w) E_ij p_j(v), where a_i tells how probably a path visits i.
    """
    visited, steps, chances = passing(transitions), inner_steps(transitions).double().exp(), emissions.double().exp()
    following = steps.mT @ (visited[:, :, None] * chances[:, :, :-1])  # (B, A, T - 1)
    expected = (following * chances[:, :, 1:]).sum(dim=1)
    total, length = (visited[:, :, None] * steps).sum(dim=(1, 2)), visited.sum(dim=1)
    brevity = (1 - lengths / length.clamp(min=LEAST)).clamp(max=0.0).exp()
    return brevity * matches(expected, targets, lengths) / total.clamp(min=LEAST), length
