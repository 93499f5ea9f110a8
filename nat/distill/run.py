"""Sequence-level distillation: a corpus whose targets are the teacher's translations (Kim & Rush 2016,
https://arxiv.org/abs/1606.07947).

The corpus is cut into shards of consecutive pairs; a shard is decoded in batches sorted by length and written
whole or not at all, so a run that was killed goes on with the first missing shard, and the result does not
depend on kills or ranks. A rank takes the next shard when it is ready for one, and counts what the manifest says of
it; the main rank joins them in corpus order and adds the counts, in memory for a few lines, however many there are.
Only the aligner holds the tokens of all pairs.

Of a row with several targets (data.target=de+fr+es) each pair gets the teacher's one translation, so that the corpus
keeps its size and the weight of each source, as in Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.1,
which distils the joined corpora of several languages; the column is then called de+fr+es, and is read as one.

OUTPUT/train.jsonl     one object a line: the source and target columns, score (log-probability), line, rank, and
                       fertilities where they are asked for: one number for each source token of the teacher's
                       tokenizer, whose sum is the number of the target's tokens; weight and raw where they are asked
                       for, see `nat.distill.variants`; where decoding.allow_unknown=true lets
                       the teacher write an <unk>, which has no text, the translation is left out and counted
OUTPUT/manifest.json   teacher, decoding options, corpus, counts, scores, versions
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial, reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nat
from nat.config import to_plain
from nat.distill.counts import Counts, FertilityCounts, Line, as_text, count, counts_of_shards
from nat.distill.fertilities import FertilitySource
from nat.distill.job import CORPUS, MANIFEST, DistillConfig, Job, Targets, prepare_job
from nat.distill.lines import aligned_lines, kept_lines, shard_lines
from nat.distill.variants import raw_pairs
from nat.errors import DataError
from nat.files import read_object, write_atomically, write_json
from nat.progress import Progress
from nat.runs.device import choose_device
from nat.runs.folder import run_summary
from nat.runs.lock import FolderLock
from nat.training.distributed import Ranks


def distill(config: DistillConfig) -> dict[str, Any]:
    """Translate the corpus, or what is still missing of it. Returns the manifest.

    Raises ConfigError or DataError before any work where an option or a file is unusable, or where another command
    writes into the folder.
    """
    config.use_threads()
    ranks = Ranks.from_environment(choose_device(config.device.value))
    lock = FolderLock(Path(config.output), f"output={config.output}")
    try:
        job = ranks.main_first(lambda: prepare_job(config, lock if ranks.is_main else None))
        if (job.folder / MANIFEST).is_file():
            return read_object(job.folder / MANIFEST)
        began = time.monotonic()
        job.shards.work(partial(make_shard, job), ranks, "distil")
        if not ranks.is_main:
            return {}
        lock.check()
        return join(job, time.monotonic() - began, ranks)
    finally:
        lock.release()
        ranks.close()


def outcome(manifest: dict[str, Any], folder: str) -> str:
    """The main numbers of the manifest in `folder`, for people. Raises DataError where they are not in it."""
    try:
        bleu, score = manifest["bleu_against_original"], manifest["mean_score"]
        return (
            f"{manifest['num_lines']} lines, {manifest['num_truncated']} cut at the length limit, "
            f"{manifest['num_empty']} empty, {manifest['num_unknown']} left out for an <unk>, "
            f"mean score {'-' if score is None else f'{score:.3f}'}"
            + ("" if bleu is None else f", BLEU against the original targets {bleu:.2f}")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}/{MANIFEST}: damaged, or of another version of nat ({error})") from None


def make_shard(job: Job, shard: int, progress: Progress) -> None:
    items = job.shards.items(shard)
    lines = shard_lines(job, np.arange(items.start, items.stop), progress)
    text = as_text(lines)
    job.shards.write(shard, text, to_plain(count(job, shard, lines, text)))


def join(job: Job, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """All shards in corpus order as one file, then the manifest, whose presence says that all is done."""
    if job.shards.missing:
        raise DataError(
            f"{job.shards.folder}: {len(job.shards.missing)} shards are missing; run the same command again"
        )
    began = time.monotonic()
    counts = counts_of_shards(job)
    if not any(shard.num_best for shard in counts):
        raise DataError(f"output={job.folder}: the teacher wrote <unk> in every translation, no line is left")
    corpus = JoinedCorpus(job, counts)
    write_atomically(job.folder / CORPUS, corpus.write)
    manifest = describe(job, reduce(add, counts), corpus, seconds + time.monotonic() - began, ranks)
    write_json(job.folder / MANIFEST, manifest)
    shutil.rmtree(job.shards.folder, ignore_errors=True)
    return manifest


class JoinedCorpus:
    """The lines of all shards that are kept, written one after the other: no more than a few are in memory. With an
    aligner, which must have seen them all, their fertilities are written now."""

    def __init__(self, job: Job, counts: Sequence[Counts]) -> None:
        self.job, self.counts = job, counts
        self.sha256 = hashlib.sha256()
        self.fertilities = FertilityCounts()
        self.raw = raw_pairs(job, counts)
        self.num_lines = sum(shard.num_lines for shard in counts)

    def write(self, out: Path) -> None:
        if self.job.config.fertilities is FertilitySource.ALIGNER:
            pieces = self._remade(aligned_lines(self.job, raw=self.raw))
        elif self.raw is not None:
            pieces = self._remade(kept_lines(self.job, raw=self.raw))
        else:
            pieces = self._pieces()
        with open(out, "wb") as file:
            for piece in pieces:
                file.write(piece)
                self.sha256.update(piece)

    def _pieces(self) -> Iterator[bytes]:
        with Progress("join", total=len(self.job.corpus), unit="sentences") as progress:
            for shard, counts in enumerate(self.counts):
                self.fertilities += counts.fertilities
                if counts.num_unknown:
                    yield from (as_text(lines).encode() for lines in kept_lines(self.job, [shard]))
                else:
                    yield from self.job.shards.pieces(shard)
                progress.advance(len(self.job.shards.items(shard)))

    def _remade(self, chunks: Iterator[list[Line]]) -> Iterator[bytes]:
        self.num_lines = 0
        for lines in chunks:
            self.fertilities += FertilityCounts.of(lines)
            self.num_lines += len(lines)
            yield as_text(lines).encode()


def describe(job: Job, counts: Counts, corpus: JoinedCorpus, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """The manifest: which teacher made this file, how, from what, and with what success."""
    return {
        "teacher": str(job.teacher.folder),
        "teacher_run": run_summary(job.teacher.folder),
        "targets": job.config.targets.value,
        "drafter": None if job.teacher.drafter is None else str(job.teacher.drafter.folder),
        "scorer": None if job.scorer is None else str(job.scorer.folder),
        "engine": job.teacher.engine,
        "precision": job.teacher.computed_in,
        **job.identity,
        "fertilities": describe_fertilities(job, corpus.fertilities),
        "data": to_plain(job.data),
        "pairs": job.corpus.report.to_plain(),
        "num_lines": corpus.num_lines,
        "num_raw": 0 if corpus.raw is None else int(corpus.raw.sum()),
        "num_empty": counts.num_empty,
        "num_truncated": counts.num_truncated,
        "num_unknown": counts.num_unknown,
        "mean_score": counts.mean_score,
        **compare(job, counts),
        "corpus_sha256": corpus.sha256.hexdigest(),
        **to_plain(job.batches),
        "seconds_of_last_run": round(seconds, 1),
        "num_ranks": ranks.num_ranks,
        "device": str(job.teacher.device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(job),
    }


def describe_fertilities(job: Job, counts: FertilityCounts) -> dict[str, Any] | None:
    """How they were made, and what a student's fertility head will see; None where there are none."""
    if job.config.fertilities is None:
        return None
    share = counts.zeros / max(1, counts.total)
    return job.identity["fertilities"] | {"maximum": counts.maximum, "share_of_zeros": round(share, 4)}


def compare(job: Job, counts: Counts) -> dict[str, Any]:
    """BLEU of the teacher's translations against the corpus's own targets, all that a source has; null where the
    targets are these."""
    if job.config.targets is Targets.CORPUS:
        return {"bleu_against_original": None, "bleu_signature": None}
    bleu, signature = counts.bleu.bleu(counts.tokenizer)
    return {"bleu_against_original": bleu, "bleu_signature": signature}


def versions(job: Job) -> dict[str, str]:
    packages = {"nat": nat.__version__, "torch": torch.__version__}
    packages |= {job.teacher.package: version(job.teacher.package)}
    aligned = job.config.fertilities is FertilitySource.ALIGNER
    return packages | ({"sil-thot": version("sil-thot")} if aligned else {})
