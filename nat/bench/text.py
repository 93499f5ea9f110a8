"""Token ids to train on: the embedded text, or made ones of the lengths of news text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nat.composition import compose
from nat.config import parse
from nat.data.corpus import DataConfig, read_corpus
from nat.data.pairs import Pair, PairTable
from nat.data.ragged import Ragged
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer_training import build_tokenizers
from nat.data.vocabulary import NUM_SYMBOLS

# WMT14 English-German in 32,000 pieces: sentences of about 25 tokens, half of them between 15 and 36, few over 100
MEAN_LENGTH, SPREAD, LONGEST = 25.0, 0.6, 250
RATIO_SPREAD = 0.15  # of log(target length / source length)


def embedded(vocabulary_size: int) -> tuple[list[Pair], int]:
    """The training pairs of data=lohelp in a joint vocabulary of this size, and the size."""
    plain = compose("train", ["run_dir=unused", f"data.tokenizer.vocabulary_size={vocabulary_size}"])["data"]
    config = parse(DataConfig, plain, "data")
    tokenizers = build_tokenizers(config, read_corpus(config, "train"))
    corpus = prepare(config, "train", tokenizers, filtered=True)
    assert isinstance(corpus, TokenizedCorpus)
    pairs = corpus.pairs(np.arange(len(corpus)))
    return [with_fertilities(*pair[:2]) for pair in pairs], tokenizers.vocabularies.target_size


def synthetic(vocabulary_size: int, num_tokens: int, *, seed: int = 1) -> list[Pair]:
    """The pairs of `synthetic_table`, with fertilities."""
    pairs = synthetic_table(vocabulary_size, num_tokens, seed=seed).pairs()
    return [with_fertilities(pair.source, pair.target) for pair in pairs]


def synthetic_table(vocabulary_size: int, num_tokens: int, *, seed: int = 1) -> PairTable:
    """Random pairs of about so many target tokens, of `synthetic_lengths`. Tokens are as frequent as in text: the r-th
    most frequent 1 / (r + 2.7) as often (Mandelbrot 1953)."""
    random = np.random.default_rng(seed)
    lengths = synthetic_lengths(max(1, round(num_tokens / MEAN_LENGTH)), random)
    cumulative = word_shares(vocabulary_size - NUM_SYMBOLS).cumsum()
    sides = []
    for side in lengths:
        ids = np.searchsorted(cumulative, random.random(side.sum()) * cumulative[-1]) + NUM_SYMBOLS
        sides.append(Ragged.of_lengths(ids, side))
    return PairTable(*sides)


def synthetic_lengths(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths (count,): log-normal, a pair's two lengths are close to each other."""
    sources = np.exp(random.normal(np.log(MEAN_LENGTH) - SPREAD**2 / 2, SPREAD, count))
    targets = sources * np.exp(random.normal(0.0, RATIO_SPREAD, count))
    source, target = (np.clip(np.rint(side), 1, LONGEST).astype(int) for side in (sources, targets))
    return source, target


def word_shares(count: int) -> np.ndarray:
    """(count,) of the most frequent word first; their sum is 1."""
    shares = 1.0 / (np.arange(count) + 2.7)
    return np.asarray(shares / shares.sum())


def with_fertilities(source: Sequence[int], target: Sequence[int]) -> Pair:
    """The pair, its target's tokens spread evenly over its source's."""
    ends = [i * len(target) // len(source) for i in range(len(source) + 1)]
    return Pair(list(source), list(target), [end - start for start, end in itertools.pairwise(ends)])


def save(pairs: Sequence[Pair], path: Path) -> None:
    """As arrays, for a process with another nat: ids of each side and fertilities, flat, and the lengths."""
    sides = {"source": [p.source for p in pairs], "target": [p.target for p in pairs]}
    arrays = {name: np.array(list(itertools.chain.from_iterable(side))) for name, side in sides.items()}
    arrays |= {f"{name}_lengths": np.array([len(ids) for ids in side]) for name, side in sides.items()}
    arrays["fertilities"] = np.array(list(itertools.chain.from_iterable(p.fertilities or [] for p in pairs)))
    np.savez(path, **arrays)  # type: ignore[arg-type]
