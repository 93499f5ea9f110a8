"""The contract of a translation model: a loss and a decoder, nothing else.

A method is one file in this folder: a subclass of `TranslationModel` with two nested dataclasses, `Config`
(how it is built) and `Decoding` (how it translates). Methods share by composition, never by inheriting from
one another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import CrossEntropy
from nat.models.options import DecodingOptions
from nat.nn.attention.base import Attention
from nat.nn.embedding import Positions
from nat.nn.limits import LengthLimits
from nat.nn.token_losses import ForgivingLoss
from nat.ops.selection import to_the_left
from nat.rows import Rows
from nat.search.canvas import Canvas
from nat.search.insertion import Texts
from nat.search.refine import History, Refined


@dataclass(frozen=True)
class LossTerm:
    """A sum and what it is a sum over; only `training/objective.py` divides.

    total: scalar tensor, the unreduced sum. count: scalar tensor, the number of summands.
    weight: factor in the objective; 0 makes the term a statistic that is logged and not trained on.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0


def cross_entropy_terms(entropy: CrossEntropy, *, name: str = "cross_entropy") -> dict[str, LossTerm]:
    """What is trained on, and the plain negative log-likelihood as a statistic."""
    return {
        name: LossTerm(entropy.total, entropy.num_labels),
        "nll": LossTerm(entropy.nll, entropy.num_labels, weight=0.0),
    }


def forgiving_terms(loss: ForgivingLoss, *, name: str) -> dict[str, LossTerm]:
    """The loss of this name and the cross entropy, by their shares in what is trained on; how many tokens were left
    out, where some are, and the plain negative log-likelihood, as statistics."""
    terms, num_labels = cross_entropy_terms(loss.entropy), loss.entropy.num_labels
    terms["cross_entropy"] = replace(terms["cross_entropy"], weight=loss.share)
    num_used = num_labels
    if loss.num_truncated is not None:
        num_used = num_labels - loss.num_truncated
        terms["truncated"] = LossTerm(loss.num_truncated, num_labels, weight=0.0)
    return {name: LossTerm(loss.total, num_used, weight=1 - loss.share)} | terms


@dataclass(frozen=True)
class Translation(Rows):
    """N translations of each source, the best first.

    tokens: (B, N, T) ids without special symbols, PAD where not valid. valid: (B, N, T).
    scores: (B, N) log-probability under the model of all tokens, each when it was written, and of the length or the
    ends where the method decides these. A token that was given, in a draft or a constraint, counts as the model
    predicts it, hidden, from the others. passes: (B,) decoder calls, those for such scores included.
    truncated: (B,) True where a length limit cut the translation short. history: of each of the N candidates, where
    it was asked for: every pass over its canvas.
    """

    tokens: Int[Tensor, "B N T"]
    valid: Bool[Tensor, "B N T"]
    scores: Float[Tensor, "B N"]
    passes: Int[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    history: tuple[History, ...] = ()

    @classmethod
    def of_one_pass(
        cls,
        tokens: Int[Tensor, "B N T"],
        valid: Bool[Tensor, "B N T"],
        scores: Float[Tensor, "B N"],
        history: Sequence[History] = (),
    ) -> Translation:
        """Of candidates that one decoder call wrote, none cut short."""
        ones = torch.ones(len(tokens), dtype=torch.long, device=tokens.device)
        return cls(tokens, valid, scores, ones, torch.zeros_like(ones, dtype=torch.bool), tuple(history))

    @classmethod
    def of_insertions(
        cls, refined: Refined[Texts], number: int, *, copies: int, decoding: DecodingOptions
    ) -> Translation:
        """One of the texts that grew together, by number: its candidates, see `best_of`, by the mean of `Texts.means`,
        or as they were sampled."""
        texts = refined.canvas
        return cls.best_of(
            texts.canvases[number],
            decoding,
            copies=copies,
            means=texts.means(number),
            extra_scores=texts.end_scores,
            calls=refined.calls,
            truncated=texts.cut | ~refined.finished,
            history=refined.history(lambda before, after: after.canvases[number]),
        )

    @classmethod
    def best_of(
        cls,
        canvas: Canvas,
        decoding: DecodingOptions,
        *,
        copies: int,
        means: Float[Tensor, " N"] | None = None,
        extra_scores: Float[Tensor, " N"] | None = None,
        calls: Int[Tensor, " N"] | None = None,
        truncated: Bool[Tensor, " N"] | None = None,
        history: History | None = None,
    ) -> Translation:
        """The num_candidates of highest mean log-probability of a token (Ghazvininejad et al. 2019, section 3.3), the
        best first; as they come if they are samples.

        canvas: right-padded, of `copies` candidates of each sentence side by side, N = B * copies, as is all else;
        an empty one has the mean 0. means: what is compared instead. extra_scores: what else belongs to the score, for
        example of the length; it does not enter the mean. calls: decoder calls, of which a sentence has as many as its
        slowest candidate; None: one. truncated: a sentence is where one of those chosen is; None: none.
        """
        totals = canvas.scores.masked_fill(~canvas.valid, 0.0).sum(dim=1)
        scores = totals if extra_scores is None else totals + extra_scores
        ranks = (totals / canvas.lengths.clamp(min=1) if means is None else means).masked_fill(
            scores == -torch.inf, -torch.inf
        )
        order = ranks.view(-1, copies).argsort(dim=1, descending=True, stable=True)
        if decoding.is_random:
            order = torch.arange(copies, device=order.device).expand_as(order)
        order = order[:, : decoding.num_candidates]
        rows = order + torch.arange(len(order), device=order.device)[:, None] * copies  # (B, num_candidates)
        none = torch.zeros(len(order), dtype=torch.long, device=order.device)
        valid = canvas.valid[rows]
        return cls(
            canvas.tokens[rows].masked_fill(~valid, int(Symbol.PAD)),
            valid,
            scores[rows],
            passes=none + 1 if calls is None else calls.view(-1, copies).amax(dim=1),
            truncated=none.bool() if truncated is None else truncated[rows].any(dim=1),
            history=() if history is None else tuple(history.select(column) for column in rows.T),
        )

    def without(self, symbol: Symbol) -> Self:
        """With this symbol, which means nothing, left out of the tokens; the scores are those of what was written."""
        keep = (self.valid & (self.tokens != symbol)).flatten(0, 1)
        tokens, valid = to_the_left(keep, self.tokens.flatten(0, 1), pad=int(Symbol.PAD))
        shape = self.tokens.shape[:2]
        return replace(self, tokens=tokens.unflatten(0, shape), valid=valid.unflatten(0, shape))


@dataclass(frozen=True)
class StaticPass:
    """A decoder cut in two, for who records what it computes and replays that, see `nat.decoding.graphs`.

    compute: all that is computed of sources without a draft or phrases, padded on any side. The same kernels for all
    sources of one shape (B, S): nothing is asked of the device, nothing sent to it. finish: the translations, in memory
    of their own. What `compute` gives for rows and columns of padding changes nothing in those of other rows.
    """

    compute: Callable[[Source], Rows]
    finish: Callable[[Rows], Translation]


class TranslationModel(nn.Module, ABC):
    """A method of translation.

    Subclasses define the nested dataclasses `Config` and `Decoding(DecodingOptions)` and the two abstract
    methods. Corruption, noise and glancing live in `loss`: they are the method, not the data.
    """

    Config: ClassVar[type]
    Decoding: ClassVar[type[DecodingOptions]] = DecodingOptions
    unlearnable: ClassVar[str] = "longer than {limit}"  # why `learnable` may be False; {limit}: as in `limiting`
    points: ClassVar[bool] = False  # whether it reads points and writes their places, however many there are
    num_ends: ClassVar[int] = 0  # positions of a canvas beside its tokens
    edits: ClassVar[frozenset[str]] = frozenset()  # of draft, known, constraints: what `decode` heeds
    score_is_bound: ClassVar[bool] = False  # whether `score` is a lower bound on the log-probability, estimated
    checks_drafts: ClassVar[bool] = False  # whether a draft changes how fast `decode` is, but not what it gives

    def __init__(self, vocabularies: Vocabularies) -> None:
        super().__init__()
        self.vocabularies = vocabularies

    @abstractmethod
    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """Unreduced training losses of a batch at optimiser step `update`. A term's total over a batch
        equals the sum of its totals over the single rows."""

    @abstractmethod
    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """Translate. A row's result does not depend on the other rows or on padding. Rows of length 0 are
        not allowed (callers answer them with an empty line)."""

    def static_pass(self, decoding: DecodingOptions) -> StaticPass | None:
        """`decode` in two parts; None where it has no static one with these options."""
        return None

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """Log-probability of each target given its source, or a lower bound on it where `score_is_bound`. Raises
        ConfigError where the method has neither."""
        raise ConfigError(f"{type(self).__name__} cannot score given targets")

    def cross_attention(self, batch: Batch, *, layer: int | None = None) -> Float[Tensor, "B T S"]:
        """Where each target token, while it is predicted from those before it, looks in the source: weights of
        decoder layer `layer`, from 1, the last by default, mean over heads. batch: right-padded. Raises
        ConfigError where the method predicts otherwise, or there is no such layer."""
        raise ConfigError(f"{type(self).__name__} has no cross-attention from given targets")

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        """Positions that the decoder works on for pairs of these lengths; batches are sized by it."""
        return target_length + self.num_ends

    @property
    def length_limits(self) -> LengthLimits:
        """How long what the model reads and writes may be."""
        return LengthLimits()

    @property
    def max_source_length(self) -> int | None:
        """The longest source that the model takes, in tokens; None where there is no limit."""
        return self.length_limits.source

    @property
    def max_target_length(self) -> int | None:
        """The longest canvas that the model takes, in tokens; None where there is no limit."""
        return self.length_limits.target

    @property
    def max_total_length(self) -> int | None:
        """The most tokens of a source and its canvas together; None where there is no such limit."""
        return self.length_limits.total

    def fits(self, source_lengths: Int[Tensor, " B"], canvas_lengths: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Where neither is longer than the model takes, nor both together."""
        fits = torch.ones_like(source_lengths, dtype=torch.bool)
        for lengths, limit in (
            (source_lengths, self.max_source_length),
            (canvas_lengths, self.max_target_length),
            (source_lengths + canvas_lengths, self.max_total_length),
        ):
            if limit is not None:
                fits = fits & (lengths <= limit)
        return fits

    @property
    def limiting(self) -> str:
        """The options that limit lengths."""
        parts = list(self.modules())
        by_attention = any(isinstance(part, Attention) and part.max_length is not None for part in parts)
        by_positions = any(isinstance(part, Positions) and part.max_length is not None for part in parts)
        names = ["positions.max_length"] * (by_positions or not by_attention) + ["attention.max_length"] * by_attention
        return " or ".join(names)

    @property
    def max_points(self) -> int | None:
        """The most points of which it can name each one: a fixed vocabulary has the indices that its training data
        could name. None where there is no limit, and for text."""
        fixed = self.vocabularies.points and not self.points
        return self.vocabularies.target_size - NUM_SYMBOLS if fixed else None

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        """False where a pair cannot be learnt from at all; such pairs are counted, reported and left out."""
        return batch.source.valid.any(dim=1) & self.fits(batch.source.lengths, batch.target.lengths)
