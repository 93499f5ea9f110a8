"""nat-lm's work: an n-gram language model of the target side's tokens, estimated by NLTK, written as ARPA text.

Sentences are cut by the run's own tokenizer. Each token of the vocabulary counts once more than it was seen, so that
none is impossible. Interpolated smoothing is a back-off model (Chen & Goodman 1999, section 2.8): the probability of
an n-gram that was seen is written as it is, the weight of the shorter context as the context's back-off weight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nat.config import load_yaml, merge, option, parse
from nat.data.batch import Target
from nat.data.corpus import DataConfig
from nat.data.lines import read_lines
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.decoding.options import CommandConfig
from nat.errors import ConfigError, DataError
from nat.runs.outputs import Output
from nat.search.arpa import HEADER, ZERO, Ngram, write_arpa
from nat.search.language_model import open_language_model

if TYPE_CHECKING:
    from nltk.lm.api import LanguageModel

BOS, EOS, UNK = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.UNK)
Rows = Sequence[Sequence[int]]


class Smoothing(Enum):
    WITTEN_BELL = "witten_bell"
    ABSOLUTE_DISCOUNTING = "absolute_discounting"


@dataclass(frozen=True, kw_only=True)
class LMConfig(CommandConfig):
    """Everything that `configs/lm.yaml` holds."""

    run_dir: str = option(help="run folder: its tokenizer, and its corpus")
    output: str = option(help="ARPA file")
    order: int = option(3, "tokens in the longest n-grams", minimum=1, maximum=20)
    smoothing: Smoothing = option(Smoothing.ABSOLUTE_DISCOUNTING, "absolute_discounting or witten_bell")
    text: str | None = option(None, "text file of the target language instead of the corpus")
    data: dict[str, Any] = field(default_factory=dict, metadata={"help": "options over those of the run's corpus"})

    @property
    def inputs(self) -> Iterable[str | None]:
        return (self.text,)

    @property
    def runs(self) -> Iterable[str | None]:
        return (self.run_dir,)

    @property
    def outputs(self) -> dict[str, Output]:
        return {"output": Output(Path(self.output), HEADER)}


@dataclass(frozen=True)
class Summary:
    """num_sentences, num_ngrams of order 1, 2, ... perplexity: of a token or end on the valid split, None without."""

    num_sentences: int
    num_ngrams: list[int]
    perplexity: float | None


def estimate(config: LMConfig) -> Summary:
    """Read, count, write. Raises ConfigError or DataError where an option, a run or a file is unusable."""
    import_nltk()
    config.prepare()
    folder = Path(config.run_dir)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: not a run folder (there is no config.yaml in it)")
    tokenizers = Tokenizers.load(folder / "tokenizer")
    data = parse(DataConfig, merge(load_yaml(folder / "config.yaml").get("data", {}), config.data), "data")
    rows = read_rows(config, data, tokenizers)
    size = tokenizers.vocabularies.target_size
    try:
        model = fit(rows, order=config.order, smoothing=config.smoothing, num_tokens=size)
    except ValueError as error:  # NLTK counts ten million n-grams at most
        reason = str(error).partition(".")[0]
        raise ConfigError(f"order={config.order}: too much text ({reason}); lower it, or give data.limit") from None
    orders = [sorted(order, key=lambda ngram: ngram[1]) for order in ngrams(model)]
    write_arpa(Path(config.output), tokenizers.fingerprint, orders)
    valid = [] if data.valid is None else target_rows(data, "valid", tokenizers)
    per_token = perplexity(config.output, valid, num_tokens=size) if valid else None
    return Summary(len(rows), [len(order) for order in orders], per_token)


def import_nltk() -> None:
    """Raises ConfigError if the package is missing."""
    try:
        import nltk.lm  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"nltk: it cannot be imported ({error}); pip install 'nat-translation[lm]'") from None


def read_rows(config: LMConfig, data: DataConfig, tokenizers: Tokenizers) -> Rows:
    """Token ids of the sentences that the model learns from. Raises ConfigError or DataError."""
    if config.text is None:
        return target_rows(data, "train", tokenizers)
    if config.data:
        raise ConfigError(f"data.{next(iter(config.data))}: has no effect with text={config.text}")
    rows = [row for row in tokenizers.target.encode(list(read_lines(config.text))) if row]
    if not rows:
        raise DataError(f"{config.text}: there is no text in it")
    return rows


def target_rows(data: DataConfig, split: str, tokenizers: Tokenizers) -> Rows:
    corpus = prepare(dataclasses.replace(data, streaming=False), split, tokenizers, filtered=split == "train")
    assert isinstance(corpus, TokenizedCorpus)
    return [pair.target for pair in corpus.pairs(np.arange(len(corpus)))]


def fit(rows: Rows, *, order: int, smoothing: Smoothing, num_tokens: int) -> LanguageModel:
    """NLTK's model of the rows; its words are the ids in decimal. Raises ValueError if NLTK finds them too many."""
    from nltk.lm import AbsoluteDiscountingInterpolated, NgramCounter, Vocabulary, WittenBellInterpolated
    from nltk.util import everygrams

    words = [str(token) for token in (UNK, EOS, *range(NUM_SYMBOLS, num_tokens))]
    counts = NgramCounter([[(word,)] for word in words])
    start = str(BOS)
    for row in rows:
        sentence = [start, *map(str, row), str(EOS)]
        counts.update([[ngram for ngram in everygrams(sentence, max_len=order) if ngram != (start,)]])
    kinds = {
        Smoothing.WITTEN_BELL: WittenBellInterpolated,
        Smoothing.ABSOLUTE_DISCOUNTING: AbsoluteDiscountingInterpolated,
    }
    return kinds[smoothing](order, counter=counts, vocabulary=Vocabulary([start, *words]))


def ngrams(model: LanguageModel) -> Iterator[list[Ngram]]:
    """Those that were seen, order by order, with interpolated probabilities."""
    weights: dict[tuple[str, ...], float] = {}  # of the shorter context in the mixture, by context
    shorter: dict[tuple[str, ...], float] = {(word,): model.unmasked_score(word) for word in model.counts.unigrams}
    orders = [shorter]
    for order in range(2, model.order + 1):
        longer = {}
        for context, following in model.counts[order].items():
            for word in following:
                alpha, weights[context] = model.estimator.alpha_gamma(word, context)
                longer[*context, word] = alpha + weights[context] * shorter[*context[1:], word]
        orders.append(shorter := longer)
    orders[0][str(BOS),] = 0.0
    for probabilities in orders:
        yield [(log10(p), tuple(map(int, ngram)), log10(weights.get(ngram, 1.0))) for ngram, p in probabilities.items()]


def log10(value: float) -> float:
    return math.log10(value) if value > 0 else ZERO


def perplexity(path: str, rows: Rows, *, num_tokens: int) -> float:
    """Of the file's model on the rows, their ends included."""
    model = open_language_model(path, num_tokens=num_tokens, device=torch.device("cpu"))
    target = Target.from_lists([list(row) for row in rows])
    total = model.score(target.tokens, target.lengths).sum() / (target.lengths + 1).sum()
    return math.exp(-total.item())
