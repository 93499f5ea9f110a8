"""Steps of Edit Flows on a canvas: which edits happen, and what they make of it.

Havasi et al. 2025, https://arxiv.org/abs/2506.09018, section 4: Euler steps. Places are the begin and the tokens of a
canvas; what is inserted stands behind its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.nn.rng import RowRandom
from nat.ops.edit_flow import Rates
from nat.ops.editing import NEW, deletion, insertion, rearrange
from nat.ops.selection import lowest
from nat.search.canvas import Canvas, Fate
from nat.search.editing import GIVEN


@dataclass(frozen=True)
class Edits:
    """Where a token is inserted behind a place, written in its place, or deleted, (B, L + 1) each."""

    inserted: Bool[Tensor, "B G"]
    substituted: Bool[Tensor, "B G"]
    deleted: Bool[Tensor, "B G"]

    @classmethod
    def drawn(cls, rates: Rates, step: float, random: RowRandom) -> Edits:
        """What happens in a step of time: an insertion with probability 1 - exp(-h l_ins); and something to the token
        with 1 - exp(-h (l_sub + l_del)), by their shares a substitution or a deletion."""
        noise = random.uniform(rates.insertion.size(1), 3).unbind(dim=2)
        inserted = noise[0] < -torch.expm1(-step * rates.insertion)
        acts = noise[1] < -torch.expm1(-step * rates.acting)
        substituted = noise[2] * rates.acting < rates.substitution
        return cls(inserted, acts & substituted, acts & ~substituted)

    @classmethod
    def expected(cls, counts: Rates, *, threshold: float) -> Edits:
        """Where at least `threshold` edits are expected to be left; of a token the likelier of the two."""
        acts = counts.acting >= threshold
        substituted = counts.substitution >= counts.deletion
        return cls(counts.insertion >= threshold, acts & substituted, acts & ~substituted)

    def of_words(self, canvas: Canvas) -> Edits:
        """With an insertion into every canvas that is empty and open, for a translation has words."""
        needed = F.pad((canvas.lengths == 0)[:, None] & canvas.open_gaps[:, :1], (0, canvas.tokens.size(1)))
        return replace(self, inserted=self.inserted | needed)

    @property
    def written(self) -> Bool[Tensor, "B G 2"]:
        """Where tokens are wanted: behind each place and in it."""
        return torch.stack((self.inserted, self.substituted), dim=2)

    def likeliest(self, counts: Rates, log_probs: Float[Tensor, "B G 2"], share: float) -> Edits:
        """This share of the edits that are expected here, but at least one: those whose own rates, l Q(token) and
        l_del, are highest. counts: what is left to do. log_probs: of the tokens."""
        probs = log_probs.exp()
        here = torch.stack((counts.insertion.where(self.inserted, 0.0), counts.acting.where(self.acting, 0.0)), dim=2)
        own = torch.stack(
            (
                counts.insertion * probs[:, :, 0],
                torch.where(self.substituted, counts.substitution * probs[:, :, 1], counts.deletion),
            ),
            dim=2,
        )
        asked = torch.stack((self.inserted, self.acting), dim=2).flatten(1)
        number = (here.sum(dim=(1, 2)) * share).ceil().long()
        first = lowest(-own.flatten(1), number, asked).view(*here.shape)
        return Edits(first[:, :, 0], self.substituted & first[:, :, 1], self.deleted & first[:, :, 1])

    @property
    def acting(self) -> Bool[Tensor, "B G"]:
        """Where something is done to the token itself."""
        return self.substituted | self.deleted


def allowed(rates: Rates, canvas: Canvas) -> Rates:
    """Without insertions into closed gaps, and without edits of fixed tokens."""
    free = F.pad(canvas.valid & ~canvas.fixed, (1, 0))
    return Rates(
        rates.insertion.where(canvas.open_gaps, 0.0),
        rates.substitution.where(free, 0.0),
        rates.deletion.where(free, 0.0),
    )


def edited(
    canvas: Canvas,
    edits: Edits,
    counts: Int[Tensor, "B G"],
    tokens: Int[Tensor, "B G 2"],
    scores: Float[Tensor, "B G 2"],
) -> Canvas:
    """After all edits at once. counts: 0 or 1 tokens inserted at each place. tokens, scores: what is written behind a
    place and in it, with log-probabilities. A token that is written anew has fate WRITTEN."""
    written, deleted = edits.substituted[:, 1:], edits.deleted[:, 1:]
    old_scores = scores[:, 1:, 1].where(written, canvas.scores.to(scores))
    canvas = replace(
        canvas,
        tokens=tokens[:, 1:, 1].where(written, canvas.tokens),
        scores=old_scores,
        positions=canvas.positions | {GIVEN: canvas.positions[GIVEN] & ~written},
    )
    origin, valid = insertion(counts, canvas.valid)
    place = ((origin != NEW) & valid).cumsum(dim=1)  # of a new position: what it stands behind
    kept, after = deletion(valid & ~rearrange(deleted, origin), most=valid.size(1))
    origin, place = origin.gather(1, kept), place.gather(1, kept)
    fate = torch.where(rearrange(written, origin), int(Fate.WRITTEN), int(Fate.KEPT))
    new = (origin == NEW) & after
    moved = canvas.moved(origin, after, fate.masked_fill(new, int(Fate.INSERTED)).masked_fill(~after, int(Fate.NONE)))
    return replace(
        moved,
        tokens=tokens[:, :, 0].gather(1, place).where(new, moved.tokens),
        scores=scores[:, :, 0].gather(1, place).where(new, moved.scores),
    )
