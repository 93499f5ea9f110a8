"""Partly known alignments: the Imputer's marginal, samples of alignments, and which slots are masked.

Chan, Saharia, Hinton, Norouzi & Jaitly 2020, "Imputer: Sequence Modelling via Imputation and Dynamic Programming",
https://arxiv.org/abs/2002.08926; Saharia, Chan, Saxena & Norouzi 2020, "Non-Autoregressive Machine Translation with
Latent Alignments", https://arxiv.org/abs/2004.07437. Alignments are those of nat/ops/ctc.py.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.ctc import marginal_loss, marginal_loss_reference
from nat.ops.lattice import FLOOR, Lattice, TargetScores, no_path


def constrained_loss(
    log_probs: Float[Tensor, "B A V"],
    known: Int[Tensor, "B A"],
    is_known: Bool[Tensor, "B A"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    blank: int,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Minus the log-likelihood of each target, summed over its alignments that agree with a partly known one.

    known: token or blank, read where is_known only. Known slots contribute their own log-probability: nothing
    known is `ctc_loss`, everything known minus the log-probability of that one alignment. Where a model has no
    say in its known slots (Chan et al. 2020), give them log-probability 0.
    Returns (nll, possible), value, gradient and type as of `ctc_loss`; possible is False, nll and gradient 0, also
    where no alignment of the target agrees with what is known.
    """
    scored = TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank)
    return marginal_loss(scored.agreeing(known, is_known), log_probs.dtype)


def constrained_loss_reference(
    log_probs: Float[Tensor, "B A V"],
    known: Int[Tensor, "B A"],
    is_known: Bool[Tensor, "B A"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    blank: int,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """`constrained_loss` in plain torch."""
    scored = TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank)
    return marginal_loss_reference(scored.agreeing(known, is_known), log_probs.dtype)


def sample_alignment(
    log_probs: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    uniform: Float[Tensor, "B A"],
    *,
    blank: int,
) -> Int[Tensor, "B A"]:
    """An alignment of each target, drawn from the posterior given the target: forward filtering, backward sampling.

    uniform: in [0, 1), one number for each slot. Returns a token or blank for each slot, blank beyond
    canvas_lengths, and blank everywhere in rows that have no alignment, as `best_alignment` does.
    """
    return sample_path(TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank), uniform)


def sample_path(scored: TargetScores, uniform: Float[Tensor, "B A"]) -> Int[Tensor, "B A"]:
    """`sample_alignment` of gathered scores."""
    lengths = scored.canvas_lengths, scored.target_lengths
    return _sample_path(scored.ids, scored.scores, *lengths, uniform)  # type: ignore[no-any-return]


@torch.library.custom_op(
    "nat::sample_path",
    mutates_args=(),
    schema="(Tensor ids, Tensor scores, Tensor canvas_lengths, Tensor target_lengths, Tensor uniform) -> Tensor",
)
def _sample_path(
    ids: Tensor, scores: Tensor, canvas_lengths: Tensor, target_lengths: Tensor, uniform: Tensor
) -> Tensor:
    lattice = Lattice.build(TargetScores(ids, scores, canvas_lengths, target_lengths))
    blank, num_slots = ids[:, 0], scores.size(1)
    alphas = [lattice.initial(-torch.inf)]
    for t in range(num_slots):
        arriving = lattice.predecessors(alphas[-1], -torch.inf).logsumexp(0)
        alphas.append(lattice.advance(alphas[-1], arriving, t))
    possible = lattice.final(alphas[-1]).logsumexp(1) > FLOOR / 2

    state = 2 * lattice.target_lengths + 1  # the end: one step after the last blank, a skip after the last token
    path = []
    for t in range(num_slots - 1, -1, -1):
        inside = t < canvas_lengths
        state = state - _draw_move(lattice, alphas[t + 1], state, uniform[:, t]) * inside
        label = lattice.labels.gather(1, state.clamp(max=lattice.labels.size(1) - 1)[:, None]).squeeze(1)
        path.append(label.where(inside & possible, blank))
    return torch.stack(path[::-1], 1)


_sample_path.register_fake(no_path)


def _draw_move(lattice: Lattice, alpha: Tensor, state: Tensor, uniform: Tensor) -> Tensor:
    """How far before `state` (B,) of the next slot the state of this slot lies, by its alpha (B, 2T+1): 0, 1 or 2."""
    moves = torch.arange(3, device=state.device)
    before = state[:, None] - moves
    at_end = state[:, None] > 2 * lattice.target_lengths[:, None]
    last = alpha.size(1) - 1
    may_skip = lattice.may_skip.gather(1, state.clamp(max=last)[:, None]) | at_end
    allowed = (before >= 0) & torch.where(moves == 0, ~at_end, (moves < 2) | may_skip)
    weights = alpha.gather(1, before.clamp(0, last)).masked_fill(~allowed, -torch.inf)
    heights = torch.softmax(weights, 1).nan_to_num(0.0).cumsum(1)  # all impossible: a row without an alignment
    drawn = uniform.to(heights.dtype)[:, None] * heights[:, -1:]
    return (heights <= drawn).sum(1).clamp(max=2).minimum(state)


# --- which slots are masked ---------------------------------------------------------------------------


def bernoulli_mask(
    uniform: Float[Tensor, "B A"], probability: Float[Tensor, " B"], canvas_lengths: Int[Tensor, " B"]
) -> Bool[Tensor, "B A"]:
    """True at masked slots: each by itself with its row's probability. uniform: in [0, 1). It may be none."""
    return (uniform < probability[:, None]) & _inside(uniform, canvas_lengths)


def block_mask(
    uniform: Float[Tensor, "B A"],
    share: Float[Tensor, " B"],
    canvas_lengths: Int[Tensor, " B"],
    block_lengths: Int[Tensor, " B"],
) -> Bool[Tensor, "B A"]:
    """True at masked slots: in every block of consecutive slots the same number is known, at random places.

    These are the states that decoding in blocks of that length goes through (Chan et al. 2020). share,
    in [0, 1), makes the number, uniform in 0 .. min(block, canvas) - 1; a shorter last block is known whole where
    it has no more slots. With blocks as long as the canvas the number of masks is uniform in 1 .. A. At least one
    slot is masked in every row. uniform: in [0, 1), decides the places.
    """
    largest = block_lengths.minimum(canvas_lengths)
    num_known = (share.double() * largest).long().clamp(max=largest - 1)
    ranks = rank_in_blocks(uniform, _inside(uniform, canvas_lengths), block_lengths)
    return _inside(uniform, canvas_lengths) & (ranks >= num_known[:, None])


def rank_in_blocks(
    values: Float[Tensor, "B A"], candidates: Bool[Tensor, "B A"], block_lengths: Int[Tensor, " B"]
) -> Int[Tensor, "B A"]:
    """The place of each candidate slot among its block's candidates, 0 for the lowest value; of equals the earlier
    slot is first. Other slots rank behind. Blocks are consecutive slots, block_lengths (at least 1) of them; values
    of candidates must be below infinity."""
    slots = torch.arange(values.size(1), device=values.device)
    blocks = slots // block_lengths[:, None]
    order = values.masked_fill(~candidates, torch.inf).argsort(dim=1, stable=True)
    order = order.gather(1, blocks.gather(1, order).argsort(dim=1, stable=True))  # by block, and in it by value
    places = torch.empty_like(order).scatter_(1, order, slots.expand_as(order))
    return places - blocks * block_lengths[:, None]


def _inside(values: Tensor, canvas_lengths: Tensor) -> Tensor:
    return torch.arange(values.size(1), device=values.device) < canvas_lengths[:, None]
