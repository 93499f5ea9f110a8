"""The token store: the ids of a corpus as flat arrays on disk, of which only what is asked for is read.

A folder of source.npy and target.npy (all ids, row after row; uint16 where the vocabulary allows, else int32), for each
of them NAME_offsets.npy ((N + 1,) int64, where each row begins), words.npy ((N, 2) int32) and, where there are any,
fertilities.npy with its offsets. It is made in pieces of PIECE pairs, by as many processes as wanted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from datasets import Dataset

import nat
from nat.data.pairs import PairTable
from nat.data.ragged import Ragged
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizing import Encoded, encode_piece, piece_path
from nat.errors import DataError
from nat.progress import Progress
from nat.threads import num_processors

PIECE = 50_000  # pairs that are tokenised together, and kept when a build is killed
MODULE = "nat.data.tokenizing"  # run by each process
SIDES = ("source", "target", "fertilities")


def build(
    folder: Path, texts: Dataset, tokenizers: Tokenizers, *, name: str, shown: str, num_workers: int | None = None
) -> None:
    """Fill `folder` with the ids of `texts`, going on from the pieces that are there. name: where the texts are from,
    for messages; shown: what is prepared, for the progress. num_workers: processes; None: one for each core.

    Raises DataError for a text that cannot be encoded.
    """
    starts = range(0, len(texts), PIECE)
    missing = [start for start in starts if not piece_path(folder, start).is_file()]
    done = len(texts) - sum(min(PIECE, len(texts) - start) for start in missing)
    workers = min(num_workers or num_processors(), len(missing))
    with Progress(shown, total=len(texts), unit="pairs", start=done) as progress:
        spans = [(start, min(start + PIECE, len(texts))) for start in missing]
        if workers > 1 and texts.cache_files and tokenizers.source.savable:
            work = _in_processes(spans, workers, folder, texts.cache_files[0]["filename"], tokenizers, name)
        else:
            work = _here(spans, folder, texts, tokenizers, name)
        for first, end in work:
            progress.advance(end - first)
    _join(folder, [piece_path(folder, start) for start in starts], id_type(tokenizers))


def id_type(tokenizers: Tokenizers) -> type[np.uint16] | type[np.int32]:
    """The smallest type that holds every id."""
    return np.uint16 if max(tokenizers.source.size, tokenizers.target.size) <= 1 << 16 else np.int32


def load(folder: Path) -> Encoded:
    """What `build` wrote, memory-mapped. Raises DataError where that is missing or damaged."""
    sides = [
        Ragged(array(folder, side), array(folder, f"{side}_offsets"))
        for side in SIDES
        if side != "fertilities" or (folder / "fertilities.npy").exists()
    ]
    return Encoded(PairTable(*sides), array(folder, "words"))


def save(encoded: Encoded, folder: Path) -> None:
    """Ids that are in memory as a store, as `build` would write it."""
    np.save(folder / "words.npy", encoded.words)
    for side in SIDES:
        rows: Ragged | None = getattr(encoded.table, side)
        if rows is not None:
            kind = np.uint16 if side != "fertilities" and rows.values.max(initial=0) < 1 << 16 else np.int32
            np.save(folder / f"{side}.npy", rows.values.astype(kind))
            np.save(folder / f"{side}_offsets.npy", rows.offsets)


def array(folder: Path, name: str) -> np.ndarray:
    """NAME.npy, memory-mapped. Raises DataError where that is missing or damaged."""
    try:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged, or of another version of nat ({error})") from None


# --- pieces ----------------------------------------------------------------------------------------

Span = tuple[int, int]  # rows of the text, from the first to before the end


def _here(spans: Sequence[Span], folder: Path, texts: Dataset, tokenizers: Tokenizers, name: str) -> Iterator[Span]:
    for first, end in spans:
        encode_piece(texts.data, first, end, tokenizers, folder, name)
        yield first, end


def _in_processes(
    spans: Sequence[Span], workers: int, folder: Path, text: str, tokenizers: Tokenizers, name: str
) -> Iterator[Span]:
    """Each span when it is done, in their order. Raises the DataError of the first that fails."""
    models = folder / "tokenizers"
    tokenizers.save(models)
    paths = os.pathsep.join([str(Path(nat.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", MODULE, text, str(models), str(folder), name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | {"PYTHONPATH": paths}}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(workers)]  # type: ignore[call-overload]
    free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
    for process in processes:
        free.put(process)

    def work(span: Span) -> Span:
        process = free.get()
        try:
            _ask(process, span)
        finally:
            free.put(process)
        return span

    threads = ThreadPoolExecutor(workers)
    try:
        yield from threads.map(work, spans)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()  # where it is still at work, nobody wants that any more
            process.wait()
        shutil.rmtree(models)


def _ask(process: subprocess.Popen[str], span: Span) -> None:
    """Have a process tokenise a span. Raises DataError for a bad text, or where it was killed."""
    assert process.stdin is not None and process.stdout is not None
    try:
        print(*span, file=process.stdin, flush=True)
        answer = process.stdout.readline()
    except OSError:
        answer = ""
    if not answer:
        raise DataError("a process that tokenises has ended (for want of memory?): data.num_workers sets their number")
    if answer.strip():
        raise DataError(answer.strip())


def _join(folder: Path, pieces: Sequence[Path], ids: type[np.generic]) -> None:
    """The pieces as flat arrays; they, and whatever killed processes have left, are removed at last."""

    def column(name: str) -> Iterator[np.ndarray]:
        for path in pieces:
            with np.load(path) as arrays:
                yield arrays[name]

    with np.load(pieces[0]) as arrays:
        sides = [side for side in SIDES if side in arrays]
    np.save(folder / "words.npy", np.concatenate(list(column("words"))))
    for side in sides:
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(list(column(f"{side}_lengths"))), dtype=np.int64)])
        np.save(folder / f"{side}_offsets.npy", offsets)
        _write(folder / f"{side}.npy", column(side), int(offsets[-1]), np.int32 if side == "fertilities" else ids)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".npy":
            path.unlink()


def _write(path: Path, parts: Iterator[np.ndarray], length: int, kind: type[np.generic]) -> None:
    """Arrays of `length` numbers in all as one .npy file, each in memory alone."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (length,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            part.astype(kind).tofile(file)
