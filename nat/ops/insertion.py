"""Learning to insert: a part of a sequence is shown, every slot of it has a span of missing positions as its target.

Stern et al. 2019, https://arxiv.org/abs/1902.03249. Slot g of a shortened sequence is its gap g (nat/ops/editing.py).
Every missing position belongs to one slot, so that targets and weights are (B, L), over positions of the whole
sequence; nothing is as wide as spans or the vocabulary. Sequences are right-padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.editing import deletion, gaps
from nat.ops.log_softmax import softmax_parts
from nat.ops.precision import at_least_float32
from nat.ops.selection import random_subset


@dataclass(frozen=True)
class Partial:
    """What is left of sequences (B, L) after some positions were removed, N of the longest: G = N + 1 slots.

    origin, valid: (B, N) the old position that stands at each place of the shortened sequence, and which places are
    real. missing: (B, L). slot: (B, L) positions that are kept before each one: the slot that a missing one belongs to.
    first, last: (B, G) the missing positions of each slot, last = first - 1 where there is none.
    """

    origin: Int[Tensor, "B N"]
    valid: Bool[Tensor, "B N"]
    missing: Bool[Tensor, "B L"]
    slot: Int[Tensor, "B L"]
    first: Int[Tensor, "B G"]
    last: Int[Tensor, "B G"]

    @property
    def slots(self) -> Bool[Tensor, "B G"]:
        """The slots that each row has."""
        return gaps(self.valid)

    @property
    def filled(self) -> Bool[Tensor, "B G"]:
        """Slots with something missing."""
        return self.last >= self.first


# --- what is shown ----------------------------------------------------------------------------------


def kept_at_random(
    valid: Bool[Tensor, "B L"],
    share: Float[Tensor, " B"],
    noise: Float[Tensor, "B L"],
    *,
    removable: Bool[Tensor, "B L"] | None = None,
) -> Bool[Tensor, "B L"]:
    """Of the n removable positions of each row keep a subset of k, both uniform, k in 0..n (section 4.2); all others
    are kept. share, noise: uniform in (0, 1). removable: among the valid ones; None: all of them."""
    removable = valid if removable is None else removable & valid
    return (valid & ~removable) | random_subset(removable, share, noise)


def shortened(kept: Bool[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Partial:
    """Sequences without the valid positions that are not kept."""
    kept = kept & valid
    origin, places = deletion(kept, most=kept.size(1))
    # slot g lies between kept positions g - 1 and g; the last one ends with the sequence
    first = F.pad(origin + 1, (1, 0)).masked_fill(~gaps(places), 0)
    ends = F.pad(origin, (0, 1)).scatter(1, places.sum(dim=1, keepdim=True), valid.sum(dim=1, keepdim=True))
    last = (ends - 1).where(gaps(places), -1)
    slot = kept.long().cumsum(dim=1) - kept.long()
    return Partial(origin, places, valid & ~kept, slot, first, last)


# --- weights ----------------------------------------------------------------------------------------


def uniform_weights(partial: Partial, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "B L"]:
    """One over the size of its span for each missing position, else 0 (section 4.3)."""
    size = (partial.last - partial.first + 1).gather(1, partial.slot).clamp(min=1)
    return partial.missing.to(dtype) / size


def tree_weights(partial: Partial, *, temperature: float, dtype: torch.dtype = torch.float32) -> Float[Tensor, "B L"]:
    """Softmax over each span of -|i - centre| / temperature for its missing positions i, else 0: the middle first, as
    in a balanced binary tree (section 4.2). Towards 0 the centre alone has weight (both middle ones of an even span),
    towards infinity the weights are uniform."""
    size, ends = partial.last - partial.first + 1, partial.first + partial.last
    positions = torch.arange(partial.slot.size(1), device=partial.slot.device)
    # twice the distance, whole numbers; an even span has none at 0, and the largest exponent must be 0
    doubled = (2 * positions - ends.gather(1, partial.slot)).abs() - (size.gather(1, partial.slot) + 1) % 2
    heights = torch.exp(doubled.to(dtype) / (-2.0 * temperature)).masked_fill(~partial.missing, 0.0)
    totals = torch.zeros(size.shape, dtype=dtype, device=size.device).scatter_add(1, partial.slot, heights)
    return heights / totals.gather(1, partial.slot).where(partial.missing, 1.0)


# --- probabilities ----------------------------------------------------------------------------------


def slot_log_probs(slot_logits: Float[Tensor, "B G"], slots: Bool[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """log p(l), a softmax over the slots that there are (section 3.2), of which each row has one at least; -inf where
    there is none. With the normalisers of the contents as slot_logits, log p(c | l) + log p(l) is one softmax over all
    contents of all slots together."""
    return F.log_softmax(at_least_float32(slot_logits).masked_fill(~slots, -torch.inf), dim=1)


# --- losses -----------------------------------------------------------------------------------------


def slot_ends(partial: Partial, slots: Bool[Tensor, "B G"]) -> Bool[Tensor, "B G"]:
    """Slot finalisation: every slot with nothing missing has to predict its end (section 4.4)."""
    return slots & ~partial.filled


def sequence_ends(partial: Partial, slots: Bool[Tensor, "B G"]) -> Bool[Tensor, "B G"]:
    """Sequence finalisation: slots with nothing missing have no target, until all of the row has nothing missing; then
    every slot has to predict the end of the sequence (section 4.4)."""
    return slots & ~partial.missing.any(dim=1, keepdim=True)


class SlotScores(NamedTuple):
    """What the slots give to what a loss asks them for.

    spans: (B, L) log-probability of each token in the slot that it belongs to. ends: (B, G) of the end. mean: (B, G)
    over all contents that are possible, where asked for. normaliser: (B, G) log of the sum of exp(logits).
    """

    spans: Float[Tensor, "B L"]
    ends: Float[Tensor, "B G"]
    mean: Float[Tensor, "B G"]
    normaliser: Float[Tensor, "B G"]

    @classmethod
    def of(
        cls,
        logits: Float[Tensor, "B G V"],
        tokens: Int[Tensor, "B L"],
        partial: Partial,
        *,
        end: int,
        with_mean: bool = False,
        forbidden: list[int] | None = None,
    ) -> SlotScores:
        """Log-probabilities of contents given the slot, a softmax for each. tokens: of the whole sequences."""
        shape = logits.shape[:2]
        slots = torch.arange(shape[0] * shape[1], device=logits.device).view(shape)
        parts = softmax_parts(
            logits.flatten(0, 1),
            torch.cat((slots.gather(1, partial.slot).flatten(), slots.flatten())),
            torch.cat((tokens.flatten(), torch.full_like(slots, end).flatten())),
            with_mean=with_mean,
            forbidden=forbidden,
        )
        spans, ends = parts.at.split([tokens.numel(), slots.numel()])
        return cls(spans.view_as(tokens), ends.view(shape), parts.mean.view(shape), parts.normaliser.view(shape))

    def located(self, slot_logits: Float[Tensor, "B G"], partial: Partial, slots: Bool[Tensor, "B G"]) -> SlotScores:
        """Log-probabilities of contents and slots, log p(c | l) + log p(l), see `slot_log_probs`."""
        where = slot_log_probs(slot_logits, slots)
        spans = self.spans + where.gather(1, partial.slot)
        return self._replace(spans=spans, ends=self.ends + where, mean=self.mean + where)


def insertion_losses(
    scores: SlotScores,
    weights: Float[Tensor, "B L"],
    partial: Partial,
    ends: Bool[Tensor, "B G"],
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(smoothed loss, plain loss) of each row: the mean, over its slots that have a target, of the weighted mean of
    -log p(y_i, l) over the span, or of -log p(end, l) at `ends` (section 4, the slot losses and their mean).

    weights: of the missing positions, see `uniform_weights`. The smoothing mass is spread evenly over the contents of
    the same slot that are possible.
    """
    spans = (scores.spans.where(partial.missing, 0.0) * weights).sum(dim=1)
    counted = ends | partial.filled
    count = counted.sum(dim=1).clamp(min=1)
    plain = -(spans + scores.ends.where(ends, 0.0).sum(dim=1)) / count
    if label_smoothing == 0.0:
        return plain, plain.detach()
    uniform = -scores.mean.where(counted, 0.0).sum(dim=1) / count
    return (1 - label_smoothing) * plain + label_smoothing * uniform, plain.detach()
