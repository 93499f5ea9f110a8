"""nat-decode of a text too large to hold: in shards of lines, by several ranks, gone on with after a kill.

OUTPUT.parts/   while it is at work: job.json, what is translated and how; index.json, where each shard begins in the
                text; parts/, the shards. Removed at the end
OUTPUT, OUTPUT.json   as nat-decode writes them; of the report, what can be added up
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial, reduce
from itertools import islice
from operator import add
from pathlib import Path
from typing import Any

from nat.config import option, parse, to_plain
from nat.data.lines import Place, check_regular, file_digest, good, lines_or_errors
from nat.distill.shards import PARTS, Shards, claim
from nat.engines.opening import weights_digest
from nat.errors import DataError
from nat.evaluation.decode import DecodeConfig, opened
from nat.evaluation.inputs import Text
from nat.evaluation.results import provenance
from nat.evaluation.speed import Timed, translate_timed
from nat.evaluation.system import System
from nat.files import read_object, write_atomically, write_json
from nat.progress import Progress
from nat.runs.device import choose_device
from nat.runs.lock import FolderLock
from nat.training.distributed import Ranks

INDEX = "index.json"


@dataclass(frozen=True)
class LargeText:
    """A file of `num_lines` lines. begins: of each shard, the place of its first line."""

    path: str
    num_lines: int
    begins: list[Place]

    @classmethod
    def read(cls, path: str, size: int, system: System) -> LargeText:
        """Shards of `size` lines. Raises DataError, naming the line, for what cannot be read, or is too long to be
        translated."""
        check_regular(path)
        place, begins = Place(), [Place()]
        lines = map(good, lines_or_errors(path, place))
        with Progress("read", total=None, unit="lines") as progress:
            while chunk := list(islice(lines, size)):
                numbers = range(begins[-1].number + 1, place.number + 1)
                system.encode(Text(path, chunk, None, lines=list(numbers)))
                begins.append(replace(place))
                progress.advance(len(chunk))
        if not place.number:
            raise DataError(f"{path}: there is no line in it")
        return cls(path, place.number, begins[:-1])

    def lines(self, shard: int, number: int) -> list[str]:
        """The first `number` lines of a shard."""
        return list(islice(map(good, lines_or_errors(self.path, replace(self.begins[shard]))), number))


@dataclass(frozen=True)
class ShardCounts:
    """Of the translations of a shard, or of several, whose counts are added. passes: decoder calls of all sentences
    that are not empty. seconds: of all ranks together."""

    num_sentences: int = option()
    num_empty: int = option()
    num_empty_translations: int = option()
    num_truncated: int = option()
    passes: int = option()
    seconds: float = option()

    @classmethod
    def of(cls, timed: Timed) -> ShardCounts:
        filled = [item for item in timed.candidates if item.filled]
        return cls(
            num_sentences=len(timed.candidates),
            num_empty=len(timed.candidates) - len(filled),
            num_empty_translations=sum(not item.best for item in filled),
            num_truncated=sum(item.truncated for item in filled),
            passes=sum(item.passes for item in filled),
            seconds=timed.seconds,
        )

    def __add__(self, other: ShardCounts) -> ShardCounts:
        return ShardCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class LargeJob:
    """What is to be translated, by what, and where the shards lie."""

    system: System
    text: LargeText
    shards: Shards


def decode_large(config: DecodeConfig) -> dict[str, Any]:
    """Translate config.source in shards, or what is still missing of it. Returns the report; {} on other ranks than the
    main one. Raises ConfigError or DataError before any translation where an option or a file is unusable."""
    config.prepare()
    ranks = Ranks.from_environment(choose_device(config.device.value))
    folder = Path(f"{config.output}.parts")
    lock = FolderLock(folder, f"output={config.output}")
    try:
        job = ranks.main_first(lambda: prepare(config, folder, lock if ranks.is_main else None))
        job.shards.work(partial(translate_shard, job), ranks, "translate")
        if not ranks.is_main:
            return {}
        lock.check()
        report = join(config, job, ranks)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
        return report
    finally:
        lock.release()
        if ranks.is_main:
            with suppress(OSError):  # stays where anything was begun
                folder.rmdir()
        ranks.close()


def prepare(config: DecodeConfig, folder: Path, lock: FolderLock | None) -> LargeJob:
    """lock: of `folder`, on the main rank, which reads the text through once and writes the index."""
    assert config.source is not None and config.shard_size is not None
    system = opened(config)
    if lock is not None:
        lock.acquire()
        is_new = not (folder / INDEX).is_file()
        begun = LargeText.read(config.source, config.shard_size, system) if is_new else None
        claim(folder, identity(config, system), kind="a translation", option=f"output={folder}")
        if begun is not None:
            write_json(folder / INDEX, {"num_lines": begun.num_lines, "begins": list(map(asdict, begun.begins))})
    index = read_object(folder / INDEX)
    text = LargeText(config.source, index["num_lines"], [Place(**place) for place in index["begins"]])
    return LargeJob(system, text, Shards(folder / PARTS, text.num_lines, config.shard_size, suffix=".txt"))


def identity(config: DecodeConfig, system: System) -> dict[str, Any]:
    """All that the translations depend on."""
    assert config.source is not None
    return {
        "weights_sha256": weights_digest(system.translator.folder),
        "other_weights_sha256": None if config.weights is None else file_digest(config.weights),
        "tokenizer": system.translator.tokenizers.fingerprint,
        "source_sha256": file_digest(config.source),
        "decoding": to_plain(system.decoding),
        "precision": system.translator.computed_in,
        **({} if config.target is None else {"target": config.target}),
        "choice": system.choice.value,
        "teacher_sha256": None if system.scorer is None else weights_digest(system.scorer.translator.folder),
        "shard_size": config.shard_size,
    }


def translate_shard(job: LargeJob, shard: int, progress: Progress) -> None:
    lines = job.text.lines(shard, len(job.shards.items(shard)))
    timed = translate_timed(job.system, lines, advance=progress.advance)
    text = "".join(f"{item.best}\n" for item in timed.candidates)
    job.shards.write(shard, text, to_plain(ShardCounts.of(timed)))


def join(config: DecodeConfig, job: LargeJob, ranks: Ranks) -> dict[str, Any]:
    """All shards as one file, then its report."""
    outputs = {name: output.path for name, output in config.outputs.items()}
    counts = reduce(add, (parse(ShardCounts, read_object(job.shards.about(n))) for n in range(len(job.shards))))
    write_atomically(outputs["output"], job.shards.copy)
    filled = counts.num_sentences - counts.num_empty
    report = {"text": job.text.path} | to_plain(counts) | {"passes": counts.passes / max(1, filled)}
    report |= {"num_shards": len(job.shards), "num_ranks": ranks.num_ranks} | provenance(job.system)
    write_json(outputs["report"], report)
    return report


def describe_large(report: dict[str, Any]) -> list[str]:
    """The report in a few lines, for people; [] where there is none."""
    if not report:
        return []
    return [
        f"{report['model']} {report['run_dir']} (weights: {report['weights']}), {report['text']}",
        f"sentences {report['num_sentences']}: empty {report['num_empty']}, at the length limit "
        f"{report['num_truncated']}; passes {report['passes']:.2f}; {report['num_shards']} shards, "
        f"{report['num_sentences'] / max(1e-9, report['seconds']):.1f} sentences/s of a rank",
    ]
