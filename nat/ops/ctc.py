"""Connectionist temporal classification: loss, best alignment, collapsing, prefix beam search.

Graves, Fernandez, Gomez & Schmidhuber 2006, "Connectionist Temporal Classification",
https://www.cs.toronto.edu/~graves/icml_2006.pdf (the equation numbers below are theirs).

A canvas of A slots holds one token or a blank each; merging repeats and then dropping blanks gives the
target (their map B, section 3.1). The blank is an id of the vocabulary, and targets never hold it.
The scores and states that the dynamic programs share are in nat/ops/lattice.py. Each program is one operator of
torch: a compiled graph holds it as one node, instead of a copy of its loop for every width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.lattice import FLOOR, Lattice, TargetScores, alignable, min_canvas, no_path, only_possible, result_dtype
from nat.ops.selection import to_the_left

__all__ = [
    "alignable",
    "best_alignment",
    "best_path",
    "collapse",
    "ctc_loss",
    "ctc_loss_reference",
    "marginal_loss",
    "marginal_loss_reference",
    "min_canvas",
    "prefix_beam_search",
]


def ctc_loss(
    log_probs: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    blank: int,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Minus the log-likelihood of each target, summed over all its alignments (eq. 3), in nats, unreduced.

    Returns (nll, possible). possible is False where the canvas is too short, or every alignment needs a
    token of log-probability -inf; there nll is 0, and so is its gradient. Count these rows and report them.
    nll is float32, or float64 for float64 log_probs. -inf entries are welcome anywhere. The gradient is
    that of eq. 3 in log_probs, normalised or not, with zeros at slots beyond canvas_lengths.

    Runs `torch.nn.functional.ctc_loss` on the gathered scores alone. On one CPU thread with B=64, A=30,
    V=4000, T=12 expect 5 ms forward and backward, beside 10-30 ms for log_softmax; the same call on the whole
    vocabulary takes 35-45 ms, its gradient is right only below a log_softmax, and is NaN at -inf entries.
    On a GPU it copies the lengths to the host (one synchronisation).
    """
    scored = TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank)
    return marginal_loss(scored, log_probs.dtype)


def marginal_loss(scored: TargetScores, dtype: torch.dtype) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """`ctc_loss` of gathered scores, some of which the caller may have forbidden. dtype: that of log_probs."""
    if scored.scores.is_cuda and torch.are_deterministic_algorithms_enabled():  # refused by the native backward
        return marginal_loss_reference(scored, dtype)
    ids, scores = scored.ids, scored.scores
    # Each target position is a class of its own, column 1 + its index; repeats share one, to be seen as such.
    repeats = F.pad(ids[:, 2:] == ids[:, 1:-1], (min(2, ids.size(1)), 0))
    columns = torch.arange(ids.size(1), device=ids.device).masked_fill(repeats, 0).cummax(1).values[:, 1:]
    learning = torch.is_grad_enabled() and scores.requires_grad
    nll, _ = _native_nll(scores, columns, scored.canvas_lengths, scored.target_lengths, learning)
    return only_possible(nll, scored.alignable(), dtype)


@torch.library.custom_op(
    "nat::ctc_nll",
    mutates_args=(),
    schema="(Tensor scores, Tensor columns, Tensor canvas_lengths, Tensor target_lengths, bool learning)"
    " -> (Tensor, Tensor)",
)
def _native_nll(
    scores: Tensor, columns: Tensor, canvas_lengths: Tensor, target_lengths: Tensor, learning: bool
) -> tuple[Tensor, Tensor]:
    """`torch.nn.functional.ctc_loss` without its reduction, and its gradient in `scores` where one learns; infinities
    are 0. An operator of its own, for torch cannot tell the shapes of its own one in a compiled graph."""
    lengths = torch.stack((canvas_lengths, target_lengths)).tolist()  # torch's own would be read four times
    native = scores.transpose(0, 1), columns, *lengths
    nll, alpha = torch.ops.aten._ctc_loss(*native, zero_infinity=True)
    gradient = scores.new_empty(0)
    if learning:
        back = torch.ops.aten._ctc_loss_backward(torch.ones_like(nll), *native, nll, alpha, 0, zero_infinity=True)
        # Native backward returns exp(score) too much, which a log_softmax would cancel: take it away again.
        gradient = scores.exp().neg_().add_(back.transpose(0, 1))  # with the strides of scores
    return nll.masked_fill(nll == torch.inf, 0.0), gradient


@_native_nll.register_fake
def _(
    scores: Tensor, columns: Tensor, canvas_lengths: Tensor, target_lengths: Tensor, learning: bool
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.size(0)), torch.empty_like(scores) if learning else scores.new_empty(0)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _times_gradient(ctx: Any, of_nll: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return of_nll[:, None, None] * gradient, None, None, None, None


_native_nll.register_autograd(_times_gradient, setup_context=_keep_gradient)


def ctc_loss_reference(
    log_probs: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    blank: int,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """`ctc_loss` as the forward recursion of eq. 6-8, in plain torch."""
    scored = TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank)
    return marginal_loss_reference(scored, log_probs.dtype)


def marginal_loss_reference(scored: TargetScores, dtype: torch.dtype) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """`marginal_loss` as the forward recursion of eq. 6-8, in plain torch."""
    lattice = Lattice.build(scored)
    alpha = lattice.initial(FLOOR)
    for t in range(scored.scores.size(1)):
        alpha = lattice.advance(alpha, lattice.predecessors(alpha, FLOOR).logsumexp(0), t)
    return only_possible(-lattice.final(alpha).logsumexp(1), scored.alignable(), dtype)


def best_alignment(
    log_probs: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B T"],
    canvas_lengths: Int[Tensor, " B"],
    target_lengths: Int[Tensor, " B"],
    *,
    blank: int,
) -> Int[Tensor, "B A"]:
    """The most probable alignment of each target: the recursion of eq. 6 with max for the sum (Viterbi).

    Returns a token or blank for each slot, blank beyond canvas_lengths, and blank everywhere in rows that
    have no alignment (see `ctc_loss`; `alignable` tells those that are too short).
    """
    return best_path(TargetScores.gather(log_probs, targets, canvas_lengths, target_lengths, blank=blank))


def best_path(scored: TargetScores) -> Int[Tensor, "B A"]:
    """`best_alignment` of gathered scores."""
    return _best_path(scored.ids, scored.scores, scored.canvas_lengths, scored.target_lengths)  # type: ignore[no-any-return]


@torch.library.custom_op(
    "nat::best_path",
    mutates_args=(),
    schema="(Tensor ids, Tensor scores, Tensor canvas_lengths, Tensor target_lengths) -> Tensor",
)
def _best_path(ids: Tensor, scores: Tensor, canvas_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    lattice, blank = Lattice.build(TargetScores(ids, scores, canvas_lengths, target_lengths)), ids[:, 0]
    num_slots, alpha, moves = scores.size(1), lattice.initial(-torch.inf), []
    for t in range(num_slots):
        best, move = lattice.predecessors(alpha, -torch.inf).max(0)
        alpha = lattice.advance(alpha, best, t)
        moves.append(move)
    score, before_end = lattice.final(alpha).max(1)
    state = (2 * lattice.target_lengths - before_end).clamp(min=0)
    possible = score > FLOOR / 2
    path = []
    for t in range(num_slots - 1, -1, -1):
        inside = t < canvas_lengths
        token = lattice.labels.gather(1, state[:, None]).squeeze(1)
        path.append(token.where(inside & possible, blank))
        state = state - moves[t].gather(1, state[:, None]).squeeze(1) * inside
    return torch.stack(path[::-1], 1)


_best_path.register_fake(no_path)


def collapse(
    tokens: Int[Tensor, "B A"], valid: Bool[Tensor, "B A"], *, blank: int, pad: int
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Merge repeats, then drop blanks (the map B, section 3.1) of canvases padded on either side.

    Returns right-padded (tokens, valid), as wide as the canvas.
    """
    changed = F.pad((tokens[:, 1:] != tokens[:, :-1]) | ~valid[:, :-1], (1, 0), value=True)
    return to_the_left(valid & changed & (tokens != blank), tokens, pad=pad)


class Prior(Protocol):
    """What else speaks for a target than the canvas: a sum over its tokens and its end, such as a weighted language
    model's. Prefixes are (B, K, A) ids, filled with -1 beyond lengths (B, K); values are double and below infinity.
    most: what a token and what follows it gain at most."""

    @property
    def most(self) -> float: ...

    def extension(
        self, prefixes: Int[Tensor, "B K A"], lengths: Int[Tensor, "B K"], tokens: Int[Tensor, "B K M"]
    ) -> Float[Tensor, "B K M"]:
        """What each prefix gains by each of its tokens."""

    def ending(self, prefixes: Int[Tensor, "B K A"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """What each prefix gains by being the whole target."""


@torch.no_grad()
def prefix_beam_search(
    log_probs: Float[Tensor, "B A V"],
    canvas_lengths: Int[Tensor, " B"],
    *,
    blank: int,
    pad: int,
    beam_size: int,
    num_candidates: int = 1,
    token_beam: int | None = None,
    prior: Prior | None = None,
) -> tuple[Int[Tensor, "B N T"], Int[Tensor, "B N"], Float[Tensor, "B N"]]:
    """The most probable targets, each summed over its alignments, by prefix beam search.

    Graves 2012, "Supervised Sequence Labelling with Recurrent Neural Networks", section 7.5; Hannun et al.
    2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs",
    https://arxiv.org/abs/1408.2873, algorithm 1, whose language model is any `prior` here.

    token_beam: extend prefixes by this many best tokens of a slot only; staying on a prefix, by a blank or by
    its last token, and reaching another one in the beam remain exact. None loses nothing: without a prior, more
    than beam_size + 1 tokens of one slot can never be used; with one, all tokens of the vocabulary are tried.
    prior: prefixes are ranked by log-probability plus prior in every slot, and whole targets at the end.
    Returns (tokens, lengths, scores), best first: tokens as wide as the longest hypothesis and at least 1,
    filled with pad; scores the log-probability of the target through prefixes that stayed in the beam, hence
    never above the true one, and its prior. Where fewer than num_candidates targets are possible: length 0,
    score -inf.
    Rows do not see each other. One synchronisation, to read that width.
    """
    assert 1 <= num_candidates <= beam_size
    assert token_beam is None or token_beam >= 1
    num_useful = beam_size + 1 if prior is None else log_probs.size(2)
    num_tokens = num_useful if token_beam is None else min(token_beam, num_useful)
    inside = torch.arange(log_probs.size(1), device=log_probs.device) < canvas_lengths[:, None]
    tokens, scores = _shortlist(log_probs, blank, num_tokens)
    # A slot beyond the canvas holds a blank for certain, which leaves every beam as it is.
    scores = scores.masked_fill(~inside[:, :, None], -torch.inf)
    blanks = log_probs[:, :, blank].double().where(inside, 0.0)
    beam = _Beam.start(log_probs, beam_size)
    for t in range(log_probs.size(1)):
        last = log_probs[:, t].gather(1, beam.last.clamp(min=0)).double().where(inside[:, t, None], -torch.inf)
        gain = torch.zeros((), dtype=torch.double, device=last.device)
        if prior is not None:
            gain = prior.extension(beam.prefixes, beam.lengths, tokens[:, t, None].expand(-1, beam_size, -1))
        beam = beam.advance(blanks[:, t, None], last, tokens[:, t], scores[:, t], gain)
    if prior is not None:
        beam = beam.end(prior.ending(beam.prefixes, beam.lengths))

    total = (beam.total + beam.prior)[:, :num_candidates]
    lengths = beam.lengths[:, :num_candidates].where(total > -torch.inf, 0)
    width = max([1, *lengths.amax(1).tolist()])
    filled = torch.arange(width, device=lengths.device) < lengths[:, :, None]
    best = beam.prefixes[:, :num_candidates, :width].where(filled, pad)
    return best, lengths, total.to(result_dtype(log_probs.dtype))


def _shortlist(log_probs: Tensor, blank: int, num_tokens: int) -> tuple[Tensor, Tensor]:
    """The num_tokens best tokens of each slot but blank, in order of id: tokens and scores (B, A, M).

    beam_size + 1 are enough for an exact search: of these, a prefix has beam_size that are not its last token,
    and each gives it a longer prefix (new, or in the beam already) above all that tokens not listed can give.
    """
    scores, tokens = log_probs.topk(min(num_tokens + 1, log_probs.size(2)), dim=2)
    is_blank = tokens == blank
    dropped = is_blank | ((~is_blank).cumsum(2) > num_tokens)
    tokens, order = tokens.sort(2)  # topk promises no order of ties, and padding must not change it
    return tokens, scores.double().masked_fill(dropped, -torch.inf).gather(2, order)


@dataclass(frozen=True)
class _Beam:
    """K prefixes for each row, best first. Those of probability zero only fill the beam; the others are distinct."""

    prefixes: Tensor  # (B, K, A) ids, -1 beyond the length
    lengths: Tensor  # (B, K)
    in_blank: Tensor  # (B, K) log-probability of the alignments so far that end in a blank
    in_token: Tensor  # (B, K) and of those that end in the last token
    prior: Tensor  # (B, K) what else speaks for the prefix; 0 without a prior

    @classmethod
    def start(cls, log_probs: Tensor, size: int) -> _Beam:
        (num_rows, num_slots, _), device = log_probs.shape, log_probs.device
        nothing = torch.full((num_rows, size), -torch.inf, dtype=torch.double, device=device)
        in_blank = nothing.clone()
        in_blank[:, 0] = 0
        prefixes = torch.full((num_rows, size, num_slots), -1, device=device)
        return cls(prefixes, torch.zeros_like(nothing, dtype=torch.long), in_blank, nothing, torch.zeros_like(nothing))

    @property
    def total(self) -> Tensor:
        return torch.logaddexp(self.in_blank, self.in_token)

    @property
    def last(self) -> Tensor:
        """Last token of each prefix (B, K), -1 of the empty one."""
        return self.prefixes.gather(2, (self.lengths - 1).clamp(min=0)[:, :, None]).squeeze(2)

    def leads_to(self) -> Tensor:
        """(B, K, K): True at [k, j] if prefix j is prefix k and one token. Compares the tokens themselves: a
        prefix may leave the beam and come back while its children stay, so that node ids would not do."""
        parents = self.prefixes.scatter(2, (self.lengths - 1).clamp(min=0)[:, :, None], -1)
        same = (self.prefixes[:, :, None] == parents[:, None]).all(3)
        return same & ((self.lengths > 0) & (self.total > -torch.inf))[:, None]

    def advance(self, blank: Tensor, last: Tensor, tokens: Tensor, scores: Tensor, gain: Tensor) -> _Beam:
        """The beam after one more slot, of which we get the scores of the blank (B, 1) and of each prefix's
        last token (B, K), and a shortlist of tokens (B, M) with scores (B, M); gain (B, K, M) or scalar is what
        the prior gives for each token after each prefix."""
        # A token that repeats the last one makes a new token only after a blank.
        own, total, leads_to = self.last, self.total, self.leads_to()
        again, fresh = self.in_blank[:, :, None], total[:, :, None]
        reach = last[:, None] + torch.where(own[:, :, None] == own[:, None], again, fresh)
        reach = reach.masked_fill(~leads_to, -torch.inf).amax(1)  # one parent at most
        in_blank, in_token = total + blank, torch.logaddexp(self.in_token + last, reach)

        grow = scores[:, None] + torch.where(tokens[:, None] == own[:, :, None], again, fresh)  # (B, K, M)
        known = leads_to.to(grow.dtype) @ (own[:, :, None] == tokens[:, None]).to(grow.dtype) > 0
        grow = grow.masked_fill(known, -torch.inf)
        stayed = replace(self, in_blank=in_blank, in_token=in_token)
        priors = torch.cat([self.prior, (self.prior[:, :, None] + gain).expand_as(grow).flatten(1)], 1)
        masses = torch.cat([stayed.total, grow.flatten(1)], 1)
        chosen = (masses + priors).sort(stable=True, dim=1, descending=True).indices[:, : own.size(1)]
        return stayed._choose(chosen, masses.gather(1, chosen), priors.gather(1, chosen), tokens)

    def end(self, gain: Tensor) -> _Beam:
        """The same prefixes as whole targets, to whose prior gain (B, K) is added, best first again."""
        prior = self.prior + gain
        order = (self.total + prior).sort(stable=True, dim=1, descending=True).indices
        prefixes = self.prefixes.gather(1, order[:, :, None].expand_as(self.prefixes))
        rest = (x.gather(1, order) for x in (self.lengths, self.in_blank, self.in_token, prior))
        return _Beam(prefixes, *rest)

    def _choose(self, chosen: Tensor, masses: Tensor, priors: Tensor, tokens: Tensor) -> _Beam:
        """The chosen candidates, their log-probabilities and priors (B, K): k < K is prefix k as it is,
        K + k * M + m prefix k with token m."""
        size, num_tokens = chosen.size(1), tokens.size(1)
        grown, index = chosen >= size, (chosen - size).clamp(min=0)
        source = (index // num_tokens).where(grown, chosen)
        added = tokens.gather(1, index % num_tokens).where(grown, -1)
        lengths = self.lengths.gather(1, source)
        prefixes = self.prefixes.gather(1, source[:, :, None].expand_as(self.prefixes))
        return _Beam(
            prefixes.scatter(2, lengths[:, :, None], added[:, :, None]),
            lengths + grown,
            self.in_blank.gather(1, source).masked_fill(grown, -torch.inf),
            torch.where(grown, masses, self.in_token.gather(1, source)),
            priors,
        )
