"""Fertilities for a whole corpus: from a teacher's attention, a word aligner, or a file of alignments.

Gu et al. 2018, section 4.1, https://arxiv.org/abs/1711.02281, take fast_align's alignments (Dyer et al. 2013,
https://aclanthology.org/N13-1073/). What is aligned here are the tokens that a student reads: those of the texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nat.data.batch import Batch
from nat.data.batching import collate
from nat.data.lines import check_regular, read_lines
from nat.data.pairs import Pair
from nat.decoding.batch_options import BatchOptions
from nat.errors import ConfigError, DataError
from nat.models.contract import TranslationModel
from nat.ops.fertility import from_attention, from_links

MATRICES = BatchOptions(64)  # pairs whose (T, S) matrices of links are in memory together
EM_ITERATIONS = 5  # fast_align's own number
LINK = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)

Links = Int[np.ndarray, "N 2"]  # (source, target) token numbers of a pair, from 0


class FertilitySource(Enum):
    ATTENTION = "attention"
    ALIGNER = "aligner"
    ALIGNMENTS = "alignments"


@torch.inference_mode()
def attention_fertilities(
    model: TranslationModel, pairs: Sequence[Pair], *, layer: int | None, batches: BatchOptions, device: torch.device
) -> list[list[int]]:
    """Each target token counts for the source token that the teacher, forced to produce it, looks at most.

    layer: see `TranslationModel.cross_attention`. A pair that is too long for the teacher counts by position.
    Raises ConfigError if the model has no such attention.
    """

    def count(batch: Batch, _: np.ndarray) -> Tensor:
        fits = model.learnable(batch).nonzero().squeeze(1)
        source, target = batch.source.valid, batch.target.valid
        numbers = from_links(source.new_zeros(len(batch), target.size(1), source.size(1)), target, source)
        if not len(fits):
            return numbers
        fitting = batch.select(fits)
        weights = model.cross_attention(fitting, layer=layer)
        return numbers.index_copy(0, fits, from_attention(weights, fitting.target.valid, fitting.source.valid))

    return _in_batches(pairs, count, batches=batches, device=device)


def link_fertilities(pairs: Sequence[Pair], links: Sequence[Links]) -> list[list[int]]:
    """Fertilities of aligned pairs; see `ops.fertility.from_links` for tokens without a link."""

    def count(batch: Batch, indices: np.ndarray) -> Tensor:
        matrix = torch.zeros(len(batch), batch.target.tokens.size(1), batch.source.tokens.size(1), dtype=torch.bool)
        rows = np.repeat(np.arange(len(indices)), [len(links[i]) for i in indices])
        flat = torch.from_numpy(np.concatenate([links[i] for i in indices]).astype(np.int64))
        matrix[torch.from_numpy(rows), flat[:, 1], flat[:, 0]] = True
        return from_links(matrix, batch.target.valid, batch.source.valid)

    return _in_batches(pairs, count, batches=MATRICES, device=torch.device("cpu"))


def _in_batches(
    pairs: Sequence[Pair], count: Callable[[Batch, np.ndarray], Tensor], *, batches: BatchOptions, device: torch.device
) -> list[list[int]]:
    """count: (batch, indices of its pairs) -> (B, S) fertilities. The fertilities of all pairs, in their order."""
    fertilities: list[list[int]] = [[] for _ in pairs]
    lengths = [len(pair.source) + len(pair.target) for pair in pairs]
    for indices in batches.cut(lengths):
        rows = count(collate([pairs[i] for i in indices]).to(device), indices).tolist()
        for index, row in zip(indices, rows, strict=True):
            fertilities[index] = row[: len(pairs[index].source)]
    return fertilities


class WordAligner:
    """fast_align's model, in the direction of the translation: each target token has one source token, or none.

    It is that of the package sil-thot. Words are numbers of tokens, so no text can be taken for its NULL word; pairs
    of more tokens than it takes get no links. The same pairs give the same links.
    """

    def __init__(self) -> None:
        """Raises ConfigError if the package is not installed."""
        try:
            from thot.alignment import FastAlignModel
        except ImportError:
            raise ConfigError(
                "fertilities=aligner: the package sil-thot is needed: pip install 'nat-translation[aligner]'"
            ) from None
        self.model = FastAlignModel()

    def add(self, pairs: Iterable[Pair]) -> None:
        """Pairs to learn from."""
        for pair in pairs:
            self.model.add_sentence_pair(_words(pair.source), _words(pair.target))

    def learn(self) -> None:
        """Expectation maximisation over all pairs that were added."""
        if self.model.start_training() > 0:
            for _ in range(EM_ITERATIONS):
                self.model.train()
        self.model.end_training()

    def links(self, pairs: Sequence[Pair]) -> list[Links]:
        """The most probable links of each pair."""
        sources, targets = [_words(pair.source) for pair in pairs], [_words(pair.target) for pair in pairs]
        links = []
        for _, matrix in self.model.get_best_alignments(sources, targets):
            source = np.array(matrix.to_list(), dtype=np.int64)  # for each target token: from 1, and 0 for none
            target = source.nonzero()[0]
            links.append(np.stack((source[target] - 1, target), axis=1))
        return links


def _words(ids: Sequence[int]) -> list[str]:
    return [str(i) for i in ids]


@dataclass(frozen=True, eq=False)
class AlignmentFile:
    """Alignments of a corpus in Pharaoh format: a line for each pair of the corpus, of links SOURCE-TARGET counted
    from 0, such as `0-0 1-2`. flat: (M, 2) the links of all lines; ends: (N + 1,) where each line's begin and end.
    """

    path: Path
    flat: np.ndarray
    ends: np.ndarray

    @classmethod
    def read(cls, path: Path) -> AlignmentFile:
        """Raises DataError, naming the line, for what is no link, and for a pipe: the content is hashed too."""
        check_regular(path)
        flat: list[np.ndarray] = [np.empty((0, 2), dtype=np.int32)]
        for number, line in enumerate(read_lines(path), 1):
            flat.append(np.array([_link(item, path, number) for item in line.split()], np.int32).reshape(-1, 2))
        ends = np.fromiter(accumulate(len(links) for links in flat), dtype=np.int64)
        return cls(path, np.concatenate(flat), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def links(self, rows: Iterable[int]) -> list[Links]:
        """The links of the given lines, which count from 0."""
        return [self.flat[self.ends[row] : self.ends[row + 1]] for row in rows]

    def check(self, num_pairs: int, rows: np.ndarray, source_lengths: np.ndarray, target_lengths: np.ndarray) -> None:
        """Raises DataError where this file cannot be that of a corpus of num_pairs pairs, of which those at `rows`,
        (N,), have these numbers of tokens."""
        if len(self) != num_pairs:
            raise DataError(f"{self.path}: {len(self)} lines of alignments, but the corpus has {num_pairs} pairs")
        limits = np.full((num_pairs, 2), np.iinfo(np.int64).max)  # pairs that are left out are not looked at
        limits[rows] = np.stack((source_lengths, target_lengths), axis=1)
        beyond = np.flatnonzero((self.flat >= np.repeat(limits, np.diff(self.ends), axis=0)).any(axis=1))
        if len(beyond):
            row = int(np.searchsorted(self.ends, beyond[0], side="right")) - 1
            source, target = self.flat[beyond[0]]
            raise DataError(
                f"{self.path} line {row + 1}: link {source}-{target}, but the pair has {limits[row, 0]} source and "
                f"{limits[row, 1]} target tokens; alignments must be of the teacher's tokens, not of words"
            )


def _link(item: str, path: Path, number: int) -> tuple[int, int]:
    match = LINK.fullmatch(item)
    if match is None:
        raise DataError(f"{path} line {number}: '{item[:40]}' is no link such as 0-0")
    return int(match[1]), int(match[2])
