"""The lines of a distilled corpus: a teacher's translations or given targets, their scores, and fertilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice

import numpy as np

from nat.data.lines import read_json_lines
from nat.data.pairs import Pair
from nat.data.vocabulary import Symbol
from nat.decoding.batched import Decoded
from nat.distill.counts import UNKNOWN, Line
from nat.distill.fertilities import FertilitySource, WordAligner, attention_fertilities, link_fertilities
from nat.distill.job import Job, Targets
from nat.distill.variants import add_weights, own_targets, ranked, selected
from nat.progress import Progress

READ_AT_ONCE = 1000  # lines that are tokenised and aligned together


def shard_lines(job: Job, indices: np.ndarray, progress: Progress) -> list[Line]:
    """A shard's lines, in corpus order."""
    make = corpus_targets if job.config.targets is Targets.CORPUS else translations
    lines = make(job, indices, progress)
    if job.config.fertilities is FertilitySource.ATTENTION:
        fertilities = attention_fertilities(
            job.teacher.model,
            read_pairs(job, lines),
            layer=job.config.attention_layer,
            batches=job.batches,
            device=job.teacher.device,
        )
        add(lines, fertilities)
    elif job.alignments is not None:
        add(lines, link_fertilities(read_pairs(job, lines), job.alignments.links(job.corpus.rows[indices])))
    return lines


def translations(job: Job, indices: np.ndarray, progress: Progress) -> list[Line]:
    """The teacher's translations of each source, the best first; a source that occurs again is decoded once. Before
    them, where some pairs are to keep their own target, that of the pair."""
    sources, _ = job.corpus.texts(indices)
    texts = list(dict.fromkeys(sources))
    answers = job.teacher.decode(texts, decoding=job.decoding, batches=job.batches, advance=progress.advance)
    decoded = dict(zip(texts, ranked(job, texts, answers), strict=True))
    progress.advance(len(sources) - len(texts))
    lines: list[Line] = []
    for source, number, own in zip(sources, job.corpus.lines[indices].tolist(), own_targets(job, indices), strict=True):
        hypotheses = translated(job, source, number, decoded[source])
        if job.config.weights:
            add_weights(hypotheses)
        lines += own + hypotheses
    return lines


def translated(job: Job, source: str, number: int, decoded: Decoded) -> list[Line]:
    """A source's translations. number: its line in the corpus. One in which the teacher wrote <unk>, which has no text,
    is marked: `kept_lines` leaves it out."""
    texts = job.teacher.sides(job.decoding)[1].decode(decoded.tokens)
    lines = []
    for rank, (text, score) in enumerate(zip(texts, decoded.scores, strict=True)):
        line = {job.data.source: source, job.data.target: text, "score": round(score, 4)}
        line |= {"line": number, "rank": rank}
        line |= {"truncated": True} if decoded.truncated and rank == 0 else {}
        lines.append(line | ({UNKNOWN: True} if int(Symbol.UNK) in decoded.tokens[rank] else {}))
    return lines


def corpus_targets(job: Job, indices: np.ndarray, progress: Progress) -> list[Line]:
    """The corpus's own targets, with the teacher's scores of them."""
    sources, targets = job.corpus.texts(indices)
    scores = job.teacher.score(sources, targets, **asdict(job.batches))
    progress.advance(len(indices))
    names = (job.data.source, job.data.target, "score", "line", "rank")
    rows = zip(sources, targets, scores, job.corpus.lines[indices], strict=True)
    return [dict(zip(names, (s, t, round(x, 4), int(n), 0), strict=True)) for s, t, x, n in rows]


def read_pairs(job: Job, lines: Sequence[Line]) -> list[Pair]:
    """The lines' tokens as a student reads them: those of the texts, which need not be those that were decoded."""
    tokenizers = job.teacher.tokenizers
    sources = tokenizers.source.encode([line[job.data.source] for line in lines])
    targets = tokenizers.target.encode([line[job.data.target] for line in lines])
    return [Pair(*ids) for ids in zip(sources, targets, strict=True)]


def add(lines: Sequence[Line], fertilities: Sequence[list[int]]) -> None:
    for line, numbers in zip(lines, fertilities, strict=True):
        line["fertilities"] = numbers


def kept_lines(job: Job, shards: Iterable[int] | None = None, *, raw: np.ndarray | None = None) -> Iterator[list[Line]]:
    """The lines of shards (None: all) in corpus order, READ_AT_ONCE together, without those that hold an <unk>. raw:
    see `raw_pairs`, with all shards. Raises DataError where one is damaged."""
    paths = (job.shards.path(shard) for shard in (range(len(job.shards)) if shards is None else shards))
    lines = selected((line for path in paths for _, line in read_json_lines(path) if UNKNOWN not in line), raw)
    while chunk := list(islice(lines, READ_AT_ONCE)):
        yield chunk


def aligned_lines(job: Job, *, raw: np.ndarray | None = None) -> Iterator[list[Line]]:
    """Like `kept_lines`, with fertilities of an aligner that has seen them all."""
    aligner = WordAligner()
    total = 2 * len(job.corpus) * job.decoding.num_candidates
    with Progress("align", total=total, unit="sentences") as progress:
        for lines in kept_lines(job, raw=raw):
            aligner.add(read_pairs(job, lines))
            progress.advance(len(lines))
        aligner.learn()
        for lines in kept_lines(job, raw=raw):
            pairs = read_pairs(job, lines)
            add(lines, link_fertilities(pairs, aligner.links(pairs)))
            yield lines
            progress.advance(len(lines))
