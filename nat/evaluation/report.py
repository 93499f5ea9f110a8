"""nat-report's work: several runs, side by side on the same text, in one process.

DIR/results.json   a list of rows, one a system
DIR/table.md       the table for a README, with what one needs to judge it
DIR/samples.txt    sentences with their reference and every system's translation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from yaml import YAMLError, safe_load

from nat.config import option, parse
from nat.errors import ConfigError
from nat.evaluation.decode import provenance, quality, speed_of, speed_report, translate
from nat.evaluation.engine import Engine, accelerate
from nat.evaluation.inputs import (
    Device,
    Split,
    Text,
    check_outputs,
    decoding_options,
    open_run,
    read_split,
    run_summary,
)
from nat.evaluation.speed import spread, spread_indices, time_alone
from nat.files import write_json, write_text
from nat.models.base import DecodingOptions
from nat.progress import Progress
from nat.translator import Translator

FILES = ("results.json", "table.md", "samples.txt")
COLUMNS = (  # heading, field of a row, digits, factor
    ("BLEU", "bleu", 2, 1),
    ("chrF", "chrf", 2, 1),
    ("length ratio", "length_ratio", 3, 1),
    ("repetition %", "repetition_rate", 2, 100),
    ("ms alone p50", "ms_per_sentence_p50", 1, 1),
    ("p95", "ms_per_sentence_p95", 1, 1),
    ("speed-up", "speedup", 2, 1),
    ("sentences/s", "sentences_per_second", 1, 1),
    ("passes", "passes", 2, 1),
    ("M parameters", "num_parameters", 2, 1e-6),
)


@dataclass(frozen=True)
class ReportConfig:
    """Everything that `configs/report.yaml` holds."""

    run_dirs: list[str] = option(help="run folders, each also as FOLDER?beam_size=4&engine=ctranslate2&name=LABEL")
    output: str = option(help="folder of results.json, table.md and samples.txt")
    split: Split = option(Split.TEST, "what is translated: test, valid or train")
    samples: int = option(10, "sentences in samples.txt, spread evenly over the split", minimum=0)
    speed_sentences: int = option(100, "sentences timed alone, at most", minimum=1)
    device: Device = option(Device.AUTO, "auto, cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1)
    data: dict[str, Any] = field(default_factory=dict, metadata={"help": "options over those of the first run"})
    decoding: dict[str, Any] = field(default_factory=dict, metadata={"help": "batch_size and options for every system"})

    def __post_init__(self) -> None:
        if not self.run_dirs:
            raise ConfigError("run_dirs=[]: at least one run folder is needed")


@dataclass(frozen=True)
class System:
    """A run with its decoding options: a row of the table."""

    name: str
    translator: Translator
    decoding: DecodingOptions
    batch_size: int


def report(config: ReportConfig) -> tuple[list[dict[str, Any]], str, str]:
    """Evaluate and write. Returns the rows, the table and the samples.

    Raises ConfigError or DataError before any translation where an option, a run or a file is unusable.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    folder = Path(config.output)
    check_outputs({f"output, {name}": folder / name for name in FILES})
    systems = open_systems(config)
    text = read_split(systems[0].translator, config.split, config.data)
    rows, outputs = evaluate(systems, text, num_alone=config.speed_sentences)
    table = describe_table(rows, text)
    samples = describe_samples(text, outputs, config.samples)
    write_text(folder / "table.md", table)
    write_text(folder / "samples.txt", samples)
    write_json(folder / "results.json", rows)
    return rows, table, samples


def open_systems(config: ReportConfig) -> list[System]:
    """Load every run. Raises ConfigError or DataError; two systems of one name are refused."""
    systems: list[System] = []
    for entry in config.run_dirs:
        run_dir, name, options = parse_entry(entry)
        translator = open_run(run_dir, device=config.device)
        try:
            if parse(Engine, options.pop("engine", Engine.TORCH.value), "engine") is Engine.CTRANSLATE2:
                translator = accelerate(translator)
            decoding, batch_size = decoding_options(translator, {**config.decoding, **options})
        except ConfigError as error:
            raise ConfigError("\n".join(f"run_dirs, {entry}: {line}" for line in str(error).splitlines())) from None
        if name in [system.name for system in systems]:
            raise ConfigError(f"run_dirs: two systems are called '{name}', label one: {run_dir}?name=LABEL")
        systems.append(System(name, translator, decoding, batch_size))
    return systems


def parse_entry(entry: str) -> tuple[str, str, dict[str, Any]]:
    """`FOLDER?option=value&name=LABEL` -> folder, label (by default the folder's name and the options), options.
    Raises ConfigError."""
    run_dir, _, query = entry.partition("?")
    parts = query.split("&") if query else []
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"run_dirs, {entry}: '{part}' is not option=value; write FOLDER?beam_size=4&name=LABEL")
        try:
            options[key] = value if key == "name" else safe_load(value)
        except YAMLError:
            raise ConfigError(f"run_dirs, {entry}: the value of {key} cannot be read") from None
    name = options.pop("name", " ".join([Path(run_dir).resolve().name, *parts]))
    return run_dir, name, options


def evaluate(
    systems: Sequence[System], text: Text, *, num_alone: int
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The rows, and every system's translations. Sentences alone come first, by all systems in turns: they warm up
    what is timed in batches after them."""
    chosen = spread(text.sources, num_alone)
    with Progress("time alone", total=len(chosen), unit="sentences") as progress:
        pairs = [(system.translator, system.decoding) for system in systems]
        alone = time_alone(pairs, chosen, advance=progress.advance)
    rows, outputs = [], {}
    for system, milliseconds in zip(systems, alone, strict=True):
        row, outputs[system.name] = evaluate_one(system, text, milliseconds)
        rows.append(row)
    for row in rows:
        row["speedup"] = rows[0]["ms_per_sentence_p50"] / row["ms_per_sentence_p50"]
    return rows, outputs


def evaluate_one(system: System, text: Text, alone: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    translator, batch_size = system.translator, system.batch_size
    found = translate(translator, text.sources, decoding=system.decoding, batch_size=batch_size, name=system.name)
    speed = speed_of(alone, found, batch_size=batch_size, translator=translator)
    row = {"name": system.name} | quality(text, found) | speed_report(speed)
    row |= provenance(translator, system.decoding, batch_size=batch_size, weights=None)
    return row | training_report(run_summary(translator)), found.best


def training_report(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the training took, from run.json; null where that is missing."""
    seconds = summary.get("seconds")
    return {
        "training_updates": summary.get("update"),
        "training_tokens": summary.get("tokens"),
        "training_minutes": None if seconds is None else seconds / 60,
        "training_device": summary.get("device"),
    }


def describe_table(rows: Sequence[Mapping[str, Any]], text: Text) -> str:
    """A Markdown table, and below it what the numbers mean."""

    def cell(row: Mapping[str, Any], name: str, digits: int, factor: float) -> str:
        return "-" if row[name] is None else f"{row[name] * factor:.{digits}f}"

    first = rows[0]
    lines = [
        "| system | model | " + " | ".join(heading for heading, *_ in COLUMNS) + " |",
        "|:--|:--|" + "--:|" * len(COLUMNS),
    ]
    for row in rows:
        engine = "" if row["engine"] == Engine.TORCH.value else f" ({row['engine']})"
        cells = [row["name"].replace("|", "\\|"), row["model"] + engine]
        cells += [cell(row, name, digits, factor) for _, name, digits, factor in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"{text.name}, {first['num_sentences']} sentences ({first['num_dropped']} left out), {first['date'][:10]}. "
            f"ms alone: median and 95th percentile of {first['num_timed_alone']} sentences, each by itself on one "
            "thread, the systems taking turns; speed-up: ratio of the medians, the first system's over this one's. "
            f"sentences/s: batches of {', '.join(str(n) for n in sorted({row['batch_size'] for row in rows}))}, "
            f"{first['num_threads']} threads. Device: {first['device']}.",
            f"BLEU: `{first['bleu_signature']}`; chrF: `{first['chrf_signature']}`.",
            "",
        ]
    )


def describe_samples(text: Text, outputs: Mapping[str, Sequence[str]], count: int) -> str:
    """Sentences spread evenly over the text."""
    width = max(len(name) for name in (*outputs, "reference"))
    blocks = []
    for i in spread_indices(len(text.sources), count):
        named = {"source": text.sources[i]} | ({"reference": text.references[i]} if text.references else {})
        pairs = [*named.items(), *((name, lines[i]) for name, lines in outputs.items())]
        blocks.append("".join(f"{name:<{width}}  {line}\n" for name, line in pairs))
    return "\n".join(blocks)
