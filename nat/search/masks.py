"""Canvases of masks: nothing else at first, or a draft, or phrases that must stay, placed where they cost least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.batch import Phrases, Source
from nat.data.vocabulary import Symbol
from nat.nn.length import LengthPredictor
from nat.nn.transformer import Memory
from nat.ops.placement import best_placement, window_sums
from nat.ops.selection import lowest
from nat.search.canvas import Canvas, Fate
from nat.search.editing import held_out, num_orders, reordered
from nat.search.length_beam import LengthBeam

MASK, PAD = int(Symbol.MASK), int(Symbol.PAD)
TOTAL = "total"  # of `Canvas.rows`: positions that are masked at first
STAYS = 1e4  # worth of leaving a phrase where a draft has it: above all log-probabilities
LogProbs = Callable[[Tensor, Tensor, Memory], Tensor]  # tokens (B, L), valid (B, L), memory -> (B, L, V)


def first_masks(
    beam: LengthBeam, predictor: LengthPredictor, log_probs: LogProbs, *, share: float, orders: int
) -> tuple[Canvas, LengthBeam, Int[Tensor, " N"]]:
    """Nothing but masks; or a draft, of whose tokens the `share` that the model finds least probable is masked, and
    phrases, in the best of `orders` orders. Returns the canvas, the beam with the lengths of the canvas, and the
    decoder calls that it took: 0, or 2."""
    source, calls = beam.source, torch.zeros_like(beam.lengths)
    if source.draft is None and source.phrases is None:
        return masked_canvas(beam.lengths), beam, calls
    canvas, drafted = first_canvas(source, beam.lengths)
    asked, valid = drafted, canvas.valid
    memory = replace(beam.memory, banned=())  # what is given may be anything
    likely = held_out(lambda tokens: log_probs(tokens, valid, memory), canvas, valid, symbol=MASK)
    if source.phrases is not None:
        canvas = with_phrases(canvas, source.phrases, likely, orders=orders)
        asked = asked | canvas.fixed.any(dim=1)
    scores = likely.gather(2, canvas.tokens[:, :, None]).squeeze(2)
    free = canvas.valid & ~canvas.fixed
    unknown = canvas.tokens == MASK
    total = (free.sum(dim=1) * torch.where(drafted, share, 1.0)).ceil().long()
    total = torch.maximum(total, (unknown & free).sum(dim=1))
    hidden = lowest(scores.masked_fill(unknown, -torch.inf), total, free)
    fate = torch.where(hidden, int(Fate.MASKED), int(Fate.KEPT)).masked_fill(~canvas.valid, int(Fate.NONE))
    scores = scores.masked_fill(hidden | ~canvas.valid, 0.0)
    canvas = replace(canvas, scores=scores, fate=fate, rows={TOTAL: total})
    return canvas, beam.resized(predictor, canvas.lengths), calls + 2 * asked


def masked_canvas(lengths: Int[Tensor, " B"]) -> Canvas:
    """Nothing but masks."""
    valid = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    tokens = torch.full(valid.shape, MASK, device=lengths.device).masked_fill(~valid, PAD)
    fate = torch.where(valid, int(Fate.MASKED), int(Fate.NONE))
    return replace(Canvas.start(tokens, valid), fate=fate, rows={TOTAL: lengths})


def first_canvas(source: Source, lengths: Int[Tensor, " B"]) -> tuple[Canvas, Bool[Tensor, " B"]]:
    """The drafts, or as many masks as the length says, with masks added where the phrases need more room; and which
    rows have a draft."""
    draft, phrases = source.draft, source.phrases
    room = torch.zeros_like(lengths) if phrases is None else phrases.valid.sum(dim=(1, 2))
    drafted = torch.zeros_like(lengths, dtype=torch.bool) if draft is None else draft.lengths > 0
    if draft is not None:
        lengths = draft.lengths.where(drafted, lengths)
    canvas = masked_canvas(torch.maximum(lengths, room))
    if draft is None:
        return canvas, drafted
    width = min(draft.tokens.size(1), canvas.tokens.size(1))
    tokens = canvas.tokens.clone()
    tokens[:, :width] = draft.tokens[:, :width].where(draft.valid[:, :width], tokens[:, :width])
    return replace(canvas, tokens=tokens), drafted


def with_phrases(canvas: Canvas, phrases: Phrases, log_probs: Float[Tensor, "B L V"], *, orders: int) -> Canvas:
    """The phrases written where they cost least, without overlap, in the best of several orders, and fixed."""
    copies = num_orders(phrases, limit=orders)
    tried = reordered(phrases, copies)  # (B * K, C, N)
    worth = phrase_worth(canvas.repeat_rows(copies), tried, log_probs.repeat_interleave(copies, dim=0))
    starts, total = best_placement(worth, tried.valid.sum(dim=2))
    best = total.view(-1, copies).argmax(dim=1) + torch.arange(len(canvas), device=total.device) * copies
    chosen, starts, length = tried.select(best), starts[best], canvas.tokens.size(1)
    place = starts[:, :, None] + torch.arange(chosen.tokens.size(2), device=starts.device)  # (B, C, N)
    place = place.where(chosen.valid, length).flatten(1)  # what is no token goes to a column that is cut off
    tokens = F.pad(canvas.tokens, (0, 1)).scatter(1, place, chosen.tokens.flatten(1))[:, :length]
    fixed = F.pad(canvas.fixed, (0, 1)).scatter(1, place, True)[:, :length]
    return replace(canvas, tokens=tokens, fixed=fixed)


def phrase_worth(canvas: Canvas, phrases: Phrases, log_probs: Float[Tensor, "B L V"]) -> Float[Tensor, "B C L"]:
    """Of each phrase that begins at each position: the log-probability that it adds to what it replaces (the draft, or
    what the model would write at a mask); STAYS where the canvas holds it already."""
    shape = phrases.tokens.shape[1:]
    wanted = phrases.tokens.flatten(1)[:, None].expand(-1, canvas.tokens.size(1), -1)  # (B, L, C N)
    likely = log_probs.masked_fill(~canvas.valid[:, :, None], -torch.inf)
    drafted = likely.gather(2, canvas.tokens[:, :, None]).squeeze(2)
    replaced = likely.amax(dim=2).where(canvas.tokens == MASK, drafted).masked_fill(~canvas.valid, 0.0)
    gain = likely.gather(2, wanted) - replaced[:, :, None]
    differs = (canvas.tokens[:, :, None] != wanted).to(gain.dtype)
    worth = window_sums(gain.unflatten(2, shape), phrases.valid)
    absent = window_sums(differs.unflatten(2, shape), phrases.valid) != 0
    return worth.where(absent, STAYS)
