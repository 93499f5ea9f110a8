"""A system: a run, how it decodes and how it chooses among what it decoded. From text to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nat.decoding.batch_options import USUAL, BatchOptions
from nat.decoding.candidates import Candidates, Choice
from nat.decoding.requests import Sentence
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Text
from nat.models.options import DecodingOptions

USUAL_LIMIT = 1000  # tokens of a source
BEYOND_TRAINING = 4  # times the longest pair that the run was trained on


@dataclass(frozen=True)
class Scorer:
    """A teacher and the run folder that the user named."""

    path: str
    translator: Translator

    def check(self, text: Text) -> None:
        """Try it on one sentence. Raises ConfigError if its method cannot score, DataError naming the line of a source
        that is too long for it."""
        rows = self.translator.encode(text.sources, f"teacher={self.path}: {text.name}", lines=text.lines)
        sentence = [source for source, row in zip(text.sources, rows, strict=True) if row][:1]
        try:
            self.translator.score(sentence, sentence)
        except ConfigError as error:
            raise ConfigError(f"teacher={self.path}: {error}") from None


@dataclass(frozen=True)
class System:
    """name: for people. choice: which candidate is the translation. scorer: the teacher; with another choice than its
    own it takes no part in translating, but its scores are reported. max_source_tokens: of a sentence that is
    translated; None: as many as `longest_source` says."""

    name: str
    translator: Translator
    decoding: DecodingOptions
    batches: BatchOptions = USUAL
    choice: Choice = Choice.FIRST
    scorer: Scorer | None = None
    max_source_tokens: int | None = None

    @property
    def longest_source(self) -> int:
        """The limit of tokens: what was asked for, else well beyond what the run was trained on; at most what the model
        takes."""
        filters: dict[str, Any] = self.translator.data_option("filters", {})
        trained = filters.get("max_tokens")
        usual = max(USUAL_LIMIT, BEYOND_TRAINING * trained) if isinstance(trained, int) else USUAL_LIMIT
        limits = self.max_source_tokens or usual, self.translator.model.max_source_length
        return min(limit for limit in limits if limit is not None)

    def to_language(self, language: str) -> System:
        """With sources that get its tag, for each of its runs that reads tags. Raises ConfigError, see
        `Translator.to_language`."""
        translator, scorer = self.translator.to_language(language), self.scorer
        if scorer is not None and scorer.translator.tags is not None:
            scorer = replace(scorer, translator=scorer.translator.to_language(language))
        return replace(self, translator=translator, scorer=scorer)

    def encode(self, text: Text) -> list[list[int]]:
        """Token ids of the sources. Raises DataError, naming the line, for one that is too long: a line that lacks its
        end would be worked on for minutes."""
        rows = self.translator.encode(text.sources, text.name, decoding=self.decoding, lines=text.lines)
        for number, row in zip(text.lines or range(1, len(rows) + 1), rows, strict=True):
            if len(row) > self.longest_source:
                raise DataError(
                    f"{text.name}, line {number}: {len(row)} tokens, but at most {self.longest_source} are translated; "
                    f"split it, or allow more with max_source_tokens={len(row)}"
                )
        return rows

    def translate(
        self,
        sentences: Sequence[Sentence],
        *,
        batches: BatchOptions | None = None,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Candidates]:
        """All that a user waits for: tokenizers, decoder, teacher or metric. batches: None are the system's own."""
        return self.translator.choose_among(
            sentences,
            decoding=self.decoding,
            batches=self.batches if batches is None else batches,
            choice=self.choice,
            teacher=self.scorer.translator if self.scorer is not None and self.choice is Choice.TEACHER else None,
            advance=advance,
        )
