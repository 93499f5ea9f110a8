"""What a manifest says of the lines: counted shard by shard by whoever makes the shard, and added at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from nat.config import option, parse
from nat.data.filters import is_blank
from nat.data.lines import read_json_lines
from nat.distill.job import Job, Targets
from nat.errors import ConfigError, DataError
from nat.files import read_object, to_json
from nat.scoring.scores import BleuCounts
from nat.scoring.tokenization import BleuTokenizer, Scripts

UNKNOWN = "unknown"  # marks a shard's line whose target holds an <unk>
RAW = "raw"  # marks one whose target is the corpus's own; in a shard, with its mean log-probability a token

Line = dict[str, Any]


@dataclass(frozen=True)
class FertilityCounts:
    """Of the numbers in a column of fertilities."""

    maximum: int = option(0)
    zeros: int = option(0)
    total: int = option(0)

    @classmethod
    def of(cls, lines: Sequence[Line]) -> FertilityCounts:
        """Of the best translations' numbers, where they have any."""
        rows = [line["fertilities"] for line in lines if line["rank"] == 0 and "fertilities" in line]
        numbers = np.concatenate([np.empty(0, dtype=np.int64), *rows])
        return cls(int(numbers.max(initial=0)), int((numbers == 0).sum()), len(numbers))

    def __add__(self, other: FertilityCounts) -> FertilityCounts:
        maximum = max(self.maximum, other.maximum)
        return FertilityCounts(maximum, self.zeros + other.zeros, self.total + other.total)


@dataclass(frozen=True)
class Counts:
    """Of the lines of a shard, or of several whose counts are added: all of one BLEU tokenizer.

    num_bytes: of the shard's file; all else is of the teacher's translations. num_lines, num_best, num_empty,
    num_truncated: lines that are kept; of each source the best; those without a word; those cut at the length limit.
    num_unknown: lines that are left out. scores: the sum of the num_scored scores of the best, in ten-thousandths, to
    which they are rounded, so that it is exact.
    scripts: of the original targets. bleu: against them, by `tokenizer`. raw: of a shard, not of several, the mean
    log-probabilities of a token of the corpus's own targets, where some are to stay, see `nat.distill.variants`.
    """

    num_bytes: int = option()
    num_lines: int = option()
    num_best: int = option()
    num_empty: int = option()
    num_truncated: int = option()
    num_unknown: int = option()
    scores: int = option()
    num_scored: int = option()
    fertilities: FertilityCounts = option()
    scripts: Scripts = option()
    bleu: BleuCounts = option()
    tokenizer: BleuTokenizer = option()
    raw: list[float | None] = option()

    def __add__(self, other: Counts) -> Counts:
        assert self.tokenizer is other.tokenizer
        numbers = [f.name for f in fields(self) if f.name not in ("tokenizer", "raw")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return Counts(**sums, tokenizer=self.tokenizer, raw=[])

    @property
    def mean_score(self) -> float | None:
        """None where the teacher says no scores, as an export of one graph."""
        return self.scores / (1e4 * self.num_scored) if self.num_scored else None


def count(job: Job, shard: int, lines: Sequence[Line], text: str, tokenizer: BleuTokenizer | None = None) -> Counts:
    """Of a shard's lines, which as a file are `text`. tokenizer: None: the one that its own targets need."""
    raw = [line[RAW] for line in lines if RAW in line]
    lines = [line for line in lines if RAW not in line]
    kept = [line for line in lines if UNKNOWN not in line]
    best = [line for line in kept if line["rank"] == 0]
    outputs, references = compared(job, job.shards.items(shard), best)
    scripts = Scripts.of(references)
    tokenizer = tokenizer or scripts.tokenizer
    scores = [line["score"] for line in best if line["score"] is not None and math.isfinite(line["score"])]
    return Counts(
        num_bytes=len(text.encode()),
        num_lines=len(kept),
        num_best=len(best),
        num_empty=sum(is_blank(line[job.data.target]) for line in best),
        num_truncated=sum("truncated" in line for line in kept),
        num_unknown=len(lines) - len(kept),
        scores=sum(round(score * 1e4) for score in scores),
        num_scored=len(scores),
        fertilities=FertilityCounts.of(kept),
        scripts=scripts,
        bleu=BleuCounts.of(outputs, references, tokenizer, silent=True),
        tokenizer=tokenizer,
        raw=raw,
    )


def compared(job: Job, items: range, best: Iterable[Line]) -> tuple[list[str], list[str]]:
    """The translations of the sources whose pairs begin among `items`, and of each all targets that the corpus has for
    it; nothing where the targets are these."""
    if job.config.targets is Targets.CORPUS:
        return [], []
    source, target = job.data.source, job.data.target
    outputs = {(line["line"], line[source]): line[target] for line in best}  # the same for all pairs of a source
    sentences = job.corpus.sentences_of(items)
    sources, references = job.corpus.references(sentences)
    keys = zip(job.corpus.lines[[pairs[0] for pairs in sentences]].tolist(), sources, strict=True)
    known = [(outputs[key], reference) for key, reference in zip(keys, references, strict=True) if key in outputs]
    return [output for output, _ in known], [reference for _, reference in known]


def counts_of_shards(job: Job) -> list[Counts]:
    """Of every shard, all of the BLEU tokenizer that the original targets need. Raises DataError where a shard is
    damaged."""
    found = [counts_of(job, shard) for shard in range(len(job.shards))]
    tokenizer = reduce(add, (counts.scripts for counts in found)).tokenizer
    return [
        counts if counts.tokenizer is tokenizer else recount(job, shard, tokenizer)
        for shard, counts in enumerate(found)
    ]


def counts_of(job: Job, shard: int) -> Counts:
    """As they were written beside the shard, else (by an earlier nat, or of other bytes) counted now."""
    try:
        counts = parse(Counts, read_object(job.shards.about(shard)))
    except (ConfigError, DataError):
        return recount(job, shard)
    return counts if counts.num_bytes == job.shards.path(shard).stat().st_size else recount(job, shard)


def recount(job: Job, shard: int, tokenizer: BleuTokenizer | None = None) -> Counts:
    """Raises DataError where the shard is damaged."""
    lines = [line for _, line in read_json_lines(job.shards.path(shard))]
    return count(job, shard, lines, as_text(lines), tokenizer)


def as_text(lines: Iterable[Line]) -> str:
    return "".join(to_json(line) + "\n" for line in lines)
