"""Where decoders that edit begin: from nothing, from a draft, from phrases that must stay.

Hard constraints by starting from them: Susanto et al. 2020, https://arxiv.org/abs/2004.12681. Departs from the
paper: its order of the constraints is the one given; here several orders are tried, and the model chooses.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.batch import Draft, Phrases, Source
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.rows import Rows
from nat.search.canvas import Canvas, Fate

CUT = "cut"  # of `Canvas.rows`: whether the last pass wanted to insert more than there was room for
GIVEN = "given"  # of `Canvas.positions`: True at tokens that the canvas began with, which no pass gives a score
ORIGIN = "origin"  # of `Canvas.positions`: 1 + the position in the canvas before the pass, 0 where something is new


@dataclass(frozen=True)
class Work(Rows):
    """What decoding reads beside its canvas. limits: (B,) the longest canvas. random: where something is sampled."""

    memory: Memory
    limits: Int[Tensor, " B"]
    random: RowRandom | None


def within_limits(
    canvas: Canvas, wanted: Int[Tensor, "B G"], limits: Int[Tensor, " B"]
) -> tuple[Canvas, Int[Tensor, "B G"]]:
    """How much is inserted into each gap where so much is wanted: what exceeds a row's limit is cut from the last gaps
    on. The canvas says where that is so."""
    room = (limits - canvas.lengths).clamp(min=0)
    counts = wanted.cumsum(dim=1).minimum(room[:, None]).diff(dim=1, prepend=torch.zeros_like(wanted[:, :1]))
    return replace(canvas, rows={CUT: (counts < wanted).any(dim=1)}), counts


def traced(canvas: Canvas) -> Canvas:
    """With the origin of each position, at the beginning of a pass."""
    places = torch.arange(1, canvas.tokens.size(1) + 1, device=canvas.device)
    origin = places.expand_as(canvas.tokens).masked_fill(~canvas.valid, 0)
    return replace(canvas, positions=canvas.positions | {ORIGIN: origin})


def with_deleted(before: Canvas, after: Canvas) -> Canvas:
    """The canvas after a pass together with what the pass took out: each deleted token, with its fate and the score
    that it had, where it stood, and so before what was inserted in its place. One that is written anew is deleted, and
    what is written stands beside it."""
    num_before, origin = before.tokens.size(1), after.positions[ORIGIN]
    places = torch.arange(1, num_before + 1, device=before.tokens.device).expand_as(before.tokens)
    stays = origin.masked_fill(after.fate == Fate.WRITTEN, 0)
    kept = F.pad(torch.zeros_like(before.valid), (1, 0)).scatter(1, stays, True)[:, 1:]
    gone = before.valid & ~kept
    # an inserted token stands where the next token that was kept stood, but after what was deleted before that
    anchor = origin.masked_fill(origin == 0, num_before + 1)
    anchor = anchor.flip(1).cummin(dim=1).values.flip(1)
    order = torch.cat((2 * places, 2 * anchor - (origin == 0).long()), dim=1)
    valid = torch.cat((gone, after.valid), dim=1)
    width = max(1, int(valid.sum(dim=1).max()))
    order = order.masked_fill(~valid, 2 * num_before + 3).argsort(dim=1, stable=True)[:, :width]
    deleted = torch.full_like(before.fate, int(Fate.DELETED))

    def merged(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat((old.to(new), new), dim=1).masked_fill(~valid, 0).gather(1, order)

    both = Canvas.start(merged(before.tokens, after.tokens), valid.gather(1, order))
    return replace(both, scores=merged(before.scores, after.scores), fate=merged(deleted, after.fate))


def start(source: Source, *, copies: int = 1) -> Canvas:
    """The first canvases of `copies` decodings of each row, (B * copies), copies of a row side by side.

    A draft is the canvas; phrases that it contains are fixed where they stand first, the others follow it. Without a
    draft the phrases are the canvas, each copy with another order of them (see `orders`).
    """
    rows = source.repeat_rows(copies)
    canvas = empty(rows) if rows.draft is None else from_draft(rows.draft)
    if source.phrases is None:
        return canvas
    phrases = reordered(source.phrases, copies)
    missing = []
    for c in range(phrases.valid.size(1)):
        canvas, present = fix_phrase(canvas, phrases.tokens[:, c], phrases.valid[:, c])
        missing.append(~present)
    return appended(canvas, Phrases(phrases.tokens, phrases.valid & torch.stack(missing, dim=1)[:, :, None]))


def held_out(
    log_probs: Callable[[Tensor], Tensor], canvas: Canvas, asked: Bool[Tensor, "B L"], *, symbol: int
) -> Float[Tensor, "B L ..."]:
    """log_probs of the positions that are asked for, each while it and every other one of them are hidden by the
    symbol: one call for the even positions, one for the odd ones, for a model is only trained to predict what it does
    not see. What it says of other positions means nothing. log_probs: (B, L, ...) of all, given the tokens."""
    even = torch.arange(canvas.tokens.size(1), device=canvas.device) % 2 == 0
    of_even, of_odd = (log_probs(canvas.tokens.masked_fill(hidden & asked, symbol)) for hidden in (even, ~even))
    return of_even.where(even.view(-1, *(1,) * (of_even.dim() - 2)), of_odd)


def with_given_scores(
    canvas: Canvas, log_probs: Callable[[Tensor], Tensor], *, symbol: int
) -> tuple[Canvas, Int[Tensor, " B"]]:
    """With scores of the tokens that were given and are still there, see `held_out`; and each row's decoder calls.
    log_probs: (B, L) of the canvas, given the tokens."""
    given = canvas.positions[GIVEN]
    calls = 2 * given.any(dim=1)
    if not bool(given.any()):
        return canvas, calls
    scores = held_out(log_probs, canvas, given, symbol=symbol)
    return replace(canvas, scores=scores.where(given, canvas.scores.to(scores))), calls


def empty(rows: Rows) -> Canvas:
    none = torch.zeros((len(rows), 1), dtype=torch.bool, device=rows.device)
    return replace(Canvas.start(none.long(), none), positions={GIVEN: none})


def from_draft(draft: Draft) -> Canvas:
    sealed = draft.closed.gather(1, draft.lengths[:, None]).squeeze(1)
    joined = draft.closed[:, :-1] & draft.valid
    positions = {GIVEN: draft.valid}
    begun = Canvas.start(draft.tokens, draft.valid)
    begun = replace(begun, fixed=draft.fixed, joined=joined, sealed=sealed, positions=positions)
    return begun.without(~draft.valid)


def fix_phrase(
    canvas: Canvas, tokens: Int[Tensor, "B N"], valid: Bool[Tensor, "B N"]
) -> tuple[Canvas, Bool[Tensor, " B"]]:
    """Fix the first occurrence of a phrase that is not part of another one. Returns the canvas and which rows have
    one."""
    length, width = canvas.tokens.size(1), tokens.size(1)
    here = torch.arange(length, device=tokens.device)[:, None] + torch.arange(width, device=tokens.device)  # (L, N)
    wide = F.pad(canvas.tokens.masked_fill(~canvas.valid | canvas.fixed, -1), (0, width), value=-1)
    match = ((wide[:, here] == tokens[:, None]) | ~valid[:, None]).all(dim=2) & valid[:, :1]  # (B, L)
    present = match.any(dim=1)
    first = match.int().argmax(dim=1)
    offset = torch.arange(length, device=tokens.device) - first[:, None]
    inside = (offset >= 0) & (offset < valid.sum(dim=1, keepdim=True)) & present[:, None]
    fixed, joined = canvas.fixed | inside, canvas.joined | (inside & (offset > 0))
    return replace(canvas, fixed=fixed, joined=joined), present


def appended(canvas: Canvas, phrases: Phrases) -> Canvas:
    """With the phrases, fixed, after what is there."""
    tokens, valid = phrases.tokens.flatten(1), phrases.valid.flatten(1)  # (B, C N)
    inside = F.pad(phrases.valid[:, :, 1:], (1, 0)).flatten(1)
    both = Canvas.start(torch.cat((canvas.tokens, tokens), dim=1), torch.cat((canvas.valid, valid), dim=1))
    fixed, joined = torch.cat((canvas.fixed, valid), dim=1), torch.cat((canvas.joined, inside), dim=1)
    positions = {GIVEN: both.valid}
    both = replace(both, fixed=fixed, joined=joined, sealed=canvas.sealed, positions=positions)
    return both.without(~both.valid)


# --- orders ----------------------------------------------------------------------------------------


def num_orders(phrases: Phrases | None, *, limit: int) -> int:
    """How many orders the row with the most phrases has, at most `limit`."""
    if phrases is None:
        return 1
    most = int(phrases.valid.any(dim=2).sum(dim=1).max())
    return min(limit, math.factorial(min(most, 20)))


def orders(num_phrases: int, count: int) -> list[tuple[int, ...]]:
    """`count` orders of so many phrases, the given one first: all of them if that is enough (and again from the
    beginning if it is more), else different ones drawn with a fixed seed."""
    if math.factorial(min(num_phrases, 20)) <= max(count, 720):
        every = list(itertools.permutations(range(num_phrases)))
        if len(every) > count:
            every = every[:1] + random.Random(num_phrases).sample(every[1:], count - 1)
        return list(itertools.islice(itertools.cycle(every), count))
    drawn = {tuple(range(num_phrases)): None}
    generator = random.Random(num_phrases)
    while len(drawn) < count:
        drawn[tuple(generator.sample(range(num_phrases), num_phrases))] = None
    return list(drawn)


def reordered(phrases: Phrases, copies: int) -> Phrases:
    """(B * copies) rows, each copy of a row with another order."""
    width = phrases.valid.size(1)
    table = [
        [(*order, *range(number, width)) for order in orders(number, copies)] for number in range(width + 1)
    ]  # by number of phrases
    counts = phrases.valid.any(dim=2).sum(dim=1)  # (B,)
    index = torch.tensor(table, device=counts.device)[counts].flatten(0, 1)  # (B * K, C)
    repeated = phrases.repeat_rows(copies)
    wide = index[:, :, None].expand_as(repeated.tokens)
    return Phrases(repeated.tokens.gather(1, wide), repeated.valid.gather(1, wide))
