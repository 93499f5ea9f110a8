"""What the single-pass field distils beside a teacher's best translation.

- Several hypotheses of a source, each with its weight (Kim & Rush 2016, section 3.2): of them a student learns one an
  epoch, drawn by the weights, see `nat.data.tokenized`.
- A student's own candidates, of which its teacher's scores choose: one round of self-distillation (Guo et al. 2021,
  https://arxiv.org/abs/2112.11640, section 3).
- Selective distillation (Liu et al. 2023, https://arxiv.org/abs/2303.17910): what a model finds likely enough to be
  learnt stays as the corpus has it. They take a threshold that falls while they train; here it is the share that is
  chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from nat.decoding.batched import Decoded
from nat.decoding.candidates import Candidates, with_teacher_scores
from nat.distill.counts import RAW, UNKNOWN, Counts, Line
from nat.distill.job import Job
from nat.errors import ConfigError

WEIGHT = "weight"


def ranked(job: Job, sources: Sequence[str], answers: Sequence[Decoded]) -> list[Decoded]:
    """The candidates of each source as the scorer ranks them, with its scores; with weights all that it can score, else
    the best alone. Without a scorer, and where it can score none, as they are."""
    if job.scorer is None or job.decoding.num_candidates == 1:
        return list(answers)
    written = job.teacher.sides(job.decoding)[1]
    items = [Candidates.of(answer, written.decode(answer.tokens)) for answer in answers]
    scored = with_teacher_scores(items, sources, job.scorer, batches=job.batches)
    return [reordered(answer, item, whole=job.config.weights) for answer, item in zip(answers, scored, strict=True)]


def reordered(answer: Decoded, item: Candidates, *, whole: bool) -> Decoded:
    scores = {k: score for k, score in enumerate(item.teacher_scores or ()) if score is not None}
    order = sorted(scores, key=lambda k: -scores[k])
    if not order:
        return answer
    order = order if whole else order[:1]
    return replace(answer, tokens=[item.tokens[k] for k in order], scores=[scores[k] for k in order], history=None)


def add_weights(lines: Sequence[Line]) -> None:
    """To the hypotheses of one source: their probabilities, scaled so that those that are kept sum to 1. Raises
    ConfigError where they have no scores."""
    if any(line["score"] is None for line in lines):
        raise ConfigError("weights=true: this teacher gives no scores")
    known = [line["score"] for line in lines if UNKNOWN not in line]
    highest = max(known, default=0.0)
    total = sum(math.exp(score - highest) for score in known)
    for line in lines:
        line[WEIGHT] = 0.0 if UNKNOWN in line else round(math.exp(line["score"] - highest) / total, 6)


def own_targets(job: Job, indices: np.ndarray) -> list[list[Line]]:
    """Of each pair the line of its own target, with what it is judged by; nothing where none is wanted."""
    if not job.config.raw_share:
        return [[] for _ in indices]
    judge = job.scorer or job.teacher
    sources, targets = job.corpus.texts(indices)
    scores = judge.score(sources, targets, **asdict(job.batches))
    lengths = judge.tokenizers.target.encode_many(targets).lengths
    found = []
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        is_known = math.isfinite(scores[i])
        line = {job.data.source: source, job.data.target: target, "score": round(scores[i], 4) if is_known else None}
        line |= {"line": int(job.corpus.lines[indices[i]]), "rank": 0}
        line |= {WEIGHT: 1.0} if job.config.weights else {}
        found.append([line | {RAW: round(scores[i] / max(1, lengths[i]), 6) if is_known else None}])
    return found


def raw_pairs(job: Job, counts: Iterable[Counts]) -> np.ndarray | None:
    """(N,) bool: which pairs keep their own target, those of the highest mean log-probability a token, of equals the
    first; None where none is to. counts: of all shards."""
    if not job.config.raw_share:
        return None
    means = np.array([-np.inf if mean is None else mean for shard in counts for mean in shard.raw])
    number = min(round(job.config.raw_share * len(means)), int(np.isfinite(means).sum()))
    keep = np.zeros(len(means), dtype=bool)
    keep[np.argsort(-means, kind="stable")[:number]] = True
    return keep


def selected(lines: Iterable[Line], keep: np.ndarray | None) -> Iterator[Line]:
    """The lines of pairs, from the first, without those of what was not chosen. keep: see `raw_pairs`."""
    choices, is_raw = iter(() if keep is None else keep.tolist()), False
    for line in lines:
        if RAW in line:
            is_raw = next(choices)
            if is_raw:
                yield line | {RAW: True}
        elif not is_raw:
            yield line
