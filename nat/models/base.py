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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Vocabularies
from nat.errors import ConfigError
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
    truncated: (B,) True where a length limit cut the translation short.
    """

    tokens: Int[Tensor, "B N T"]
    valid: Bool[Tensor, "B N T"]
    scores: Float[Tensor, "B N"]
    passes: Int[Tensor, " B"]
    truncated: Bool[Tensor, " B"]


@dataclass(frozen=True)
class DecodingOptions:
    """Options that every decoder has. A method's nested `Decoding` adds its own."""

    num_candidates: int = option(1, "translations made for each sentence, for the candidate stage", minimum=1)
    temperature: float | None = option(
        None, "translations are samples at this temperature; null: what the method finds most probable", above=0
    )
    seed: int = option(1, "seed of whatever is sampled", minimum=0)


class TranslationModel(nn.Module, ABC):
    """A method of translation.

    Subclasses define the nested dataclasses `Config` and `Decoding(DecodingOptions)` and the two abstract
    methods. Corruption, noise and glancing live in `loss`: they are the method, not the data.
    """

    Config: ClassVar[type]
    Decoding: ClassVar[type[DecodingOptions]] = DecodingOptions
    unlearnable: ClassVar[str] = "longer than positions.max_length"  # why `learnable` may be False

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

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        """Positions that the decoder works on for pairs of these lengths; batches are sized by it."""
        return target_length + 1

    @property
    def max_source_length(self) -> int | None:
        """The longest source that the model takes, in tokens; None where there is no limit."""
        return None

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        """False where a pair cannot be learnt from at all; such pairs are counted, reported and left out."""
        return batch.source.valid.any(dim=1)
