"""The contract of a translation model: a loss and a decoder, nothing else.

A method is one file in this folder: a subclass of `TranslationModel` with two nested dataclasses, `Config`
(how it is built) and `Decoding` (how it translates). Methods share by composition, never by inheriting from
one another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.decoding.editing import num_orders
from nat.decoding.insertion import Finalisation, InsertionCanvas, InsertionRule, best_first
from nat.decoding.refine import History, Refined
from nat.errors import ConfigError
from nat.nn.attention.base import Attention
from nat.nn.embedding import Positions
from nat.nn.rng import RowRandom
from nat.rows import Rows


@dataclass(frozen=True)
class LossTerm:
    """A sum and what it is a sum over; only `training/objective.py` divides.

    total: scalar tensor, the unreduced sum. count: scalar tensor, the number of summands.
    weight: factor in the objective; 0 makes the term a statistic that is logged and not trained on.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Translation(Rows):
    """N translations of each source, the best first.

    tokens: (B, N, T) ids without special symbols, PAD where not valid. valid: (B, N, T).
    scores: (B, N) log-probability of the whole target under the model. passes: (B,) decoder calls.
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
    def of_insertions(
        cls, refined: Refined[InsertionCanvas], *, copies: int, count: int, ordered: bool = False
    ) -> Translation:
        """The `count` of the `copies` canvases of each row, side by side in `refined`, whose decisions have the
        highest mean log-probability, the best first; the first `count` as they come if `ordered`."""
        if not ordered:
            refined = best_first(refined, copies=copies)
        canvas, shape = refined.canvas, (-1, copies)
        return cls.best_of(
            *(t.unflatten(0, shape) for t in (canvas.tokens, canvas.valid, canvas.scores)),
            extra_scores=canvas.end_scores.unflatten(0, shape),
            count=count,
            ordered=True,
            passes=refined.passes.unflatten(0, shape),
            truncated=(canvas.cut | ~refined.finished).unflatten(0, shape),
            history=refined.history,
        )

    @classmethod
    def best_of(
        cls,
        tokens: Int[Tensor, "B K L"],
        valid: Bool[Tensor, "B K L"],
        token_scores: Float[Tensor, "B K L"],
        *,
        extra_scores: Float[Tensor, "B K"] | None = None,
        count: int,
        ordered: bool = False,
        passes: Int[Tensor, "B K"] | None = None,
        truncated: Bool[Tensor, "B K"] | None = None,
        history: History | None = None,
    ) -> Translation:
        """The `count` candidates of highest mean log-probability of a token (Ghazvininejad et al. 2019, section 3.3),
        the best first; the first `count` as they come if `ordered`.

        tokens: right-padded canvases of one token a position; an empty one has the mean 0. extra_scores: what else
        belongs to the score, for example of the length; it does not enter the mean. passes: decoder calls of each
        candidate, of which a sentence has as many as its slowest; None: one. truncated: of each candidate, a sentence
        is where one of those chosen is; None: none. history: of (B * K) rows.
        """
        kept = token_scores.masked_fill(~valid, 0.0).sum(dim=2)  # (B, K)
        extra = torch.zeros_like(kept) if extra_scores is None else extra_scores
        mean = (kept / valid.sum(dim=2).clamp(min=1)).masked_fill(extra == -torch.inf, -torch.inf)
        order = mean.argsort(dim=1, descending=True, stable=True)
        if ordered:
            order = torch.arange(mean.size(1), device=mean.device).expand_as(mean)
        order = order[:, :count]
        wide = order[:, :, None].expand(-1, -1, tokens.size(2))
        calls = torch.ones_like(kept, dtype=torch.long) if passes is None else passes
        chosen = valid.gather(1, wide)
        return cls(
            tokens.gather(1, wide).masked_fill(~chosen, int(Symbol.PAD)),
            chosen,
            (kept + extra).gather(1, order),
            calls.amax(dim=1),
            torch.zeros_like(calls[:, 0], dtype=torch.bool)
            if truncated is None
            else truncated.gather(1, order).any(dim=1),
            () if history is None else _histories(history, order, tokens.size(1)),
        )


def _histories(history: History, order: Int[Tensor, "B N"], num_candidates: int) -> tuple[History, ...]:
    """One for each candidate, the best first."""
    rows = torch.arange(len(order), device=order.device) * num_candidates
    return tuple(history.select(rows + column) for column in order.T)


@dataclass(frozen=True)
class DecodingOptions:
    """Options that every decoder has. A method's nested `Decoding` adds its own."""

    num_candidates: int = option(1, "translations made for each sentence, for the candidate stage", minimum=1)
    temperature: float | None = option(
        None, "translations are samples at this temperature; null: what the method finds most probable", above=0
    )
    seed: int = option(1, "seed of whatever is sampled", minimum=0)
    history: bool = option(False, "keep token, confidence and fate of every position at every pass")

    def __post_init__(self) -> None:
        if self.seed != 1 and not self.is_random:
            raise ConfigError(f"seed={self.seed}: has no effect without temperature, for nothing is sampled")

    @property
    def is_random(self) -> bool:
        """Whether the seed matters. A method that samples something else, too, says so here."""
        return self.temperature is not None

    @property
    def reverse(self) -> bool:
        """Whether the target language is read and the source language written."""
        return False

    def check_files(self, *, vocabularies: Vocabularies, tokenizer: str) -> None:
        """Opens the files that the options name, before anything is decoded. tokenizer: the run's fingerprint.
        Raises DataError."""

    def random(self, source: Source) -> RowRandom | None:
        """The numbers of num_candidates samples of each right-padded source, (B * N,); None if tokens are not
        sampled. The first samples are the same however many there are."""
        if self.temperature is None:
            return None
        return RowRandom.of((source.tokens, source.valid), seed=self.seed).copies(self.num_candidates)

    def pick(self, log_probs: Float[Tensor, "B L V"], random: RowRandom | None) -> Int[Tensor, "B L"]:
        """The most probable token of each position, or a sample at the temperature."""
        if random is None or self.temperature is None:
            return log_probs.argmax(dim=-1)
        return random.sample(log_probs / self.temperature)


@dataclass(frozen=True)
class BeamOptions(DecodingOptions):
    """Of decoders whose candidates are those of a beam, or samples."""

    beam_size: int = option(1, "hypotheses kept", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and self.beam_size > 1:
            raise ConfigError(f"beam_size={self.beam_size}: has no effect with temperature, which samples")
        if self.temperature is None and self.num_candidates > self.beam_size:
            raise ConfigError(
                f"num_candidates={self.num_candidates}: must be at most beam_size={self.beam_size}, unless "
                "temperature is set"
            )


@dataclass(frozen=True)
class LengthBeamOptions(DecodingOptions):
    """Of decoders that predict the length first. usual_beam: what length_beam=null means, unless tokens are sampled."""

    usual_beam: ClassVar[int] = 1
    length_beam: int | None = option(
        None, "lengths tried for each sentence, the most probable first; null: what the method's paper tries", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and self.beam > 1:
            raise ConfigError(f"length_beam={self.length_beam}: has no effect with temperature, which samples")
        if self.temperature is None and self.num_candidates > self.beam:
            raise ConfigError(
                f"num_candidates={self.num_candidates}: must be at most length_beam={self.beam}, "
                "unless temperature is set"
            )

    @property
    def beam(self) -> int:
        """Lengths that are tried."""
        if self.length_beam is None:
            return self.usual_beam if self.temperature is None else 1
        return self.length_beam

    @property
    def num_copies(self) -> int:
        """Canvases of each sentence: its lengths, or its samples."""
        return self.beam if self.temperature is None else self.num_candidates


@dataclass(frozen=True)
class SampleOptions(DecodingOptions):
    """Of decoders whose several candidates are samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_candidates > 1 and self.temperature is None:
            raise ConfigError(f"num_candidates={self.num_candidates}: needs temperature (samples)")


@dataclass(frozen=True)
class EditOptions(SampleOptions):
    """Of decoders that insert into a canvas: it begins with nothing, with a draft, or with phrases that must stay, see
    `nat.decoding.editing`."""

    max_passes: int = option(10, "passes at most; a sentence in which nothing changes needs fewer", minimum=1)
    orders: int = option(24, "several constraints: orders of them that are tried; the best result stays", minimum=1)
    max_length_factor: float = option(2.0, "a translation has at most factor * S + offset tokens", minimum=0)
    max_length_offset: int = option(20, "see max_length_factor", minimum=1)

    def num_copies(self, source: Source) -> int:
        """Canvases of each sentence: its samples, or the orders of its phrases."""
        return num_orders(source.phrases, limit=self.orders) if self.temperature is None else self.num_candidates

    def limits(self, source: Source, *, positions: int | None) -> Int[Tensor, " B"]:
        """The longest canvas of each row, in tokens. positions: the most that the model takes, if there is a limit."""
        limits = (source.lengths * self.max_length_factor).long() + self.max_length_offset
        return limits if positions is None else limits.clamp(max=positions)


@dataclass(frozen=True)
class InsertionOptions(EditOptions):
    """Of decoders that insert one token into each slot, see `nat.decoding.insertion`."""

    max_passes: int = option(
        1000, "passes at most; in parallel about log2 of the length, else one for each token; and a last one", minimum=1
    )
    parallel: bool | None = option(
        None, "insert into all slots at once, or one token at a time; null: at once wherever the model can"
    )
    end_penalty: float = option(0.0, "subtracted from the log-probability of the end; more of it: longer", minimum=0)

    def rule(self, finalisation: Finalisation, *, end: int) -> InsertionRule:
        """The rule of a model with this finalisation, whose end is the symbol `end`. Raises ConfigError for
        parallel=true where one insertion ends all: slots do not end one by one (Stern et al. 2019, section 5.2)."""
        whole = finalisation is Finalisation.SEQUENCE
        if whole and self.parallel:
            raise ConfigError("parallel=true: needs a model of finalisation=slot, this one has finalisation=sequence")
        parallel = not whole if self.parallel is None else self.parallel
        return InsertionRule(parallel, finalisation, end, self.end_penalty, self.temperature)


class TranslationModel(nn.Module, ABC):
    """A method of translation.

    Subclasses define the nested dataclasses `Config` and `Decoding(DecodingOptions)` and the two abstract
    methods. Corruption, noise and glancing live in `loss`: they are the method, not the data.
    """

    Config: ClassVar[type]
    Decoding: ClassVar[type[DecodingOptions]] = DecodingOptions
    unlearnable: ClassVar[str] = "longer than {limit}"  # why `learnable` may be False; {limit}: as in `limiting`
    points: ClassVar[bool] = False  # whether it reads points and writes their places, however many there are
    edits: ClassVar[frozenset[str]] = frozenset()  # of draft, known, constraints: what `decode` heeds

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

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """Log-probability of each target given its source, one pass. Raises ConfigError where the method
        has no tractable one."""
        raise ConfigError(f"{type(self).__name__} cannot score given targets")

    def cross_attention(self, batch: Batch, *, layer: int | None = None) -> Float[Tensor, "B T S"]:
        """Where each target token, while it is predicted from those before it, looks in the source: weights of
        decoder layer `layer`, from 1, the last by default, mean over heads. batch: right-padded. Raises
        ConfigError where the method predicts otherwise, or there is no such layer."""
        raise ConfigError(f"{type(self).__name__} has no cross-attention from given targets")

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        """Positions that the decoder works on for pairs of these lengths; batches are sized by it."""
        return target_length + 1

    @property
    def max_source_length(self) -> int | None:
        """The longest source that the model takes, in tokens; None where there is no limit."""
        return None

    @property
    def max_target_length(self) -> int | None:
        """The longest canvas that the model takes, in tokens; None where there is no limit."""
        return self.max_source_length

    @property
    def max_total_length(self) -> int | None:
        """The most tokens of a source and its canvas together; None where there is no such limit."""
        return None

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
        return batch.source.valid.any(dim=1)
