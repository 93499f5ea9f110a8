"""nat-decode's work: text in, translations and a report out.

OUTPUT         one translation a line, in input order; an empty line for an empty line
OUTPUT.json    scores with their signatures, speed, counts, and what made them
JSONL, NBEST   the same with scores and all candidates
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.config import option, parse, to_plain
from nat.data.corpus import DataConfig
from nat.data.readers import read_lines
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizers
from nat.decoding.batched import Decoded
from nat.errors import ConfigError, DataError
from nat.evaluation.scores import Scores, score_corpus, unknown_rate
from nat.evaluation.speed import Speed, Timed, device_name, spread, time_alone, translate_timed
from nat.models.base import DecodingOptions
from nat.progress import Progress
from nat.training.checkpoint import read_json, write_json, write_text
from nat.translator import Translator, load

STANDARD_INPUT = "-"
LONGER_WORDS = 5  # scores on sources of so many words and more stand beside the whole: short lines flatter
TEACHER_BATCHES = 16  # batches whose pairs are sorted by length together


class Split(Enum):
    TEST = "test"
    VALID = "valid"
    TRAIN = "train"


class Device(Enum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class DecodeConfig:
    """Everything that `configs/decode.yaml` holds."""

    run_dir: str = option(help="run folder of the model")
    weights: str | None = option(None, "other weights of that run, a .safetensors file")
    split: Split | None = option(None, "what is translated: test, valid or train")
    source: str | None = option(None, "or a text file, one sentence a line; - is standard input")
    reference: str | None = option(None, "its translations, line by line")
    output: str | None = option(None, "file of translations; null: standard output")
    jsonl: str | None = option(None, "file of one JSON object a line")
    nbest: str | None = option(None, "file of all candidates")
    teacher: str | None = option(None, "run folder whose model scores the translations")
    ter: bool = option(False, "translation edit rate too")
    speed: bool = option(True, "measure speed")
    speed_sentences: int = option(100, "sentences timed alone, at most", minimum=1)
    device: Device = option(Device.AUTO, "auto, cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1)
    data: dict[str, Any] = field(default_factory=dict, metadata={"help": "options over those of the run's corpus"})
    decoding: dict[str, Any] = field(default_factory=dict, metadata={"help": "batch_size and the method's options"})

    def __post_init__(self) -> None:
        if self.source is not None and self.split is not None:
            raise ConfigError(f"source={self.source}: has no place beside split={self.split.value}, choose one")
        if self.source is not None and self.data:
            raise ConfigError(f"data.{next(iter(self.data))}: has no effect with source={self.source}")
        if self.source is None and self.reference is not None:
            raise ConfigError(f"reference={self.reference}: needs source=FILE (a split has its own references)")
        if self.ter and self.source is not None and self.reference is None:
            raise ConfigError("ter=true: needs reference=FILE")

    @property
    def outputs(self) -> dict[str, Path]:
        """The files that will be written, by the option that names them."""
        named = {name: getattr(self, name) for name in ("output", "jsonl", "nbest")}
        paths = {name: Path(value) for name, value in named.items() if value is not None}
        return paths | ({"report": Path(f"{self.output}.json")} if self.output is not None else {})


@dataclass(frozen=True)
class Text:
    """What is translated. lines: line numbers in the split's file. dropped: what the split's filters left out, as
    `DropReport.to_plain` gives it. Both are None for a file, which is taken as it is."""

    name: str
    sources: list[str]
    references: list[str] | None
    lines: list[int] | None = None
    dropped: dict[str, Any] | None = None


@dataclass(frozen=True)
class Translations:
    """decoded, texts: the candidates of each sentence, in the decoder's order. chosen: the candidate that is the
    translation. filled: False where the source is empty. teacher_scores: of every candidate (natural logarithm,
    None where the teacher gives none). seconds: what all took together."""

    decoded: list[Decoded]
    texts: list[list[str]]
    chosen: list[int]
    filled: list[bool]
    seconds: float
    teacher_scores: list[list[float | None]] | None = None

    @property
    def best(self) -> list[str]:
        return [texts[k] for texts, k in zip(self.texts, self.chosen, strict=True)]


def decode(config: DecodeConfig) -> tuple[list[str], dict[str, Any]]:
    """Translate, score, measure, write. Returns the translations and the report.

    Raises ConfigError or DataError before any translation where an option or a file is unusable.
    """
    check_outputs(config.outputs, inputs=(config.source, config.reference))
    translator = open_run(config.run_dir, device=config.device, weights=config.weights, num_threads=config.num_threads)
    decoding, batch_size = decoding_options(translator, config.decoding)
    text = read_text(config, translator)
    teacher = open_teacher(config, text)
    translated = translate(translator, text.sources, decoding=decoding, batch_size=batch_size)
    if teacher is not None:
        translated = rescore(teacher, text.sources, translated, batch_size=batch_size)
    report = quality(text, translated, ter=config.ter)
    if teacher is not None:
        report |= {"teacher": config.teacher} | teacher_report(translated, choice=decoding.num_best > 1)
    speed = measure(translator, text, translated, decoding, batch_size, config) if config.speed else None
    report |= speed_report(speed) | provenance(translator, decoding, batch_size, weights=config.weights)
    write_outputs(config.outputs, text, translated, report)
    return translated.best, report


# --- before the work -------------------------------------------------------------------------------


def check_outputs(paths: Mapping[str, Path], *, inputs: Iterable[str | None] = ()) -> None:
    """The files can be written, differ, and are none of the inputs. Raises ConfigError or DataError."""
    taken = {Path(path).resolve(): "an input" for path in inputs if path is not None}
    for name, path in paths.items():
        if path.resolve() in taken:
            raise ConfigError(f"{name}={path}: this is {taken[path.resolve()]}, choose another file")
        taken[path.resolve()] = f"the {name} file"
        if path.exists() and not path.is_file():
            raise DataError(f"{name}={path}: cannot be written (it is no ordinary file)")
        check_folder(name, path)


def check_folder(name: str, path: Path) -> None:
    """The folder of `path` can be made or written to. Raises DataError."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "is no folder" if not folder.is_dir() else "may not be written to"
        raise DataError(f"{name}={path}: cannot be written ({folder} {why})")


def open_run(
    run_dir: str, *, device: Device, weights: str | None = None, num_threads: int | None = None
) -> Translator:
    """A run's translator. Raises ConfigError where there is no GPU to use, DataError where the run is damaged."""
    if num_threads:
        torch.set_num_threads(num_threads)
    if device is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU here; use cpu or auto")
    translator = load(run_dir, device=device.value, weights=weights)
    run_summary(translator)  # damaged? better known now than after an hour
    return translator


def run_summary(translator: Translator) -> dict[str, Any]:
    """run.json; {} where there is none, as for weights given by hand. Raises DataError if it is damaged."""
    path = translator.folder / "run.json"
    summary = read_json(path) if path.exists() else {}
    if not isinstance(summary, dict):
        raise DataError(f"{path}: damaged or unreadable (it is not a JSON object)")
    return summary


def decoding_options(translator: Translator, given: Mapping[str, Any]) -> tuple[DecodingOptions, int]:
    """The method's options, and batch_size, which is the command's. Raises ConfigError by name."""
    options = dict(given)
    batch_size = parse(int, options.pop("batch_size", 64), "decoding.batch_size")
    if batch_size < 1:
        raise ConfigError(f"decoding.batch_size={batch_size}: must be at least 1")
    return translator.decoding(options), batch_size


def read_text(config: DecodeConfig, translator: Translator) -> Text:
    """The sentences that the options name. Raises ConfigError or DataError."""
    if config.source is not None:
        return read_files(config.source, config.reference)
    return read_split(translator, config.split or Split.TEST, config.data)


def read_files(source: str, reference: str | None) -> Text:
    """Raises DataError: no such file, bad UTF-8 with its line, other numbers of lines."""
    sources = read_standard_input() if source == STANDARD_INPUT else list(read_lines(source))
    name = "standard input" if source == STANDARD_INPUT else source
    references = None if reference is None else list(read_lines(reference))
    if references is not None and len(references) != len(sources):
        raise DataError(
            f"{name} has {len(sources)} lines but {reference} has {len(references)}: "
            "source and reference need equally many"
        )
    return Text(name, sources, references)


def read_standard_input() -> list[str]:
    """Raises DataError naming the line that is not UTF-8."""
    lines = []
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            lines.append(raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"standard input line {number}: not UTF-8 (byte 0x{raw[error.start]:02x})") from None
    return lines


def read_split(translator: Translator, split: Split, changes: Mapping[str, Any]) -> Text:
    """A split of the run's own corpus, with `changes` of its data options except the tokenizer, which is the
    run's. Raises ConfigError or DataError."""
    stored = translator.config.get("data")
    if not isinstance(stored, Mapping):
        raise DataError(f"{translator.folder}/config.yaml: has no data options; give source=FILE")
    wanted = {key: value for key, value in changes.items() if key != "tokenizer"}
    data = dataclasses.replace(parse(DataConfig, merge(stored, wanted), "data"), streaming=False)
    corpus = prepare(data, split.value, translator.tokenizers, filtered=split is Split.TRAIN)
    assert isinstance(corpus, TokenizedCorpus)
    sources, references = corpus.texts(np.arange(len(corpus)))
    return Text(f"split {split.value}", sources, references, corpus.lines.tolist(), corpus.report.to_plain())


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mappings within mappings too."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[key] = merge(before, value) if both else value  # type: ignore[arg-type]
    return merged


def open_teacher(config: DecodeConfig, text: Text) -> Translator | None:
    """The teacher, tried on one sentence. Raises ConfigError if its method cannot score."""
    if config.teacher is None:
        return None
    teacher = open_run(config.teacher, device=config.device)
    try:
        teacher.score(*[next(([s] for s in text.sources if teacher.tokenizers.source.encode([s])[0]), [])] * 2)
    except ConfigError as error:
        raise ConfigError(f"teacher={config.teacher}: {error}") from None
    return teacher


# --- the work --------------------------------------------------------------------------------------


def translate(
    translator: Translator, sources: Sequence[str], *, decoding: DecodingOptions, batch_size: int, name: str = "translate"
) -> Translations:
    """All sentences, timed; candidates that a search did not find (log-probability -inf) are left out."""
    filled = [bool(row) for row in translator.tokenizers.source.encode(list(sources))]
    with Progress(name, total=len(sources), unit="sentences") as progress:
        timed = translate_timed(
            translator, sources, decoding=decoding, batch_size=batch_size, advance=progress.advance
        )
    decoded = [found_only(item) for item in timed.decoded]
    texts = [
        [one_line(text) for text in texts[: len(item.tokens)]] for texts, item in zip(timed.texts, decoded, strict=True)
    ]
    return Translations(decoded, texts, [0] * len(decoded), filled, timed.seconds)


def found_only(item: Decoded) -> Decoded:
    count = max(1, sum(score > -math.inf for score in item.scores))
    return dataclasses.replace(item, tokens=item.tokens[:count], scores=item.scores[:count])


def one_line(text: str) -> str:
    """A vocabulary may hold line ends; in a translation they would shift all lines after it."""
    return text.replace("\r", " ").replace("\n", " ")


def rescore(teacher: Translator, sources: Sequence[str], found: Translations, *, batch_size: int) -> Translations:
    """With the teacher's score of every candidate, and the candidate that it likes best chosen."""
    usable = [bool(row) for row in teacher.tokenizers.source.encode(list(sources))]
    where = [(i, k) for i, texts in enumerate(found.texts) if usable[i] and found.filled[i] for k in range(len(texts))]
    scores: list[list[float | None]] = [[None] * len(texts) for texts in found.texts]
    size = TEACHER_BATCHES * batch_size
    with Progress("score", total=len(where), unit="candidates") as progress:
        for start in range(0, len(where), size):
            part = where[start : start + size]
            values = teacher.score(
                [sources[i] for i, _ in part], [found.texts[i][k] for i, k in part], batch_size=batch_size
            )
            for (i, k), value in zip(part, values, strict=True):
                scores[i][k] = value if math.isfinite(value) else None
            progress.advance(len(part))
    return dataclasses.replace(found, teacher_scores=scores, chosen=[highest(row) for row in scores])


def highest(scores: Sequence[float | None]) -> int:
    """The first index of the highest score; None is the lowest."""
    return max(range(len(scores)), key=lambda k: -math.inf if scores[k] is None else scores[k])


def measure(
    translator: Translator, text: Text, found: Translations, decoding: DecodingOptions, batch_size: int,
    config: DecodeConfig,
) -> Speed | None:  # fmt: skip
    """The speed on the sentences that are not empty; None if all are."""
    sentences = [source for source, filled in zip(text.sources, found.filled, strict=True) if filled]
    if not sentences:
        return None
    chosen = spread(sentences, config.speed_sentences)
    with Progress("time alone", total=len(chosen), unit="sentences") as progress:
        (milliseconds,) = time_alone([(translator, decoding)], chosen, advance=progress.advance)
    together = Timed([item for item, filled in zip(found.decoded, found.filled, strict=True) if filled], [], found.seconds)
    return Speed.of(milliseconds, together, batch_size=batch_size, device=translator.device)


# --- the report ------------------------------------------------------------------------------------


def quality(text: Text, found: Translations, *, ter: bool = False) -> dict[str, Any]:
    """Scores (where there are references), rates and counts."""
    best = found.best
    filled = [item for item, filled in zip(found.decoded, found.filled, strict=True) if filled]
    rows = [item.tokens[k] for item, k in zip(found.decoded, found.chosen, strict=True)]
    report: dict[str, Any] = {"text": text.name, "num_sentences": len(best)}
    report |= score_report(text, best, ter=ter)
    return report | {
        "unknown_rate": unknown_rate(rows),
        "passes": sum(item.passes for item in filled) / max(1, len(filled)),
        "num_empty": len(best) - len(filled),
        "num_empty_translations": sum(ok and not line for ok, line in zip(found.filled, best, strict=True)),
        "num_truncated": sum(item.truncated for item in filled),
        "num_dropped": text.dropped["dropped"] if text.dropped else 0,
        "dropped": text.dropped["reasons"] if text.dropped else {},
    }


def score_report(text: Text, best: Sequence[str], *, ter: bool) -> dict[str, Any]:
    """Scores on all sentences, and on sources of LONGER_WORDS words and more; repetition needs no references."""
    if text.references is None:
        return {"repetition_rate": score_corpus(best, best).repetition_rate} if best else {}
