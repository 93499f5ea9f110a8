"""What all engines beside torch have in common: products in one of two precisions, limits, batches for workers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cached_property
from typing import Self

from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import NOTHING, Decoded
from nat.decoding.requests import Sentence, source_of
from nat.decoding.translator import Translator
from nat.errors import ConfigError
from nat.models.options import DecodingOptions
from nat.runs.precision import Precision


class ComputeType(Enum):
    """What an engine multiplies in; the values are those of decoding.precision."""

    FP32 = "fp32"
    INT8 = "int8"


class EngineTranslator(Translator):
    """A translator whose model an engine computes, whole or in parts; all else is the given one's.

    longest: tokens of a source that the engine takes; None: as many as the model.
    """

    def __init__(self, translator: Translator, kind: ComputeType, *, longest: int | None = None) -> None:
        super().__init__(
            translator.model,
            translator.tokenizers,
            translator.device,
            config=translator.config,
            folder=translator.folder,
            weights=translator.weights,
        )
        self.kind, self.longest = kind, longest
        self._num_parameters = translator.num_parameters

    @property
    def num_parameters(self) -> int:
        return self._num_parameters

    @property
    def computed_in(self) -> str:
        return self.kind.value

    def in_precision(self, precision: Precision) -> Self:
        """The engine computes in that of the model that it holds. Raises ConfigError for another one of torch."""
        if precision is not Precision.FP32:
            raise ConfigError(
                f"decoding.precision={precision.value}: has no effect, {self.engine} computes {self.folder} in "
                f"{self.computed_in}"
            )
        return self

    def with_cuda_graphs(self, decoding: DecodingOptions) -> Self:
        """Raises ConfigError: they are of torch."""
        raise ConfigError(f"decoding.cuda_graphs=true: has no effect, {self.engine} computes {self.folder}")

    @cached_property
    def source_limits(self) -> list[tuple[int, str]]:
        """Those of the model, which an engine does not change; an engine's sinusoids have one of their own."""
        own = [] if self.longest is None else [(self.longest, f"{self.engine} takes at most {self.longest}")]
        return super().source_limits + own


class WorkerTranslator(EngineTranslator):
    """One that computes whole batches, each of sentences of one length, by one worker of one thread.

    Nothing is computed in vain, and no rounding depends on padding: in int8 a last bit of an attention over padding may
    become another token.

    There are as many workers as torch has threads when the engine is opened: so a sentence alone is translated by one
    thread, and many batches by all of them. Several threads on one batch only make it slower.
    """

    def decode(
        self,
        sentences: Sequence[Sentence],
        *,
        decoding: DecodingOptions,
        batches: BatchOptions,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Decoded]:
        """As `Translator.decode`."""
        self.wanted(sentences, "the input")
        rows = self.encode([source_of(sentence) for sentence in sentences], "the input")
        results = [NOTHING] * len(rows)
        filled = [i for i, row in enumerate(rows) if row]
        advance(len(rows) - len(filled))
        chosen = [[filled[i] for i in batch] for batch in of_one_length([len(rows[i]) for i in filled], batches)]
        answers = self.computed([[rows[i] for i in batch] for batch in chosen], decoding)
        for batch, answer in zip(chosen, answers, strict=True):
            for i, decoded in zip(batch, answer, strict=True):
                results[i] = decoded
            advance(len(batch))
        return results

    @abstractmethod
    def computed(self, batches: list[list[list[int]]], decoding: DecodingOptions) -> Iterator[list[Decoded]]:
        """The translations of each batch, in order, by the workers. batches: ids of sentences, none of them empty."""


def of_one_length(lengths: Sequence[int], batches: BatchOptions) -> list[list[int]]:
    """Batches of sentences of these lengths, their indices: the longest first, those of equal length together."""
    found: list[list[int]] = []
    for length in sorted(set(lengths), reverse=True):
        same = [i for i, other in enumerate(lengths) if other == length]
        found += [[same[i] for i in batch] for batch in batches.cut([length] * len(same))]
    return found
