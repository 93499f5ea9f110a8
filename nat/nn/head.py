"""The output layer as losses and decoders ask it: for the best token, for given tokens, or for everything.

Only who asks for everything pays for a log-softmax over the vocabulary in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.losses import CrossEntropy, cross_entropy
from nat.nn.copying import Copyable, CopyHead
from nat.nn.embedding import OutputLayer, TokenEmbedding
from nat.ops.log_softmax import softmax_parts
from nat.ops.precision import at_least_float32
from nat.ops.sampling import class_of
from nat.ops.selection import packed, unpacked


@dataclass(frozen=True)
class Head:
    """What is said of decoder states (B, L, D) over the target vocabulary V; with a copy head, of those that read
    `source`, a mixture with its tokens. banned: symbols that have no probability here, the others share it."""

    output: OutputLayer
    embedding: TokenEmbedding
    copying: CopyHead | None = None
    source: Copyable | None = None
    banned: tuple[int, ...] = ()

    @property
    def forbidden(self) -> list[int]:
        """Symbols of probability 0, ascending."""
        return sorted({*self.output.forbidden, *self.banned})

    def repeat_rows(self, n: int) -> Self:
        """Of states whose rows are repeated, copies of a row side by side."""
        return self if self.source is None else replace(self, source=self.source.repeat_rows(n))

    def scores(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Logits, in the precision of the product; with a copy head, which mixes probabilities, log-probabilities."""
        scores: Tensor = self.output(states, self.embedding)
        if self.copying is not None:
            assert self.source is not None
            scores = self.copying(F.log_softmax(at_least_float32(scores), dim=-1), states, self.source)
        return without(scores, self.banned)

    def full(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L V"]:
        """All log-probabilities, in float32 (float64) at least."""
        scores = self.scores(states)
        done = self.copying is not None and not self.banned
        return scores if done else F.log_softmax(at_least_float32(scores), dim=-1)

    def argmax(self, states: Float[Tensor, "B L D"]) -> Int[Tensor, "B L"]:
        """The most probable tokens; without a gradient."""
        with torch.no_grad():
            return self.scores(states).argmax(dim=-1)

    def best(
        self, states: Float[Tensor, "B L D"], where: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """The most probable tokens and their log-probabilities; what stands where it is not asked for means nothing."""
        if where is None:
            scores = self.scores(states)
            tokens = scores.argmax(dim=-1)
            return tokens, log_probs_at(scores, tokens)
        _, scores = self.packed(states, where)
        return _spread(where, scores, scores.argmax(dim=-1))

    def sampled(
        self,
        states: Float[Tensor, "B L D"],
        drawn: Float[Tensor, "B L"],
        *,
        temperature: float,
        where: Bool[Tensor, "B L"] | None = None,
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """As `best`, for what numbers uniform in (0, 1) draw at a temperature; log-probabilities are those at 1."""
        if where is None:
            scores = self.scores(states)
            tokens = class_of(scores / temperature, drawn)
            return tokens, log_probs_at(scores, tokens)
        _, scores, drawn = self.packed(states, where, drawn)
        return _spread(where, scores, class_of(scores / temperature, drawn))

    def of(self, states: Float[Tensor, "B L D"], labels: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """The log-probability of one token at each position."""
        return log_probs_at(self.scores(states), labels)

    def columns(
        self, states: Float[Tensor, "B L D"], tokens: Int[Tensor, "B K"], *, with_mean: bool = False
    ) -> tuple[Float[Tensor, "B L K"], Float[Tensor, "B L"]]:
        """The log-probabilities of the same K tokens at every position of a row; and the mean over all tokens that are
        possible, where asked for."""
        return self._columns(self.scores(states), tokens, with_mean=with_mean)

    def glanced(
        self, states: Float[Tensor, "B L D"], tokens: Int[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B L K"], Int[Tensor, "B L"]]:
        """`columns` and `argmax`, from one product; without a gradient."""
        with torch.no_grad():
            scores = self.scores(states)
            return self._columns(scores, tokens)[0], scores.argmax(dim=-1)

    def _columns(
        self, scores: Float[Tensor, "B L V"], tokens: Int[Tensor, "B K"], *, with_mean: bool = False
    ) -> tuple[Float[Tensor, "B L K"], Float[Tensor, "B L"]]:
        shape = (*scores.shape[:2], tokens.size(1))
        parts = softmax_parts(
            scores.flatten(0, 1),
            torch.arange(shape[0] * shape[1], device=tokens.device).repeat_interleave(shape[2]),
            tokens[:, None].expand(shape).flatten(),
            with_mean=with_mean,
            forbidden=self.forbidden,
        )
        return parts.at.view(shape), parts.mean.view(shape[:2])

    def cross_entropy(
        self,
        states: Float[Tensor, "B L D"],
        labels: Int[Tensor, "B L"],
        where: Bool[Tensor, "B L"],
        *,
        label_smoothing: float = 0.0,
    ) -> CrossEntropy:
        """Of the labels at the positions `where`, the only ones that are projected; see `nat.losses.cross_entropy`."""
        there, scores, labels = self.packed(states, where, labels)
        return cross_entropy(scores, labels, there, label_smoothing=label_smoothing, forbidden=self.forbidden)

    def token_losses(
        self,
        states: Float[Tensor, "B L D"],
        labels: Int[Tensor, "B L"],
        where: Bool[Tensor, "B L"],
        *,
        label_smoothing: float = 0.0,
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
        """What `cross_entropy` sums: the smoothed loss of each label, and its negative log-likelihood; 0 elsewhere."""
        there, scores, labels = self.packed(states, where, labels)
        rows = torch.arange(len(scores), device=scores.device)
        parts = softmax_parts(scores, rows, labels, with_mean=label_smoothing > 0, forbidden=self.forbidden)
        nll, mean = (part.masked_fill(~there, 0.0) for part in (-parts.at, parts.mean))
        losses = (1 - label_smoothing) * nll - label_smoothing * mean
        none = torch.zeros(where.shape, dtype=nll.dtype, device=where.device)
        return unpacked(where, losses, none), unpacked(where, nll, none)

    def packed(
        self, states: Float[Tensor, "B L D"], where: Bool[Tensor, "B L"], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """As `ops.selection.packed`, (where, scores, *tensors) with rows for positions; a copy head needs them all, for
        it must know whose they are."""
        if self.copying is None:
            there, states, *rest = packed(where, states, *tensors)
            return there, self.scores(states), *rest
        return tuple(tensor.flatten(0, 1) for tensor in (where, self.scores(states), *tensors))


def without(scores: Float[Tensor, "*B V"], banned: tuple[int, ...]) -> Float[Tensor, "*B V"]:
    """The same scores, which give no probability to these symbols any more."""
    for symbol in banned:  # a tensor of them would be made on the host, at every pass
        scores.select(-1, symbol).fill_(-torch.inf)
    return scores


def _spread(
    where: Bool[Tensor, "B L"], scores: Float[Tensor, "N V"], tokens: Int[Tensor, " N"]
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Tokens of the packed positions `where`, and their log-probabilities, at their places; 0 elsewhere."""
    log_probs, none = log_probs_at(scores, tokens), torch.zeros_like(where, dtype=torch.long)
    return unpacked(where, tokens, none), unpacked(where, log_probs, none.to(log_probs))


def log_probs_at(scores: Float[Tensor, "*B V"], tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """log_softmax(scores) of one token at each position."""
    rows = torch.arange(tokens.numel(), device=tokens.device)
    return softmax_parts(scores.flatten(0, -2), rows, tokens.flatten()).at.view(tokens.shape)
