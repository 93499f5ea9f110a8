"""Sequence-level distillation: a corpus whose targets are the teacher's translations (Kim & Rush 2016,
https://arxiv.org/abs/1606.07947).

The corpus is cut into shards of consecutive pairs; a shard is decoded in batches sorted by length and written
whole or not at all, so a run that was killed goes on with the first missing shard, and the result does not
depend on kills or ranks. A rank takes the next shard when it is ready for one; the main rank joins them in corpus
order.

Of a row with several targets (data.target=de+fr+es) each pair gets the teacher's one translation, so that the corpus
keeps its size and the weight of each source, as in Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.1,
which distils the joined corpora of several languages; the column is then called de+fr+es, and is read as one.

OUTPUT/train.jsonl     one object a line: the source and target columns, score (log-probability), line, rank, and
                       fertilities where they are asked for: one number for each source token of the teacher's
                       tokenizer, whose sum is the number of the target's tokens; where decoding.allow_unknown=true lets
                       the teacher write an <unk>, which has no text, the translation is left out and counted
OUTPUT/manifest.json   teacher, decoding options, corpus, counts, scores, versions
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nat
from nat.config import to_plain
from nat.data.filters import is_blank
from nat.data.lines import file_digest
from nat.distill.fertilities import FertilitySource
from nat.distill.job import CORPUS, MANIFEST, DistillConfig, Job, Targets, prepare_job
from nat.distill.lines import UNKNOWN, aligned_lines, as_text, kept_lines, read_shard, shard_lines
from nat.errors import DataError
from nat.files import read_object, write_atomically, write_json, write_text
from nat.progress import Progress
from nat.runs.device import choose_device
from nat.runs.folder import run_summary
from nat.runs.lock import FolderLock
from nat.scoring.scores import corpus_bleu
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
        work(job, ranks)
        ranks.barrier()
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


def work(job: Job, ranks: Ranks) -> None:
    """The missing shards, each by the rank that is ready for it first. The main rank shows the progress of all."""
    missing = [shard for shard in range(job.num_shards) if not job.part(shard).is_file()]
    total, left = len(job.corpus), sum(len(job.indices(shard)) for shard in missing)
    ranks.barrier()  # all have looked before the first one writes
    name = "distil" if ranks.num_ranks == 1 else f"distil ({ranks.num_ranks} ranks)"
    with Progress(name, total=total, unit="sentences", start=total - left, silent=not ranks.is_main) as progress:
        others = 0
        for number in ranks.claims(len(missing)):
            indices = job.indices(missing[number])
            write_text(job.part(missing[number]), as_text(shard_lines(job, indices, progress)))
            before, others = others, ranks.done_by_others(len(indices))
            progress.advance(others - before)


def join(job: Job, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """All shards in corpus order as one file, then the manifest, whose presence says that all is done."""
    missing = [part for part in job.parts if not part.is_file()]
    if missing:
        raise DataError(f"{job.folder}/parts: {len(missing)} shards are missing; run the same command again")
    began = time.monotonic()
    write_atomically(job.folder / CORPUS, lambda out: write_lines(job, out))
    manifest = describe(job, seconds + time.monotonic() - began, ranks)
    write_json(job.folder / MANIFEST, manifest)
    shutil.rmtree(job.folder / "parts", ignore_errors=True)
    return manifest


def write_lines(job: Job, out: Path) -> None:
    """Raises DataError if no best translation is kept."""
    num_best = 0
    with open(out, "w", encoding="utf-8") as file:
        for lines in (aligned_lines if job.config.fertilities is FertilitySource.ALIGNER else kept_lines)(job):
            file.write(as_text(lines))
            num_best += sum(line["rank"] == 0 for line in lines)
    if not num_best:
        raise DataError(f"output={job.folder}: the teacher wrote <unk> in every translation, no line is left")


def describe(job: Job, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """The manifest: which teacher made this file, how, from what, and with what success."""
    lines = list(read_shard(job.folder / CORPUS))
    best = [line for line in lines if line["rank"] == 0]
    outputs = {line["line"]: line[job.data.target] for line in best}  # the same for all pairs of a source
    return {
        "teacher": str(job.teacher.folder),
        "teacher_run": run_summary(job.teacher.folder),
        "targets": job.config.targets.value,
        "engine": job.teacher.engine,
        "precision": job.teacher.computed_in,
        **job.identity,
        "fertilities": describe_fertilities(job, best),
        "data": to_plain(job.data),
        "pairs": job.corpus.report.to_plain(),
        "num_lines": len(lines),
        "num_empty": sum(is_blank(line[job.data.target]) for line in best),
        "num_truncated": sum("truncated" in line for line in best),
        "num_unknown": sum(UNKNOWN in line for part in job.parts for line in read_shard(part)),
        "mean_score": mean_score(best),
        **compare(job, outputs),
        "corpus_sha256": file_digest(job.folder / CORPUS),
        **to_plain(job.batches),
        "seconds_of_last_run": round(seconds, 1),
        "num_ranks": ranks.num_ranks,
        "device": str(job.teacher.device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(job),
    }


def mean_score(best: list[dict[str, Any]]) -> float | None:
    """None where the teacher says no scores, as an export of one graph."""
    scores = [line["score"] for line in best if line["score"] is not None]
    return float(np.mean(scores)) if scores else None


def describe_fertilities(job: Job, best: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How they were made, and what a student's fertility head will see; None where there are none."""
    if job.config.fertilities is None:
        return None
    numbers = np.concatenate([line["fertilities"] for line in best])
    shares = {"maximum": int(numbers.max()), "share_of_zeros": round(float((numbers == 0).mean()), 4)}
    return job.identity["fertilities"] | shares


def compare(job: Job, outputs: dict[int, str]) -> dict[str, Any]:
    """BLEU of the teacher's translations, by line of the corpus, against the corpus's own targets, all that a source
    has; null where the targets are these."""
    if job.config.targets is Targets.CORPUS:
        return {"bleu_against_original": None, "bleu_signature": None}
    numbers = job.corpus.lines.tolist()
    sentences = [sentence for sentence in job.corpus.sentences if numbers[sentence[0]] in outputs]
    _, references = job.corpus.references(sentences)
    once = [outputs[numbers[sentence[0]]] for sentence in sentences]
    bleu, signature = corpus_bleu(once, references)
    return {"bleu_against_original": bleu, "bleu_signature": signature}


def versions(job: Job) -> dict[str, str]:
    packages = {"nat": nat.__version__, "torch": torch.__version__}
    packages |= {job.teacher.package: version(job.teacher.package)}
    aligned = job.config.fertilities is FertilitySource.ALIGNER
    return packages | ({"sil-thot": version("sil-thot")} if aligned else {})
