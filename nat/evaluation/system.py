"""A system: a run, how it decodes and how it chooses among what it decoded. From text to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nat.decoding.candidates import Candidates, Choice
from nat.decoding.requests import Sentence
from nat.decoding.translator import Translator
from nat.errors import ConfigError
from nat.evaluation.inputs import Text
from nat.models.options import DecodingOptions


@dataclass(frozen=True)
class Scorer:
    """A teacher and the run folder that the user named."""

    path: str
    translator: Translator

    def check(self, text: Text) -> None:
        """Try it on one sentence. Raises ConfigError if its method cannot score, DataError naming the line of a source
        that is too long for it."""
        rows = self.translator.encode(text.sources, f"teacher={self.path}: {text.name}")
        sentence = [source for source, row in zip(text.sources, rows, strict=True) if row][:1]
        try:
            self.translator.score(sentence, sentence)
        except ConfigError as error:
            raise ConfigError(f"teacher={self.path}: {error}") from None


@dataclass(frozen=True)
class System:
    """name: for people. choice: which candidate is the translation. scorer: the teacher; with another choice than its
    own it takes no part in translating, but its scores are reported."""

    name: str
    translator: Translator
    decoding: DecodingOptions
    batch_size: int = 64
    choice: Choice = Choice.FIRST
    scorer: Scorer | None = None

    def translate(
        self,
        sentences: Sequence[Sentence],
        *,
        batch_size: int | None = None,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Candidates]:
        """All that a user waits for: tokenizers, decoder, teacher or metric. batch_size: None is the system's own."""
        return self.translator.choose_among(
            sentences,
            decoding=self.decoding,
            batch_size=self.batch_size if batch_size is None else batch_size,
            choice=self.choice,
            teacher=self.scorer.translator if self.scorer is not None and self.choice is Choice.TEACHER else None,
            advance=advance,
        )
