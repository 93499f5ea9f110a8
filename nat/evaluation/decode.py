"""nat-decode's work: text in, translations and a report out.

OUTPUT         one translation a line, in input order; an empty line for an empty line
OUTPUT.json    scores with their signatures, speed, counts, and what made them
JSONL, NBEST   the same with scores and all candidates
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import nat
from nat.config import option, to_plain
from nat.decoding.batched import Decoded
from nat.errors import ConfigError
from nat.evaluation.comet_score import comet_score, open_comet
from nat.evaluation.inputs import (
    Device,
    Split,
    Text,
    check_outputs,
    decoding_options,
    open_run,
    read_files,
    read_split,
    run_summary,
)
from nat.evaluation.scores import repetition_rate, score_corpus, unknown_rate
from nat.evaluation.speed import Speed, device_name, spread, time_alone, translate_timed
from nat.files import write_json, write_text
from nat.models.base import DecodingOptions
from nat.progress import Progress
from nat.translator import Translator

LONGER = 5  # scores on sources of so many words and more stand beside the whole: short lines flatter
TEACHER_BATCHES = 16  # batches whose pairs are sorted by length together
SPEEDS = ("ms_per_sentence_p50", "ms_per_sentence_p95", "sentences_per_second")


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
    comet: str | None = option(None, "COMET too: name or path of its model")
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
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    check_outputs(config.outputs, inputs=(config.source, config.reference))
    translator = open_run(config.run_dir, device=config.device, weights=config.weights)
    decoding, batch_size = decoding_options(translator, config.decoding)
    text = read_text(config, translator)
    teacher = open_teacher(config, text)
    comet = None if config.comet is None else open_comet(config.comet, text)
    translator.encode(text.sources, text.name)  # too long ones are refused now
    filled = filled_sources(translator, text.sources)
    # first of all, for it warms up what is timed next
    alone = measure_alone(translator, decoding, spread(filled, config.speed_sentences)) if config.speed else []
    found = translate(translator, text.sources, decoding=decoding, batch_size=batch_size)
    if teacher is not None:
        found = rescore(teacher, text.sources, found, batch_size=batch_size)
    report = quality(text, found, ter=config.ter) | teacher_report(config.teacher, found, decoding)
    if comet is not None:
        score = comet_score(comet, text, found.best, on_gpu=translator.device.type == "cuda")
        report |= {"comet": score, "comet_model": config.comet}
    report |= speed_report(speed_of(alone, found, batch_size=batch_size, translator=translator))
    report |= provenance(translator, decoding, batch_size=batch_size, weights=config.weights)
    write_outputs(config.outputs, text, found, report)
    return found.best, report


def read_text(config: DecodeConfig, translator: Translator) -> Text:
    """The sentences that the options name. Raises ConfigError or DataError."""
    if config.source is not None:
        return read_files(config.source, config.reference)
    return read_split(translator, config.split or Split.TEST, config.data)


def open_teacher(config: DecodeConfig, text: Text) -> Translator | None:
    """The teacher, tried on one sentence. Raises ConfigError if its method cannot score."""
    if config.teacher is None:
        return None
    teacher = open_run(config.teacher, device=config.device)
    sentence = filled_sources(teacher, text.sources)[:1]
    try:
        teacher.score(sentence, sentence)
    except ConfigError as error:
        raise ConfigError(f"teacher={config.teacher}: {error}") from None
    return teacher


def filled_sources(translator: Translator, sources: Sequence[str]) -> list[str]:
    """The sentences that have tokens."""
    rows = translator.tokenizers.source.encode(list(sources))
    return [source for source, row in zip(sources, rows, strict=True) if row]


def measure_alone(translator: Translator, decoding: DecodingOptions, sentences: Sequence[str]) -> list[float]:
    """Milliseconds of each sentence by itself."""
    with Progress("time alone", total=len(sentences), unit="sentences") as progress:
        return time_alone([(translator, decoding)], sentences, advance=progress.advance)[0]


def translate(
    translator: Translator, sources: Sequence[str], *, decoding: DecodingOptions, batch_size: int, name: str = ""
) -> Translations:
    """All sentences, timed; candidates that a search did not find (log-probability -inf) are left out."""
    with Progress(f"translate {name}".strip(), total=len(sources), unit="sentences") as progress:
        timed = translate_timed(translator, sources, decoding=decoding, batch_size=batch_size, advance=progress.advance)
    decoded = [found_only(item) for item in timed.decoded]
    texts = [
        [one_line(text) for text in texts[: len(item.tokens)]] for texts, item in zip(timed.texts, decoded, strict=True)
    ]
    filled = [bool(row) for row in translator.tokenizers.source.encode(list(sources))]
    return Translations(decoded, texts, [0] * len(decoded), filled, timed.seconds)


def found_only(item: Decoded) -> Decoded:
    count = max(1, sum(score > -math.inf for score in item.scores))
    return dataclasses.replace(item, tokens=item.tokens[:count], scores=item.scores[:count])


def one_line(text: str) -> str:
    """A vocabulary may hold line ends; in a translation they would shift all lines after it."""
    return text.replace("\r", " ").replace("\n", " ")


def rescore(teacher: Translator, sources: Sequence[str], found: Translations, *, batch_size: int) -> Translations:
    """With the teacher's score of every candidate, and the candidate that it likes best chosen."""
    rows = teacher.tokenizers.source.encode(list(sources))
    where = [(i, k) for i, texts in enumerate(found.texts) if rows[i] and found.filled[i] for k in range(len(texts))]
    scores: list[list[float | None]] = [[None] * len(texts) for texts in found.texts]
    size = TEACHER_BATCHES * batch_size
    with Progress("score", total=len(where), unit="candidates") as progress:
        for start in range(0, len(where), size):
            part = where[start : start + size]
            targets = [found.texts[i][k] for i, k in part]
            values = teacher.score([sources[i] for i, _ in part], targets, batch_size=batch_size)
            for (i, k), value in zip(part, values, strict=True):
                scores[i][k] = value if math.isfinite(value) else None
            progress.advance(len(part))
    return dataclasses.replace(found, teacher_scores=scores, chosen=[highest(row) for row in scores])


def highest(scores: Sequence[float | None]) -> int:
    """The first index of the highest score; None is the lowest."""
    values = [-math.inf if score is None else score for score in scores]
    return values.index(max(values))


# --- the report ------------------------------------------------------------------------------------


def quality(text: Text, found: Translations, *, ter: bool = False) -> dict[str, Any]:
    """Scores (null without references), rates and counts."""
    best = found.best
    decoded = [item for item, filled in zip(found.decoded, found.filled, strict=True) if filled]
    rows = [item.tokens[k] for item, k in zip(found.decoded, found.chosen, strict=True)]
    return {
        "text": text.name,
        "num_sentences": len(best),
        **score_report(text, best, ter=ter),
        "repetition_rate": repetition_rate(best),
        "unknown_rate": unknown_rate(rows),
        "passes": sum(item.passes for item in decoded) / max(1, len(decoded)),
        "num_empty": len(best) - len(decoded),
        "num_empty_translations": sum(filled and not line for filled, line in zip(found.filled, best, strict=True)),
        "num_truncated": sum(item.truncated for item in decoded),
        "num_dropped": text.dropped["dropped"] if text.dropped else 0,
        "dropped_reasons": text.dropped["reasons"] if text.dropped else {},
    }


def score_report(text: Text, best: Sequence[str], *, ter: bool) -> dict[str, Any]:
    """Scores on all sentences, and on those whose source has LONGER words or more."""
    longer = [i for i, source in enumerate(text.sources) if len(source.split()) >= LONGER]
    names = ("bleu", "bleu_signature", "chrf", "chrf_signature", "length_ratio")
    report: dict[str, Any] = dict.fromkeys(names)
    report |= {f"bleu_{LONGER}plus_words": None, f"chrf_{LONGER}plus_words": None}
    report |= {f"num_{LONGER}plus_words": len(longer)}
    if text.references is None or not best:
        return report
    scores = score_corpus(best, text.references, ter=ter)
    report |= {name: getattr(scores, name) for name in names}
    if ter:
        report |= {"ter": scores.ter, "ter_signature": scores.ter_signature}
    if longer:
        part = score_corpus([best[i] for i in longer], [text.references[i] for i in longer])
        report |= {f"bleu_{LONGER}plus_words": part.bleu, f"chrf_{LONGER}plus_words": part.chrf}
    return report


def teacher_report(teacher: str | None, found: Translations, decoding: DecodingOptions) -> dict[str, Any]:
    """The mean log-probability of a translation under the teacher, and how often it chose another one."""
    if found.teacher_scores is None:
        return {}
    chosen = [scores[k] for scores, k in zip(found.teacher_scores, found.chosen, strict=True)]
    known = [score for score in chosen if score is not None]
    report: dict[str, Any] = {
        "teacher": teacher,
        "teacher_score": sum(known) / len(known) if known else None,
        "num_unscored": len(chosen) - len(known),
    }
    return report | ({"num_rescored_differ": sum(k > 0 for k in found.chosen)} if decoding.num_candidates > 1 else {})


def speed_of(alone: Sequence[float], found: Translations, *, batch_size: int, translator: Translator) -> Speed | None:
    """None where nothing was measured."""
    if not alone:
        return None
    count = sum(found.filled)
    return Speed.of(alone, seconds=found.seconds, num_sentences=count, batch_size=batch_size, device=translator.device)


def speed_report(speed: Speed | None) -> dict[str, Any]:
    if speed is None:
        return dict.fromkeys(SPEEDS) | {"num_timed_alone": 0}
    return {name: getattr(speed, name) for name in SPEEDS} | {"num_timed_alone": speed.num_alone}


def provenance(
    translator: Translator, decoding: DecodingOptions, *, batch_size: int, weights: str | None
) -> dict[str, Any]:
    """What made the translations."""
    return {
        "run_dir": str(translator.folder),
        "model": type(translator.model).__name__,
        "engine": translator.engine,
        "weights": weights or run_summary(translator).get("weights"),
        "num_parameters": sum(parameter.numel() for parameter in translator.model.parameters()),
        "decoding": to_plain(decoding),
        "batch_size": batch_size,
        "device": device_name(translator.device),
        "num_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in sorted({"torch", "sacrebleu", "sentencepiece", translator.engine})}
        | {"nat": nat.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe(report: dict[str, Any]) -> str:
    """The report for people to read."""

    def shown(name: str, digits: int = 2) -> str:
        value = report.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    lines = [
        f"{report['model']} {report['run_dir']} (weights: {report['weights']}), {report['text']}",
        f"sentences {report['num_sentences']}: empty {report['num_empty']}, at the length limit "
        f"{report['num_truncated']}; left out of the text {report['num_dropped']}",
        *(f"  left out: {reason}: {count['pairs']}" for reason, count in report["dropped_reasons"].items()),
    ]
    if report["bleu"] is not None:
        lines.append(f"BLEU {shown('bleu')}  chrF {shown('chrf')}  length ratio {shown('length_ratio', 3)}")
        lines[-1] += f"  TER {shown('ter')}" if "ter" in report else ""
        lines.append(
            f"BLEU {shown(f'bleu_{LONGER}plus_words')}  chrF {shown(f'chrf_{LONGER}plus_words')}  on the "
            f"{report[f'num_{LONGER}plus_words']} sources of {LONGER} words and more"
        )
        lines += [f"  {report[name]}" for name in report if name.endswith("_signature") and report[name]]
    if "comet" in report:
        lines.append(f"COMET {shown('comet', 4)}  ({report['comet_model']})")
    lines.append(
        f"repetition {100 * report['repetition_rate']:.2f} %  unknown {100 * report['unknown_rate']:.2f} %  "
        f"passes {shown('passes')}"
    )
    if "teacher" in report:
        differ = report.get("num_rescored_differ")
        lines.append(
            f"teacher score {shown('teacher_score', 3)} ({report['teacher']})"
            + (f"  other candidate chosen {differ} times" if differ is not None else "")
        )
    if report["sentences_per_second"] is not None:
        lines.append(
            f"alone {shown('ms_per_sentence_p50', 1)} ms (95 %: {shown('ms_per_sentence_p95', 1)} ms), one thread; "
            f"batches of {report['batch_size']}: {shown('sentences_per_second', 1)} sentences/s, "
            f"{report['num_threads']} threads; {report['device']}"
        )
    return "\n".join(lines)


# --- files -----------------------------------------------------------------------------------------


def write_outputs(paths: dict[str, Path], text: Text, found: Translations, report: dict[str, Any]) -> None:
    """Every file whole or not at all; the report, which says that all is done, last. Raises DataError."""
    if "output" in paths:
        write_text(paths["output"], "".join(f"{line}\n" for line in found.best))
    if "nbest" in paths:
        write_text(paths["nbest"], "".join(nbest_lines(found)))
    if "jsonl" in paths:
        rows = (json.dumps(json_row(i, text, found), ensure_ascii=False) + "\n" for i in range(len(text.sources)))
        write_text(paths["jsonl"], "".join(rows))
    if "report" in paths:
        write_json(paths["report"], report)


def nbest_lines(found: Translations) -> list[str]:
    """The format of Moses: index (from 0) ||| text ||| log-probability under the model."""
    return [
        f"{i} ||| {line} ||| {score:.4f}\n"
        for i, (texts, item) in enumerate(zip(found.texts, found.decoded, strict=True))
        for line, score in zip(texts, item.scores, strict=True)
    ]


def json_row(i: int, text: Text, found: Translations) -> dict[str, Any]:
    """All that is known of sentence i (from 0). Scores are log-probabilities."""
    item, k = found.decoded[i], found.chosen[i]
    candidates: list[dict[str, Any]] = [
        {"text": line, "score": score, "tokens": tokens}
        for line, score, tokens in zip(found.texts[i], item.scores, item.tokens, strict=True)
    ]
    row: dict[str, Any] = {"index": i} | ({"line": text.lines[i]} if text.lines is not None else {})
    row |= {"source": text.sources[i], "translation": found.texts[i][k], "score": item.scores[k]}
    if found.teacher_scores is not None:
        row["teacher_score"] = found.teacher_scores[i][k]
        for candidate, score in zip(candidates, found.teacher_scores[i], strict=True):
            candidate["teacher_score"] = score
    row |= {"nbest": candidates, "passes": item.passes, "truncated": item.truncated}
    return row | ({"reference": text.references[i]} if text.references is not None else {})
