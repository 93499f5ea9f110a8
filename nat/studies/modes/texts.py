"""The texts of the study: sentences with a reference in each language, the words of each language, training texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nat.data.corpus import read_corpus as read_pairs
from nat.data.readers import JOIN, READ_AT_ONCE
from nat.data.references import all_references
from nat.decoding.options import data_options
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Split, Text, read_corpus, read_split
from nat.evaluation.system import System
from nat.studies.modes.complexity import Counts, aligned_words, complexity, faithfulness
from nat.studies.modes.languages import Languages

ALIGNER = "thot"  # the package


@dataclass(frozen=True)
class Sentences:
    """What is translated. references: of each language by its name, line by line with the sources. num_incomplete:
    sentences left out, since a reference is missing or was filtered out."""

    text: Text
    references: dict[str, list[str]]
    num_incomplete: int


def read_sentences(translator: Translator, split: Split, changes: Mapping[str, Any]) -> Sentences:
    """The sentences of a split that have a reference in each language. Raises ConfigError where the corpus has one
    language, DataError where no sentence has all."""
    data = data_options(translator, changes)
    if data.target_tags:
        raise ConfigError(f"data.target_tags=true: {translator.folder} is told which language it is to write")
    target = data.target
    names = target.split(JOIN)
    if len(names) < 2:
        raise ConfigError(f"data.target={target}: several languages are needed, joined so: de+fr+es")
    text = read_split(translator, split, changes)
    references = [all_references(reference) for reference in text.references or []]
    complete = [i for i, lines in enumerate(references) if len(lines) == len(names)]
    if not complete:
        raise DataError(f"split {split.value}: no sentence has a reference in each of {', '.join(names)}")
    by_name = {name: [references[i][number] for i in complete] for number, name in enumerate(names)}
    return Sentences(text.select(complete), by_name, len(references) - len(complete))


def learn_languages(
    translator: Translator, changes: Mapping[str, Any], names: Sequence[str], *, smoothing: float
) -> Languages:
    """From the training text of a run, in which each language has its column; all of it, whatever its length. Raises
    DataError where it has none, or none of a language."""
    data = dataclasses.replace(data_options(translator, changes), fertilities=None)

    def column(target: str, side: str) -> list[str]:
        try:
            texts = read_pairs(dataclasses.replace(data, target=target), "train")
            return [text for rows in texts.iter(READ_AT_ONCE) for text in rows[side]]
        except DataError as error:
            raise DataError(
                f"{error}; the languages are told apart in the training text of the first run, {translator.folder}: "
                "let it be one that was trained on the original text, or name that text with data.train=FILE"
            ) from None

    return Languages.learn(
        {name: column(name, "target") for name in names}, column(names[0], "source"), smoothing=smoothing
    )


# --- training texts --------------------------------------------------------------------------------


def training_names(systems: Sequence[System]) -> list[str]:
    """Of the text that each system was trained on: its folder, or all of its location where two folders are called the
    same."""
    locations = [str((system.translator.config.get("data") or {}).get("train")) for system in systems]
    short = {location: Path(location.rpartition(":")[2]).parent.name or location for location in locations}
    names = list(short.values())
    return [short[each] if names.count(short[each]) == 1 else each for each in locations]


def has_aligner() -> bool:
    return find_spec(ALIGNER) is not None


def check_aligner() -> None:
    """Raises ConfigError where the package is missing."""
    if not has_aligner():
        raise ConfigError("alignments=true: the package sil-thot is needed: pip install 'nat-translation[aligner]'")


def measure(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Complexity, and faithfulness to the first system's text, of every training text, as the first system that was
    trained on it reads it."""
    names = training_names(systems)
    first: Counts | None = None
    rows = []
    for name in dict.fromkeys(names):
        corpus = read_corpus(systems[names.index(name)].translator, Split.TRAIN, {})
        counts = aligned_words(*corpus.texts(np.arange(len(corpus))))
        first = counts if first is None else first
        rows.append(
            {
                "text": name,
                "num_pairs": len(corpus),
                "num_source_words": len(counts),
                "complexity": complexity(counts),
                "faithfulness": faithfulness(first, counts),
            }
        )
    return rows
