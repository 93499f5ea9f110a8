"""A made corpus of the lengths of WMT's sentences, to measure at scale: FILE.tsv with the columns en and de.

python scripts/make_corpus.py FILE.tsv [--pairs 5000000] [--seed 1]

The same seed gives the same file. Words are made of syllables and as frequent as in text (Mandelbrot 1953); a target
has the words of its source in another spelling, so that there is something to learn. Sentences have 21 words on
average, log-normally spread, as WMT14's English has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from nat.bench.text import synthetic_lengths, word_shares
from nat.files import write_atomically
from nat.progress import Progress

WORDS_PER_TOKEN = 21 / 25  # of WMT14 English in 32,000 pieces
DIFFERENT_WORDS = 30_000  # of each language: 25 tokens a sentence in 32,000 pieces
SYLLABLES = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", ["", "n", "r", "s"])]
CHUNK = 100_000  # pairs


def made_words(random: np.random.Generator) -> np.ndarray:
    """The most frequent first; frequent words are short."""
    ranks, wobble = np.arange(DIFFERENT_WORDS), random.integers(0, 2, DIFFERENT_WORDS)
    lengths = np.minimum(4, 1 + np.log10(ranks + 10).astype(int) // 2 + wobble)
    syllables = random.integers(0, len(SYLLABLES), (DIFFERENT_WORDS, 4))
    words = ["".join(SYLLABLES[i] for i in row[:count]) for row, count in zip(syllables, lengths, strict=True)]
    return np.array(words, dtype=object)


def made_pairs(count: int, seed: int) -> Iterator[list[str]]:
    """Lines of the file, CHUNK pairs together."""
    random = np.random.default_rng(seed)
    source_words, target_words = made_words(random), made_words(random)
    shares = word_shares(DIFFERENT_WORDS).cumsum()
    for start in range(0, count, CHUNK):
        source, target = synthetic_lengths(min(CHUNK, count - start), random)
        lengths = np.maximum(1, np.rint(np.maximum(source, target) * WORDS_PER_TOKEN).astype(int))
        words = np.searchsorted(shares, random.random(lengths.sum()) * shares[-1])
        ends = np.concatenate([[0], lengths.cumsum()]).tolist()
        sides = [spelling[words].tolist() for spelling in (source_words, target_words)]
        cut = np.rint(lengths * np.minimum(1, target / source)).astype(int).clip(1).tolist()
        yield [
            f"{' '.join(sides[0][first:end])}\t{' '.join(sides[1][first : first + most])}\n"
            for (first, end), most in zip(pairwise(ends), cut, strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE.tsv")
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file, Progress("make", total=given.pairs, unit="pairs") as progress:
            file.write("en\tde\n")
            for lines in made_pairs(given.pairs, given.seed):
                file.writelines(lines)
                progress.advance(len(lines))

    write_atomically(given.file, write)


if __name__ == "__main__":
    main()
