"""A long-input task: questions first, their answers far away in a long text of noise.

A source of `length` words begins with questions ("C" asks for the value of c), and holds clues ("cx": the value of c is
x), each of another letter, at random places at least `distance` words behind the last question; all other words are
noise ("Q" to "Z"). The target is the values asked for, in the order of the questions. So each answer needs a comparison
of two words that stand at least `distance` apart: no summary of windows tells which value belongs to which question
before the question is known, and every letter has every value equally often. It is associative recall (Graves et al.
2014, section 4.3, https://arxiv.org/abs/1410.5401; Arora et al. 2023, https://arxiv.org/abs/2312.04927), with a
question and a clue of one word each, so that one attention between them is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from nat.data.cache import digest
from nat.data.counts import MOST_WORDS, Range, check_count, read_counts
from nat.errors import ConfigError

VERSION = "1"  # part of the cache key: raise it when the rows change
LETTERS = "abcdefghijklmnop"
VALUES = "stuvwxyz"
NOISE = "QRSTUVWXYZ"


@dataclass(frozen=True)
class Recall:
    """length: words of a source; questions, clues: in it; each drawn evenly. distance: words from the last question
    to the first clue, at least. letters, values: how many there are of each; chance is 1 / values."""

    length: Range = Range(256, 256)
    questions: Range = Range(1, 4)
    clues: Range = Range(8, 8)
    distance: int = 64
    letters: int = 8
    values: int = 4
    pairs: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        check_count("letters", self.letters, 1, len(LETTERS))
        check_count("values", self.values, 2, len(VALUES))
        check_count("questions", self.questions, 1, self.letters)
        check_count("clues", self.clues, self.questions.high, self.letters)
        check_count("distance", self.distance, 1)
        check_count("pairs", self.pairs, 1)
        check_count("length", self.length, 1, MOST_WORDS)
        shortest = self.questions.high + self.distance - 1 + self.clues.high
        if self.length.low < shortest:
            raise ConfigError(f"length={self.length}: questions, distance and clues together need {shortest}")

    @classmethod
    def parse(cls, text: str) -> Recall:
        """TASK?OPTIONS. Raises ConfigError."""
        ranges = ("length", "questions", "clues")
        return cls(**read_counts(text, (*ranges, "distance", "letters", "values", "pairs", "seed"), ranges))

    def rows(self, first: int = 0) -> Iterator[dict[str, Any]]:
        for number in range(first, self.pairs):
            source, target = self._pair(np.random.default_rng((self.seed, number)))
            yield {"source": " ".join(source), "target": " ".join(target), "line": number + 1}

    def fingerprint(self) -> str:
        return digest("recall", VERSION, *map(str, astuple(self)))

    def _pair(self, random: np.random.Generator) -> tuple[list[str], list[str]]:
        length, num_questions, num_clues = (
            int(random.integers(count.low, count.high + 1)) for count in (self.length, self.questions, self.clues)
        )
        letters = [LETTERS[i] for i in random.permutation(self.letters)[:num_clues]]
        values = [VALUES[i] for i in random.integers(self.values, size=num_clues)]
        words = [NOISE[i] for i in random.integers(len(NOISE), size=length)]
        first = num_questions + self.distance - 1
        places = first + random.permutation(length - first)[:num_clues]
        for place, letter, value in zip(places, letters, values, strict=True):
            words[place] = letter + value
        words[:num_questions] = [letter.upper() for letter in letters[:num_questions]]  # letters stand in random order
        return words, values[:num_questions]
