"""The tokenizers of a corpus: given ones, or trained on its pairs and kept in the cache."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset

from nat.data.cache import cache_directory, cached, digest
from nat.data.corpus import DataConfig, accepts
from nat.data.points import IndexTokenizer, PointTokenizer
from nat.data.readers import READ_AT_ONCE
from nat.data.streams import TextStream
from nat.data.tags import JOIN, tag
from nat.data.tokenizer import TRAINER_VERSION, Kind, Tokenizers, load_model
from nat.errors import DataError


def build_tokenizers(config: DataConfig, corpus: Dataset | TextStream) -> Tokenizers:
    """The tokenizers that `config.tokenizer` describes: given ones, or trained on `corpus` (the training pairs as
    read_corpus gives them) and kept in the cache under a key of text and options. Raises DataError."""
    tokenizer = config.tokenizer
    if tokenizer.path is not None:
        return Tokenizers.load(Path(tokenizer.path))
    if tokenizer.source_model is not None:
        source = load_model(Path(tokenizer.source_model))
        if tokenizer.target_model is None:
            return Tokenizers(source, source, True)
        return Tokenizers(source, load_model(Path(tokenizer.target_model)), False)
    sources, targets = _training_texts(config, corpus)
    if tokenizer.kind is Kind.POINTS:
        return Tokenizers(PointTokenizer(), IndexTokenizer(max(len(source.split()) for source in sources)), False)
    tags = [tag(language).strip() for language in config.target.split(JOIN)] if config.target_tags else []
    key = digest(TRAINER_VERSION, repr(tokenizer), *tags, digest(*sources), digest(*targets))

    def train(folder: Path) -> None:
        Tokenizers.train(tokenizer, sources, targets, tags=tags).save(folder)

    return cached(cache_directory(config.cache), f"tokenizers/{key}", train, Tokenizers.load)


def _training_texts(config: DataConfig, corpus: Dataset | TextStream) -> tuple[list[str], list[str]]:
    """Both sides of the pairs that belong to the corpus; a sample spread evenly over it if it is large (of a
    stream, whose end is unknown, the beginning)."""
    accept = accepts(config)
    num_pairs = config.tokenizer.num_sentences
    if isinstance(corpus, Dataset) and config.limit is None and len(corpus) > num_pairs:
        corpus = corpus.select(np.linspace(0, len(corpus) - 1, num_pairs, dtype=np.int64))
    texts = (pair for batch in corpus.iter(READ_AT_ONCE) for pair in zip(batch["source"], batch["target"], strict=True))
    accepted = (pair for pair in texts if accept(*pair))
    pairs = list(islice(accepted, min(num_pairs, config.limit or num_pairs)))
    if not pairs:
        raise DataError("data.train: no pair is left to train a tokenizer on (all are empty or too long)")
    sources, targets = zip(*pairs, strict=True)
    return list(sources), list(targets)
