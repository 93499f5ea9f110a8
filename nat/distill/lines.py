"""The lines of a distilled corpus: a teacher's translations or given targets, their scores, and fertilities."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nat.data.batching import Pair
from nat.decoding.batched import Decoded, decode_in_batches
from nat.distill.fertilities import FertilitySource, WordAligner, attention_fertilities, link_fertilities
from nat.distill.job import Job, Targets
from nat.files import to_json
from nat.progress import Progress

READ_AT_ONCE = 1000  # lines that are tokenised and aligned together

Line = dict[str, Any]


def shard_lines(job: Job, indices: np.ndarray, progress: Progress) -> list[Line]:
    """A shard's lines, in corpus order."""
    make = given_targets if job.config.targets is Targets.CORPUS else translations
    results = make(job, indices, progress)
    lines = [line for result in results for line in result]
    if job.config.fertilities is FertilitySource.ATTENTION:
        found = attention_fertilities(
            job.teacher.model,
            read_pairs(job, lines),
            layer=job.config.attention_layer,
            batch_size=job.batch_size,
            device=job.teacher.device,
        )
        add(lines, found)
    elif job.alignments is not None:
        add(lines, link_fertilities(read_pairs(job, lines), job.alignments.links(job.corpus.rows[indices])))
    return lines


def translations(job: Job, indices: np.ndarray, progress: Progress) -> list[list[Line]]:
    """The teacher's translations of each source, the best first; a source that occurs again is decoded once."""
    teacher = job.teacher
    sources, _ = job.corpus.texts(indices)
    results: list[list[Line]] = [[] for _ in sources]
    places: dict[tuple[int, ...], list[int]] = {}
    for i, pair in enumerate(job.corpus.pairs(indices)):
        places.setdefault(tuple(pair.source), []).append(i)
    rows, copies = list(places), list(places.values())
    for chosen, found in decode_in_batches(
        teacher.model, rows, decoding=job.decoding, batch_size=job.batch_size, device=teacher.device
    ):
        for number, decoded in zip(chosen, found, strict=True):
            for i in copies[number]:
                results[i] = translated(job, sources[i], int(job.corpus.lines[indices[i]]), decoded)
            progress.advance(len(copies[number]))
    return results


def translated(job: Job, source: str, number: int, decoded: Decoded) -> list[Line]:
    """A source's translations. number: its line in the corpus."""
    texts = job.teacher.tokenizers.target.decode(decoded.tokens)
    lines = []
    for rank, (text, score) in enumerate(zip(texts, decoded.scores, strict=True)):
        line = {job.data.source: source, job.data.target: text, "score": round(score, 4)}
        line |= {"line": number, "rank": rank}
        lines.append(line | ({"truncated": True} if decoded.truncated and rank == 0 else {}))
    return lines


def given_targets(job: Job, indices: np.ndarray, progress: Progress) -> list[list[Line]]:
    """The corpus's own targets, with the teacher's scores of them."""
    sources, targets = job.corpus.texts(indices)
    scores = job.teacher.score(sources, targets, batch_size=job.batch_size)
    progress.advance(len(indices))
    names = (job.data.source, job.data.target, "score", "line", "rank")
    rows = zip(sources, targets, scores, job.corpus.lines[indices], strict=True)
    return [[dict(zip(names, (s, t, round(x, 4), int(n), 0), strict=True))] for s, t, x, n in rows]


def read_pairs(job: Job, lines: Sequence[Line]) -> list[Pair]:
    """The lines' tokens as a student reads them: those of the texts, which need not be those that were decoded."""
    tokenizers = job.teacher.tokenizers
    sources = tokenizers.source.encode([line[job.data.source] for line in lines])
    targets = tokenizers.target.encode([line[job.data.target] for line in lines])
    return [Pair(*ids) for ids in zip(sources, targets, strict=True)]


def add(lines: Sequence[Line], fertilities: Sequence[list[int]]) -> None:
    for line, numbers in zip(lines, fertilities, strict=True):
        line["fertilities"] = numbers


def align_lines(job: Job, paths: Sequence[Path], out: Path) -> None:
    """All lines of the shards in one file, with fertilities of an aligner that has seen them all."""
    aligner = WordAligner()
    total = 2 * len(job.corpus) * job.decoding.num_candidates
    with Progress("align", total=total, unit="sentences") as progress, open(out, "w", encoding="utf-8") as file:
        for lines in chunks(paths):
            aligner.add(read_pairs(job, lines))
            progress.advance(len(lines))
        aligner.learn()
        for lines in chunks(paths):
            pairs = read_pairs(job, lines)
            add(lines, link_fertilities(pairs, aligner.links(pairs)))
            file.write(as_text(lines))
            progress.advance(len(lines))


def chunks(paths: Sequence[Path]) -> Iterator[list[Line]]:
    """All lines of the files, READ_AT_ONCE together."""
    lines = (line for path in paths for line in read_lines(path))
    while chunk := list(islice(lines, READ_AT_ONCE)):
        yield chunk


def read_lines(path: Path) -> Iterator[Line]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def as_text(lines: Sequence[Line]) -> str:
    return "".join(to_json(line) + "\n" for line in lines)
