"""The scores and states that every dynamic program over the alignments of a known target works on.

Graves et al. 2006 (see nat/ops/ctc.py, whose equation numbers are used here). The few scores that are needed,
(B, A, T + 1) of (B, A, V), are gathered first; all else runs on them in double precision: at this size that is
free, and sums over hundreds of slots keep all their digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Stands for -inf where gradients flow: inf - inf would make them NaN. Anything below counts as impossible.
FLOOR = -1e9


@dataclass(frozen=True)
class TargetScores:
    """What a canvas gives to the blank and to each token of its target.

    ids: the blank, then the target, and the blank as padding. scores: double, FLOOR where impossible and at
    slots beyond canvas_lengths; scores[:, :, i] belongs to ids[:, i].
    """

    ids: Int[Tensor, "B T1"]
    scores: Float[Tensor, "B A T1"]
    canvas_lengths: Int[Tensor, " B"]
    target_lengths: Int[Tensor, " B"]

    @classmethod
    def gather(
        cls,
        log_probs: Float[Tensor, "B A V"],
        targets: Int[Tensor, "B T"],
        canvas_lengths: Int[Tensor, " B"],
        target_lengths: Int[Tensor, " B"],
        *,
        blank: int,
    ) -> TargetScores:
        """Of log-probabilities of the whole vocabulary."""
        ids = target_ids(targets, target_lengths, blank=blank)
        columns = log_probs.gather(2, ids[:, None].expand(-1, log_probs.size(1), -1))
        return cls.of(columns, ids, canvas_lengths, target_lengths)

    @classmethod
    def of(
        cls,
        columns: Float[Tensor, "B A T1"],
        ids: Int[Tensor, "B T1"],
        canvas_lengths: Int[Tensor, " B"],
        target_lengths: Int[Tensor, " B"],
    ) -> TargetScores:
        """columns: what every slot gives to `ids`, see `target_ids`."""
        outside = torch.arange(columns.size(1), device=ids.device) >= canvas_lengths[:, None]
        scores = columns.double().clamp(min=FLOOR).masked_fill(outside[:, :, None], FLOOR)
        return cls(ids, scores, canvas_lengths, target_lengths)

    def certain(self, slots: Bool[Tensor, "B A"]) -> TargetScores:
        """The same with log-probability 0 for whatever these slots hold: the model has no say in them."""
        return replace(self, scores=self.scores.masked_fill(slots[:, :, None], 0.0))

    def agreeing(self, known: Int[Tensor, "B A"], is_known: Bool[Tensor, "B A"]) -> TargetScores:
        """The same with every label but the known one forbidden at known slots. It is the label that must agree,
        whichever position of the target it stands for."""
        forbidden = is_known[:, :, None] & (known[:, :, None] != self.ids[:, None])
        return replace(self, scores=self.scores.masked_fill(forbidden, FLOOR))

    @property
    def targets(self) -> Int[Tensor, "B T"]:
        return self.ids[:, 1:]

    def alignable(self) -> Bool[Tensor, " B"]:
        return alignable(self.targets, self.target_lengths, self.canvas_lengths)


def target_ids(targets: Int[Tensor, "B T"], target_lengths: Int[Tensor, " B"], *, blank: int) -> Int[Tensor, "B T1"]:
    """The blank, then the target, and the blank as padding: all that a slot can hold."""
    inside = torch.arange(targets.size(1), device=targets.device) < target_lengths[:, None]
    return F.pad(targets.long().where(inside, blank), (1, 0), value=blank)


def min_canvas(targets: Int[Tensor, "B T"], target_lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Fewest slots that can hold each target: its length, and one blank between adjacent equal tokens."""
    inside = torch.arange(targets.size(1), device=targets.device)[1:] < target_lengths[:, None]
    return target_lengths + ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1).to(target_lengths.dtype)


def alignable(
    targets: Int[Tensor, "B T"], target_lengths: Int[Tensor, " B"], canvas_lengths: Int[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """Which targets fit into their canvas."""
    return min_canvas(targets, target_lengths) <= canvas_lengths


@dataclass(frozen=True)
class Lattice:
    """The states of eq. 6, l': a blank before, between and after the target's tokens, 2 T + 1 of them."""

    labels: Int[Tensor, "B N"]
    scores: Float[Tensor, "B A N"]
    may_skip: Bool[Tensor, "B N"]  # a token, and another one than the last: the blank between may be left out
    canvas_lengths: Int[Tensor, " B"]
    target_lengths: Int[Tensor, " B"]

    @classmethod
    def build(cls, scored: TargetScores) -> Lattice:
        states = torch.arange(2 * scored.ids.size(1) - 1, device=scored.ids.device)
        columns = torch.where(states % 2 == 1, (states + 1) // 2, 0)
        labels = scored.ids[:, columns]
        differs = F.pad(labels[:, 2:] != labels[:, :-2], (min(2, len(states)), 0))
        return cls(labels, scored.scores[:, :, columns], differs, scored.canvas_lengths, scored.target_lengths.long())

    def initial(self, nothing: float) -> Tensor:
        """Alpha before the first slot (B, 2T+1): at state 0, from which 0 and 1 are reached (eq. 6, t = 1)."""
        alpha = torch.full_like(self.labels, nothing, dtype=self.scores.dtype)
        alpha[:, 0] = 0
        return alpha

    def predecessors(self, alpha: Tensor, nothing: float) -> Tensor:
        """Alpha of the states from which one comes by staying, one step, a skip: (3, B, 2T+1) (eq. 7)."""
        step = F.pad(alpha[:, :-1], (1, 0), value=nothing)
        skip = F.pad(step[:, :-1], (1, 0), value=nothing).masked_fill(~self.may_skip, nothing)
        return torch.stack([alpha, step, skip])

    def advance(self, alpha: Tensor, arriving: Tensor, t: int) -> Tensor:
        """Alpha after slot t; canvases that have ended keep theirs."""
        return (arriving + self.scores[:, t]).where((t < self.canvas_lengths)[:, None], alpha)

    def final(self, alpha: Tensor) -> Tensor:
        """Alpha of the last blank and of the last token (B, 2) (eq. 8)."""
        ends = 2 * self.target_lengths[:, None] - torch.arange(2, device=alpha.device)
        return alpha.gather(1, ends.clamp(min=0)).masked_fill(ends < 0, FLOOR)


def no_path(ids: Tensor, scores: Tensor, *rest: Tensor) -> Tensor:
    """A tensor such as operators that find an alignment return, for who follows shapes alone."""
    return ids.new_empty(scores.shape[:2])


def only_possible(
    nll: Float[Tensor, " B"], fits: Bool[Tensor, " B"], dtype: torch.dtype
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Zero the rows without an alignment, value and gradient. A NaN must stay one: it is for the trainer to see."""
    possible = fits & ~(nll > -FLOOR / 2)
    return nll.where(possible, 0.0).to(result_dtype(dtype)), possible


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
