"""Texts to token ids, many at a time: the work of one process.

`python -m nat.data.tokenizing TEXT.arrow TOKENIZERS FOLDER NAME` tokenises pieces of a text in a process of its own: it
reads a line `FIRST END` for each, writes piece-FIRST.npz into the folder and answers with a line, empty or what is
wrong. It ends with its input, so that it does not outlive who started it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nat.data.filters import Lengths
from nat.data.pairs import PairTable
from nat.data.points import BadText, no_such_point
from nat.data.ragged import Ragged
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Tokenizer
from nat.errors import DataError
from nat.files import write_atomically

ENCODED_AT_ONCE = 5_000  # pairs: what is in memory as lists


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of N pairs of texts. words: (N, 2) int32, whitespace words of the source and of the target."""

    table: PairTable
    words: np.ndarray

    @property
    def lengths(self) -> Lengths:
        tokens = (side.lengths.astype(np.int32) for side in (self.table.source, self.table.target))
        return Lengths(self.words[:, 0], self.words[:, 1], *tokens)


def encode(columns: Mapping[str, Sequence[Any]], tokenizers: Tokenizers, name: str) -> Encoded:
    """The ids of columns of texts, see `read_corpus`; fertilities, where there are any, as they are.

    name: where the texts are from. Raises DataError for fertilities that count other tokens than these.
    """
    source = _ids(tokenizers.source, columns["source"], columns["line"], name)
    target = _ids(tokenizers.target, columns["target"], columns["line"], name)
    if tokenizers.vocabularies.points:
        _check_indices(source, target, columns["line"], name)
    fertilities = None
    if "fertilities" in columns:
        fertilities = Ragged.from_lists(columns["fertilities"])
        _check_fertilities(fertilities, source, target, columns["line"], name)
    words = [[len(text.split()) for text in columns[side]] for side in ("source", "target")]
    return Encoded(PairTable(source, target, fertilities), np.array(words, dtype=np.int32).T)


def _ids(tokenizer: Tokenizer, texts: Sequence[str], lines: Sequence[int], name: str) -> Ragged:
    try:
        return tokenizer.encode_many(texts)
    except BadText as error:
        raise DataError(f"{name} line {lines[error.row]}: {error}") from None


def _check_indices(source: Ragged, target: Ragged, lines: Sequence[int], name: str) -> None:
    """Targets name points of their own source."""
    for line, count, indices in zip(lines, source.lengths, target.lists(), strict=True):
        last = max(indices, default=NUM_SYMBOLS) - NUM_SYMBOLS
        if last >= max(1, count):
            raise DataError(f"{name} line {line}: {no_such_point(last, count)}")


def _check_fertilities(fertilities: Ragged, source: Ragged, target: Ragged, lines: Sequence[int], name: str) -> None:
    """Fertilities are made with one tokenizer and hold for no other."""
    counts, sums = fertilities.lengths, fertilities.sums()
    wrong = np.flatnonzero((counts != source.lengths) | (sums != target.lengths))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{name} line {lines[row]}: {counts[row]} fertilities with sum {sums[row]}, but this tokenizer makes "
            f"{source.lengths[row]} source and {target.lengths[row]} target tokens: they were made with another "
            "tokenizer (data.tokenizer.path names one)"
        )


# --- pieces ----------------------------------------------------------------------------------------


def piece_path(folder: Path, first: int) -> Path:
    return folder / f"piece-{first:012d}.npz"


def encode_piece(texts: pa.Table, first: int, end: int, tokenizers: Tokenizers, folder: Path, name: str) -> None:
    """Rows first .. end - 1 of a table of texts, as a file in `folder`. Raises DataError."""
    parts = [
        encode(texts.slice(start, min(ENCODED_AT_ONCE, end - start)).to_pydict(), tokenizers, name)
        for start in range(first, end, ENCODED_AT_ONCE)
    ]
    arrays = {"words": np.concatenate([part.words for part in parts])}
    for side in ("source", "target", "fertilities"):
        rows = [getattr(part.table, side) for part in parts]
        if rows[0] is not None:
            arrays[side] = np.concatenate([own.values for own in rows])
            arrays[f"{side}_lengths"] = np.concatenate([own.lengths for own in rows]).astype(np.int32)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(piece_path(folder, first), write)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed on the way is no answer
    text, models, folder, name = sys.argv[1:]
    tokenizers = Tokenizers.load(Path(models))
    for line in sys.stdin:
        first, end = map(int, line.split())
        texts = pa.ipc.open_stream(pa.memory_map(text)).read_all()  # anew: what was read does not stay in memory
        wrong = ""
        try:
            encode_piece(texts, first, end, tokenizers, Path(folder), name)
        except DataError as error:
            wrong = str(error)
        print(wrong, file=answers, flush=True)


if __name__ == "__main__":
    main()
