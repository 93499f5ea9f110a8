"""Sequence-level distillation: a corpus whose targets are the teacher's translations (Kim & Rush 2016,
https://arxiv.org/abs/1606.07947).

The corpus is cut into shards of consecutive pairs; a shard is decoded in batches sorted by length and written
whole or not at all, so a run that was killed goes on with the first missing shard, and the result does not
depend on kills or ranks. Ranks take turns at the shards; the main rank joins them in corpus order.

OUTPUT/train.jsonl     one object a line: the source and target columns, score (log-probability), line, rank
OUTPUT/manifest.json   teacher, decoding options, corpus, counts, scores, versions
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU

import nat
from nat.config import option, parse, to_plain
from nat.data.corpus import DataConfig
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.decoding.batched import decode_in_batches
from nat.errors import ConfigError, DataError
from nat.files import read_json, write_atomically, write_json, write_text
from nat.models.base import DecodingOptions
from nat.progress import Progress
from nat.training.checkpoint import WEIGHTS
from nat.training.distributed import Ranks, choose_device
from nat.translator import Translator, load

CORPUS, MANIFEST, JOB = "train.jsonl", "manifest.json", "job.json"


@dataclass(frozen=True)
class DistillConfig:
    """Everything that `configs/distill.yaml` holds."""

    teacher: str = option(help="run folder of the teacher")
    output: str = option(help="folder of the distilled corpus; the same command with the same folder resumes")
    data: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "the corpus; options that are not given are those of the teacher's run"}
    )
    split: str = option("train", "split whose sources are translated: train, valid or test")
    decoding: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "batch_size, and the decoding options of the teacher's method"}
    )
    shard_size: int = option(1024, "pairs in a shard: what a kill can cost each rank", minimum=1)
    device: str = option("auto", "auto (a GPU if there is one), cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1)


@dataclass(frozen=True)
class Job:
    """What is to be done, checked and loaded."""

    teacher: Translator
    data: DataConfig
    corpus: TokenizedCorpus
    decoding: DecodingOptions
    batch_size: int
    shard_size: int
    folder: Path
    identity: dict[str, Any]

    @property
    def num_shards(self) -> int:
        return -(-len(self.corpus) // self.shard_size)

    def indices(self, shard: int) -> np.ndarray:
        return np.arange(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.corpus)))

    def part(self, shard: int) -> Path:
        return self.folder / "parts" / f"shard-{shard:06d}.jsonl"


def distill(config: DistillConfig) -> dict[str, Any]:
    """Translate the corpus, or what is still missing of it. Returns the manifest.

    Raises ConfigError or DataError before any work where an option or a file is unusable.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    ranks = Ranks.from_environment(choose_device(config.device))
    try:
        job = ranks.main_first(lambda: prepare_job(config, ranks))
        if (job.folder / MANIFEST).is_file():
            manifest: dict[str, Any] = read_json(job.folder / MANIFEST)
            return manifest
        began = time.monotonic()
        work(job, ranks)
        ranks.barrier()
        if ranks.is_main:
            manifest = join(job, time.monotonic() - began, ranks)
        ranks.barrier()
        return manifest if ranks.is_main else {}
    finally:
        ranks.close()


def prepare_job(config: DistillConfig, ranks: Ranks) -> Job:
    """Load the teacher and the corpus; make sure that `output` is new or holds this same work."""
    teacher = load(config.teacher, device=config.device)
    options = dict(config.decoding)
    batch_size = parse(int, options.pop("batch_size", 64), "decoding.batch_size")
    if batch_size < 1:
        raise ConfigError(f"decoding.batch_size={batch_size}: must be at least 1")
    decoding = teacher.decoding(options)
    data = parse(DataConfig, {**teacher.config["data"], **config.data}, "data")
    if config.split not in ("train", "valid", "test"):
        raise ConfigError(f"split={config.split}: allowed are train, valid, test")
    if getattr(data, config.split) is None:
        raise ConfigError(f"data.{config.split}: a location is needed, for example a .tsv file")
    data = dataclasses.replace(data, streaming=False)
    corpus = prepare(data, config.split, teacher.tokenizers, filtered=config.split == "train")
    assert isinstance(corpus, TokenizedCorpus)
    identity = {
        "teacher_weights_sha256": file_digest(Path(config.teacher) / WEIGHTS),
        "tokenizer": teacher.tokenizers.fingerprint,
        "corpus": corpus.fingerprint,
        "split": config.split,
        "decoding": to_plain(decoding),
        "shard_size": config.shard_size,
    }
    job = Job(teacher, data, corpus, decoding, batch_size, config.shard_size, Path(config.output), identity)
    if ranks.is_main:
        claim(job.folder, identity)
    return job


def claim(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this work's. Raises ConfigError if it holds other work, DataError if it cannot be
    written to."""
    if (folder / JOB).is_file():
        found = read_json(folder / JOB)
        differing = [key for key in identity if found.get(key) != identity[key]]
        if differing:
            raise ConfigError(
                f"output={folder}: holds a distillation with other {', '.join(differing)}; "
                "choose another output, or delete it"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"output={folder}: is not empty and holds no distillation; choose another output")
    else:
        write_json(folder / JOB, identity)


def work(job: Job, ranks: Ranks) -> None:
    """This rank's missing shards."""
    mine = range(ranks.rank, job.num_shards, ranks.num_ranks)
    missing = [shard for shard in mine if not job.part(shard).is_file()]
    total = sum(len(job.indices(shard)) for shard in mine)
    left = sum(len(job.indices(shard)) for shard in missing)
    name = "distil" if ranks.num_ranks == 1 else f"distil (rank {ranks.rank} of {ranks.num_ranks})"
    with Progress(name, total=total, unit="sentences", start=total - left) as progress:
        for shard in missing:
            lines = translate_shard(job, job.indices(shard), progress)
            write_text(job.part(shard), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def translate_shard(job: Job, indices: np.ndarray, progress: Progress) -> list[dict[str, Any]]:
    """The shard's lines, in corpus order."""
    teacher = job.teacher
    pairs = job.corpus.pairs(indices)
    sources, _ = job.corpus.texts(indices)
    results: list[list[dict[str, Any]]] = [[] for _ in pairs]
    rows = [pair.source for pair in pairs]
    for chosen, found in decode_in_batches(
        teacher.model, rows, decoding=job.decoding, batch_size=job.batch_size, device=teacher.device
    ):
        for i, decoded in zip(chosen, found, strict=True):
            texts = teacher.tokenizers.target.decode(decoded.tokens)
            for rank, (text, score) in enumerate(zip(texts, decoded.scores, strict=True)):
                line = {job.data.source: sources[i], job.data.target: text, "score": round(score, 4)}
                line |= {"line": int(job.corpus.lines[indices[i]]), "rank": rank}
                results[i].append(line | ({"truncated": True} if decoded.truncated and rank == 0 else {}))
        progress.advance(len(chosen))
    return [line for result in results for line in result]


def join(job: Job, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """All shards in corpus order as one file, then the manifest, whose presence says that all is done."""

    def copy(part: Path) -> None:
        with open(part, "wb") as out:
            for shard in range(job.num_shards):
                with open(job.part(shard), "rb") as shard_file:
                    shutil.copyfileobj(shard_file, out)

    missing = [shard for shard in range(job.num_shards) if not job.part(shard).is_file()]
    if missing:
        raise DataError(f"{job.folder}/parts: {len(missing)} shards are missing; run the same command again")
    write_atomically(job.folder / CORPUS, copy)
    manifest = describe(job, seconds, ranks)
    write_json(job.folder / MANIFEST, manifest)
    shutil.rmtree(job.folder / "parts", ignore_errors=True)
    return manifest


def describe(job: Job, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """The manifest: which teacher made this file, how, from what, and with what success."""
    best = [line for line in read_lines(job.folder / CORPUS) if line["rank"] == 0]
    outputs = [line[job.data.target] for line in best]
    _, references = job.corpus.texts(np.arange(len(job.corpus)))
    metric = BLEU()
    bleu = metric.corpus_score(outputs, [references]).score
    return {
        "teacher": str(job.teacher.folder),
        "teacher_run": read_json(job.teacher.folder / "run.json"),
        **job.identity,
        "data": to_plain(job.data),
        "pairs": job.corpus.report.to_plain(),
        "num_lines": len(best) * job.decoding.num_candidates,
        "num_empty": sum(not text.strip() for text in outputs),
        "num_truncated": sum("truncated" in line for line in best),
        "mean_score": float(np.mean([line["score"] for line in best])),
        "bleu_against_original": bleu,
        "bleu_signature": str(metric.get_signature()),
        "corpus_sha256": file_digest(job.folder / CORPUS),
        "batch_size": job.batch_size,
        "seconds_of_last_run": round(seconds, 1),
        "num_ranks": ranks.num_ranks,
        "device": str(job.teacher.device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"nat": nat.__version__, "torch": torch.__version__},
    }


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
