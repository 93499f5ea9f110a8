"""Sequences on which a policy that edits is trained: damaged references, and what an expert makes of them.

Gu, Wang & Zhao 2019, https://arxiv.org/abs/1905.11006, section 3.2, "Roll-in policies". All noise is the rows' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from nat.config import option
from nat.data.batch import Target, Tokens
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.nn.rng import RowRandom
from nat.ops.edit_distance import Edits
from nat.ops.editing import NEW, deletion, insertion, rearrange
from nat.ops.selection import random_subset

DEFAULT_NOISE = 0.5


@dataclass(frozen=True, kw_only=True)
class DraftConfig:
    """Options of every method that learns to correct drafts."""

    drafts: float = option(
        0.5, "training: share of pairs whose initial sequence is a draft; of the others it is empty", minimum=0,
        maximum=1,
    )  # fmt: skip
    draft_noise: float | None = option(
        None,
        f"a draft: the most of its words, of each pair anew, that are dropped or replaced; null: {DEFAULT_NOISE}",
        above=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        if self.draft_noise is not None and self.drafts == 0:
            raise ConfigError(f"draft_noise={self.draft_noise}: has no effect with drafts=0")

    def initial(self, target: Target, random: RowRandom, *, num_tokens: int) -> Tokens:
        """What is edited at first: nothing, as where one translates, or a draft, as where one corrects. num_tokens: the
        size of the target vocabulary."""
        noise = DEFAULT_NOISE if self.draft_noise is None else self.draft_noise
        draft = damaged(target, random.fork(0), most=noise, alphabet=(NUM_SYMBOLS, num_tokens))
        return kept(draft, draft.valid & (random.uniform() < self.drafts)[:, None])


def dropped(target: Target, random: RowRandom) -> Tokens:
    """The target after random deletion: of T tokens a number uniform in 0 .. T, anywhere; so all states that insertion
    from nothing goes through, the finished one too."""
    noise = random.fork(0).uniform(target.tokens.size(1))
    return kept(target, target.valid & ~random_subset(target.valid, random.uniform(), noise))


def damaged(target: Target, random: RowRandom, *, most: float, alphabet: tuple[int, int]) -> Tokens:
    """A draft: a share of the target's tokens, of each row anew and uniform in 0 .. most, is as often dropped as
    replaced by a token drawn evenly from ids alphabet[0] .. alphabet[1] - 1."""
    width, number = target.tokens.size(1), alphabet[1] - alphabet[0]
    hit = random.fork(0).uniform(width) < most * random.uniform()[:, None]
    drop = random.fork(1).uniform(width) < 0.5
    others = alphabet[0] + (random.fork(2).uniform(width) * number).long().clamp(max=number - 1)
    tokens = others.where(hit & target.valid, target.tokens)
    return kept(Tokens(tokens, target.valid), target.valid & ~(hit & drop))


def completed(ready: Tokens, edits: Edits, target: Target) -> tuple[Tokens, Bool[Tensor, "B L"]]:
    """`ready`, from which nothing is deleted, with the expert's placeholders and its tokens there; and their places."""
    most = ready.tokens.size(1) + target.tokens.size(1)
    origin, valid = insertion(edits.placeholders, ready.valid, most=most)
    new = (origin == NEW) & valid
    missing = kept(target, edits.missing).tokens
    rank = (new.cumsum(dim=1) - 1).clamp(0, missing.size(1) - 1)
    return Tokens(missing.gather(1, rank).where(new, rearrange(ready.tokens, origin)), valid), new


def kept(sequence: Tokens, keep: Bool[Tensor, "B L"]) -> Tokens:
    """What is left of the sequence, right-padded."""
    origin, valid = deletion(keep, most=keep.size(1))
    return Tokens(rearrange(sequence.tokens, origin).masked_fill(~valid, int(Symbol.PAD)), valid)


def either(first: Bool[Tensor, " B"], one: Tokens, other: Tokens) -> Tokens:
    """The rows of `one` where `first`, else those of `other`."""
    width = max(one.tokens.size(1), other.tokens.size(1))
    one, other = (s.map(lambda t: F.pad(t, (0, width - t.size(1)))) for s in (one, other))
    return Tokens(one.tokens.where(first[:, None], other.tokens), one.valid.where(first[:, None], other.valid))
