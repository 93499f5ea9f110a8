"""nat-doctor's work: read a run and a decode, ask every check, tell what is likely wrong, the worst first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat.config import merge, option
from nat.data.corpus import SPLITS
from nat.data.tokenized import TokenizedCorpus
from nat.decoding.translator import Translator
from nat.doctor import data_checks, decoding_checks, training_checks
from nat.doctor.decodes import decode_now, describe_decode, read_decode
from nat.doctor.facts import DecodeFacts, Facts, Overlap, RunFacts, TrainingText
from nat.doctor.finding import Check, Finding, Severity
from nat.doctor.reading import read_origin, read_overlap, read_training_text
from nat.engines.choice import OF_EVERY_METHOD
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Split, Text, read_corpus
from nat.evaluation.opening import Runs, SystemConfig, open_system
from nat.evaluation.speed import spread_indices
from nat.evaluation.system import System
from nat.files import check_kinds, write_json
from nat.runs.folder import run_summary
from nat.runs.metrics import read_metrics

CHECKS: tuple[Check, ...] = (*data_checks.CHECKS, *training_checks.CHECKS, *decoding_checks.CHECKS)
SENTENCES = 200
NUMBERS = (  # options that checks reckon with
    "schedule.warmup", "schedule.peak", "trainer.max_updates", "trainer.max_tokens", "validation.max_sentences",
    "data.filters.max_ratio", "model.upsampling",
)  # fmt: skip
WHERE = ("train", "columns", "hub_config", "cache")  # the training text may lie elsewhere now; it is what it was


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(SystemConfig):
    """Everything that `configs/doctor.yaml` holds."""

    first_keys = ("run_dir", "model")

    decode: str | None = option(None, "report of nat-decode, OUTPUT.json; null: some sentences are translated now")
    split: Split | None = option(None, "what is translated now; null: valid")
    sentences: int | None = option(None, f"at most, spread evenly over the split; null: {SENTENCES}", minimum=1)
    training_pairs: int = option(100_000, "training pairs that are looked at, at most, spread evenly", minimum=1)
    output: str | None = option(None, "JSON file of the findings; null: none is written")

    @property
    def inputs(self) -> Iterable[str | None]:
        return *super().inputs, self.decode

    def __post_init__(self) -> None:
        if self.split is Split.TRAIN:
            raise ConfigError("split=train: allowed are valid and test, for what was learnt by heart shows no fault")
        idle = {"split": self.split and self.split.value, "sentences": self.sentences}
        given = {name: value for name, value in self.decoding.items() if value != OF_EVERY_METHOD.get(name)}
        idle |= {f"decoding.{name}": value for name, value in given.items()}
        for name, value in idle.items():
            if self.decode is not None and value is not None:
                raise ConfigError(f"{name}={value}: has no effect with decode={self.decode}, nothing is translated now")


@dataclass(frozen=True)
class Diagnosis:
    """findings: by the name of the check, the worst first."""

    facts: Facts
    findings: dict[str, Finding]


def doctor(config: DoctorConfig) -> tuple[Diagnosis, dict[str, Any]]:
    """Read, look, judge, write. Returns what was found, and the same as plain data.

    Raises ConfigError or DataError where the run, an option or a given file is unusable; text that cannot be read is
    a note, and what needs it is not looked at.
    """
    config.prepare()
    system = open_system(config.system, Runs(config.device))
    facts = read_facts(config, system)
    diagnosis = Diagnosis(facts, examine_facts(facts))
    plain = to_plain(diagnosis, system.translator)
    if config.output is not None:
        write_json(Path(config.output), plain)
    return diagnosis, plain


def examine_facts(facts: Facts) -> dict[str, Finding]:
    """What every check finds, the worst first."""
    findings = {check.__name__: finding for check in CHECKS if (finding := check(facts)) is not None}
    order = list(Severity)
    return dict(sorted(findings.items(), key=lambda item: order.index(item[1].severity)))


def read_facts(config: DoctorConfig, system: System) -> Facts:
    """All that can be read."""
    translator = system.translator
    others = config.data.keys() - {*WHERE, *SPLITS}  # the run was validated on other sentences than these
    notes: list[str] = []
    run = RunFacts(translator.config, run_summary(translator.folder), read_metrics(translator.folder))
    numbers = {name: run.option(name) for name in NUMBERS if run.option(name) is not None}
    check_kinds(numbers, dict.fromkeys(NUMBERS, float), translator.folder / "config.yaml")
    decode = None
    if config.decode is not None:
        calls_per_pass = type(translator.model).Decoding.calls_per_pass
        decode = read_decode(Path(config.decode), folder=translator.folder, calls_per_pass=calls_per_pass)
    held_out = read_held_out(config, translator, notes)
    training, overlaps = read_training(config, translator, held_out, notes)
    if decode is None:
        decode = decode_part(config, system, held_out, notes)
    return Facts(
        run=run,
        origin=read_origin(data_now(config, translator)),
        training=training,
        overlaps=overlaps,
        num_validated=len(held_out[Split.VALID].sentences) if Split.VALID in held_out and not others else None,
        decode=decode,
        notes=notes,
    )


def data_now(config: DoctorConfig, translator: Translator) -> dict[str, Any]:
    """The run's data options with those of this command."""
    return merge(translator.config.get("data") or {}, config.data)


def read_held_out(config: DoctorConfig, translator: Translator, notes: list[str]) -> dict[Split, TokenizedCorpus]:
    """The held-out splits that can be read."""
    corpora = {}
    for split in (Split.VALID, Split.TEST):
        if data_now(config, translator).get(split.value) is None:
            continue
        try:
            corpora[split] = read_corpus(translator, split, config.data)
        except DataError as error:
            notes.append(
                f"split {split.value} cannot be read, so that its overlap with the training text is not known: {error}"
            )
    return corpora


def read_training(
    config: DoctorConfig, translator: Translator, held_out: dict[Split, TokenizedCorpus], notes: list[str]
) -> tuple[TrainingText | None, list[Overlap]]:
    """Figures of the training text, and what the other splits share with it."""
    what = "so that lengths, vocabulary, filters and overlap are not looked at"
    if data_now(config, translator).get("streaming"):
        notes.append(f"the training text is a stream (data.streaming=true), {what}")
        return None, []
    try:
        changes = {name: value for name, value in config.data.items() if name in WHERE}
        corpus = read_corpus(translator, Split.TRAIN, changes)
    except DataError as error:
        notes.append(f"the training text cannot be read, {what}: {error}")
        return None, []
    count = config.training_pairs
    if len(corpus) > count:
        notes.append(f"of {len(corpus)} training pairs {count} were looked at (training_pairs={count})")
    sources = set(corpus.texts(spread_indices(len(corpus), count))[0])
    text = read_training_text(translator.model, corpus, count=count)
    return text, [read_overlap(split.value, part, sources) for split, part in held_out.items()]


def decode_part(
    config: DoctorConfig, system: System, held_out: dict[Split, TokenizedCorpus], notes: list[str]
) -> DecodeFacts | None:
    """A part of the split, translated now."""
    split = config.split or Split.VALID
    corpus = held_out.get(split)
    if corpus is None and config.split is not None:
        why = [note for note in notes if note.startswith(f"split {split.value} ")]
        raise DataError(f"split={split.value}: {why[0] if why else f'data.{split.value} names no text'}")
    if corpus is None:
        notes.append(
            f"there is no split {split.value} to translate, so that no translation is looked at (decode=FILE.json)"
        )
        return None
    every = corpus.sentences
    sentences = [every[i] for i in spread_indices(len(every), config.sentences or SENTENCES)]
    sources, references = corpus.references(sentences)
    lengths = corpus.source_lengths[[sentence[0] for sentence in sentences]].tolist()
    fits = [i for i, length in enumerate(lengths) if length <= system.longest_source]
    if len(fits) < len(sources):
        notes.append(f"{len(sources) - len(fits)} sentences of split {split.value} are too long for it: left out")
    name = f"split {split.value}, {len(fits)} of {len(every)} sentences"
    return decode_now(system, Text(name, [sources[i] for i in fits], [references[i] for i in fits]))


# --- for people and for programs -------------------------------------------------------------------


def to_plain(diagnosis: Diagnosis, translator: Translator) -> dict[str, Any]:
    """The fields of the JSON file."""
    facts = diagnosis.facts
    return {
        "run_dir": str(translator.folder),
        "model": type(translator.model).__name__,
        "weights": translator.weights or facts.run.summary.get("weights"),
        "findings": [
            {"check": name, **vars(finding), "severity": finding.severity.value}
            | {"threshold": finding.threshold.value, "reason": finding.threshold.reason}
            for name, finding in diagnosis.findings.items()
        ],
        "num_checks": len(CHECKS),
        "notes": list(facts.notes),
        "origin": {"distilled": facts.origin.distilled, "told": facts.origin.told},
        "training_text": None if facts.training is None else dataclasses.asdict(facts.training),
        "overlaps": [dataclasses.asdict(part) for part in facts.overlaps],
        "decode": None if facts.decode is None else describe_decode(facts.decode),
    }


def describe(plain: dict[str, Any]) -> str:
    """The diagnosis for people to read."""
    lines = [f"{plain['model']} {plain['run_dir']} (weights: {plain['weights']})"]
    decode, origin = plain["decode"], plain["origin"]
    if decode is not None:
        bleu = "no references" if decode["bleu"] is None else f"BLEU {decode['bleu']:.2f}"
        lines.append(f"{decode['text']}: {bleu}, {decode['passes']:.1f} passes a sentence")
    findings = plain["findings"]
    lines += [] if findings else ["Nothing wrong was found."]
    for number, finding in enumerate(findings, start=1):
        lines += [
            "",
            f"{number}. [{finding['severity']}] {finding['what']}",
            f"   {finding['advice']} Try: {finding['override']}",
            f"   Limit {finding['threshold']:g}: {finding['reason']}.",
        ]
    if origin["distilled"] is None:
        lines += ["", f"Whether the training text is distilled cannot be known: {origin['told']}."]
    lines += [f"Not looked at: {note}." for note in plain["notes"]]
    return "\n".join(lines)
