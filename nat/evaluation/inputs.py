"""The text that the evaluation commands are given: files, or a split of a run's corpus."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from nat.data.lines import decode_lines, read_lines
from nat.data.references import Reference
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.decoding.options import data_options
from nat.decoding.requests import Request, Sentence
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of

STANDARD_INPUT = "-"


class Split(Enum):
    TEST = "test"
    VALID = "valid"
    TRAIN = "train"


@dataclass(frozen=True)
class Text:
    """What is translated. lines: line numbers in the split's file. dropped: what the split's filters left out, as
    `DropReport.to_plain` gives it. Both are None for a file, which is taken as it is. requests: what is asked of each
    translation; None: nothing. bleu_tokenizer: see `tokenizer`."""

    name: str
    sources: list[str]
    references: list[str] | None
    lines: list[int] | None = None
    dropped: dict[str, Any] | None = None
    requests: list[Request] | None = None
    bleu_tokenizer: BleuTokenizer | None = None

    @cached_property
    def tokenizer(self) -> BleuTokenizer:
        """Of BLEU: the one that was asked for, else what the references' script needs."""
        return self.bleu_tokenizer or tokenizer_of(self.references or ())

    @property
    def sentences(self) -> Sequence[Sentence]:
        """The sources with what is asked."""
        return self.sources if self.requests is None else self.requests

    def select(self, indices: Sequence[int]) -> Text:
        """These sentences alone."""

        def chosen(values: list[Any] | None) -> Any:
            return None if values is None else [values[i] for i in indices]

        return dataclasses.replace(
            self,
            sources=chosen(self.sources),
            references=chosen(self.references),
            lines=chosen(self.lines),
            requests=chosen(self.requests),
        )

    def swapped(self) -> Text:
        """The other direction: references are read, sources are the references. Raises ConfigError where a source has
        several."""
        assert self.references is not None
        if any(isinstance(reference, Reference) for reference in self.references):
            raise ConfigError(
                "direction=backward: reads one target of a source, here are several; data.target=... names one"
            )
        return dataclasses.replace(self, sources=self.references, references=self.sources)


def read_files(source: str, reference: str | None) -> Text:
    """Raises DataError: no such file, bad UTF-8 with its line, other numbers of lines, no line at all."""
    name = "standard input" if source == STANDARD_INPUT else source
    sources = list(standard_input() if source == STANDARD_INPUT else read_lines(source))
    references = None if reference is None else list(read_lines(reference))
    if references is not None and len(references) != len(sources):
        raise DataError(
            f"{name} has {len(sources)} lines but {reference} has {len(references)}: "
            "source and reference need equally many"
        )
    return Text(name, sources, references)


def standard_input() -> Iterator[str]:
    """Its lines, each as soon as it is there. Raises DataError naming the one that is not UTF-8."""
    return decode_lines(sys.stdin.buffer, "standard input")


def read_split(translator: Translator, split: Split, changes: Mapping[str, Any]) -> Text:
    """A split of the run's own corpus, with `changes` of its data options; a source with several targets is read once.
    The tokenizer is the run's, whatever they say. Raises ConfigError or DataError."""
    corpus = read_corpus(translator, split, changes)
    sentences = corpus.sentences
    sources, references = corpus.references(sentences)
    lines = corpus.lines[[sentence[0] for sentence in sentences]].tolist()
    return Text(f"split {split.value}", sources, references, lines, corpus.report.to_plain())


def read_corpus(translator: Translator, split: Split, changes: Mapping[str, Any]) -> TokenizedCorpus:
    """A split of the run's own corpus, see `read_split`, with its tokens."""
    data = data_options(translator, changes)
    corpus = prepare(data, split.value, translator.tokenizers, filtered=split is Split.TRAIN)
    assert isinstance(corpus, TokenizedCorpus)
    return corpus
