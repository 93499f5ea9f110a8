"""nat-report's work: several runs, side by side on the same text, in one process.

DIR/results.json   a list of rows, one a system
DIR/claims.json    BLEU and p of every claim
DIR/table.md       the table for a README, with what one needs to judge it
DIR/samples.txt    sentences with their reference and every system's translation
DIR/index.html     the page: table, figures, and the viewer of how translations were made; opens offline
DIR/figures.json   what the figures show; DIR/figures/NAME.png the same, drawn
DIR/histories/NAME.jsonl   how each system made the sentences of samples.txt, see `nat.decoding.history`
DIR/outputs/NAME.txt   every system's translations, one a line; source.txt and reference.txt beside them

NAME is the system's, without what a file's name cannot hold, and with a number where another has that file; a row of
results.json says which it is (`output`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nat.config import option
from nat.decoding.history import SentenceHistory, write_history
from nat.drawing.charts import draw_all
from nat.drawing.style import check_plots, has_plots
from nat.evaluation.histories import how_made
from nat.evaluation.inputs import Text, read_split
from nat.evaluation.opening import SystemsConfig, open_systems
from nat.evaluation.results import results, translate
from nat.evaluation.speed import spread, spread_indices, time_alone
from nat.evaluation.system import System
from nat.files import write_json, write_text
from nat.progress import Progress
from nat.reporting.figures import charts
from nat.reporting.outputs import file_names, write_lines
from nat.reporting.page import render
from nat.reporting.tables import describe_table
from nat.runs.folder import run_summary
from nat.runs.metrics import read_metrics
from nat.runs.outputs import Output, in_folder
from nat.scoring.claims import describe_claims, examine, parse_claim

FILES = (
    "results.json", "claims.json", "table.md", "samples.txt", "index.html", "figures.json", "figures/", "histories/",
    "outputs/",
)  # fmt: skip
TRAINING = {  # fields of run.json
    "updates": "update", "tokens": "tokens", "device": "device", "seed": "seed", "precision": "precision",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReportConfig(SystemsConfig):
    """Everything that `configs/report.yaml` holds."""

    samples: int = option(10, "sentences in samples.txt and in the viewer, spread evenly over the split", minimum=0)
    max_sentences: int | None = option(None, "sentences translated, at most; null: all", minimum=1)
    speed_sentences: int = option(100, "sentences timed alone, at most", minimum=1)
    plots: bool | None = option(None, "figures; null: where the package is there")
    claims: list[str] = option([], "pairs of systems, 'A > B', to be tested for a higher BLEU")

    @property
    def outputs(self) -> dict[str, Output]:
        return in_folder(self.output, FILES, begins=r"\| system \| model \|", proof="table.md")


def report(config: ReportConfig, *, command: str = "nat-report") -> tuple[list[dict[str, Any]], str, str]:
    """Evaluate and write. Returns the rows, the table and the samples. command: what made the report, for the page.

    Raises ConfigError or DataError before any translation where an option, a run or a file is unusable.
    """
    config.prepare()
    folder = Path(config.output)
    if config.plots:
        check_plots()
    systems = open_systems(config)
    claims = [parse_claim(claim, [system.name for system in systems]) for claim in config.claims]
    text = read_split(systems[0].translator, config.split, config.data)
    text = replace(shortened(text, config.max_sentences), bleu_tokenizer=config.bleu_tokenizer)
    curves = {str(system.translator.folder): read_metrics(system.translator.folder) for system in systems}
    for scorer in {system.scorer.path: system.scorer for system in systems if system.scorer is not None}.values():
        scorer.check(text)
    for system in systems:
        system.encode(text)  # too long ones are refused now
    rows, outputs = evaluate(systems, text, num_alone=config.speed_sentences)
    table = describe_table(rows, text)
    if claims and text.references is not None:
        findings = [examine(claim, outputs, text.references, tokenizer=text.tokenizer) for claim in claims]
        table += "\n" + describe_claims(findings)
        write_json(folder / "claims.json", [asdict(finding) for finding in findings])
    samples = describe_samples(text, outputs, config.samples)
    write_text(folder / "table.md", table)
    write_text(folder / "samples.txt", samples)
    texts = named_texts(text)
    files = file_names(list(outputs), taken=texts)
    for name, lines in (texts | {files[name]: lines for name, lines in outputs.items()}).items():
        write_lines(folder / "outputs" / f"{name}.txt", lines)
    rows = [row | {"output": f"outputs/{files[row['name']]}.txt"} for row in rows]
    histories = write_histories(folder / "histories", systems, files, text, config.samples)
    figures = charts(rows, curves)
    write_json(folder / "figures.json", [asdict(chart) for chart in figures])
    drawn = draw_all(figures, rows, folder / "figures") if config.plots is not False and has_plots() else None
    write_text(folder / "index.html", render(rows, figures, drawn, histories, text=text.name, command=command))
    write_json(folder / "results.json", rows)
    return rows, table, samples


def shortened(text: Text, most: int | None) -> Text:
    """At most so many sentences, spread evenly, and named so."""
    count = len(text.sources)
    if most is None or most >= count:
        return text
    return replace(text.select(spread_indices(count, most)), name=f"{text.name}, {most} of {count} sentences")


def write_histories(
    folder: Path, systems: Sequence[System], files: Mapping[str, str], text: Text, count: int
) -> dict[str, list[SentenceHistory]]:
    """How every system makes the sentences of samples.txt, by its name; each decodes them once more.
    files: of each system, without suffix."""
    indices = spread_indices(len(text.sources), count)
    histories = {}
    for system in systems if indices else ():
        made = how_made(system, text.select(indices))
        histories[system.name] = [replace(item, index=i) for i, item in zip(indices, made, strict=True)]
        write_history(folder / f"{files[system.name]}.jsonl", histories[system.name])
    return histories


def named_texts(text: Text) -> dict[str, list[str]]:
    return {"source": text.sources} | ({} if text.references is None else {"reference": text.references})


def evaluate(
    systems: Sequence[System], text: Text, *, num_alone: int
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The rows, and every system's translations. Sentences alone come first, by all systems in turns: they warm up
    what is timed in batches after them."""
    chosen = spread(text.sources, num_alone)
    with Progress("time alone", total=len(chosen), unit="sentences") as progress:
        alone = time_alone(systems, chosen, advance=progress.advance)
    rows, outputs = [], {}
    for system, milliseconds in zip(systems, alone, strict=True):
        row, outputs[system.name] = evaluate_one(system, text, milliseconds)
        rows.append(row)
    for row in rows:
        row["speedup"] = rows[0]["ms_per_sentence_p50"] / row["ms_per_sentence_p50"]
    return rows, outputs


def evaluate_one(system: System, text: Text, alone: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    translations = translate(system, text.sources, name=system.name)
    row = {"name": system.name} | results(system, text, translations, alone=alone)
    return row | training_report(run_summary(system.translator.folder)), translations.best


def training_report(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the training took, from run.json; null where that is missing."""
    seconds = summary.get("seconds")
    report = {f"training_{name}": summary.get(field) for name, field in TRAINING.items()}
    return report | {"training_minutes": None if seconds is None else seconds / 60}


def describe_samples(text: Text, outputs: Mapping[str, Sequence[str]], count: int) -> str:
    """Sentences spread evenly over the text."""
    width = max(len(name) for name in (*outputs, "reference"))
    blocks = []
    for i in spread_indices(len(text.sources), count):
        named = {name: lines[i] for name, lines in named_texts(text).items()}
        pairs = [*named.items(), *((name, lines[i]) for name, lines in outputs.items())]
        blocks.append("".join(f"{name:<{width}}  {line}\n" for name, line in pairs))
    return "\n".join(blocks)
