"""nat-export's work: a run becomes a folder that another engine computes, and both translate the validation text.

The manifest says how many of their translations are the same, and the BLEU of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nat.config import option, to_plain
from nat.engines import portable
from nat.engines.base import ComputeType
from nat.engines.choice import TOOLS, Engine, Tool
from nat.engines.exporting import write_export
from nat.engines.manifest import KEY, MANIFEST, NAMES, write_manifest
from nat.errors import ConfigError
from nat.evaluation.inputs import Split, Text, read_split
from nat.evaluation.opening import Runs, SystemConfig, SystemOptions, open_system
from nat.evaluation.results import translate
from nat.evaluation.speed import spread_indices
from nat.evaluation.system import System
from nat.files import write_atomically
from nat.progress import Progress
from nat.runs.outputs import Output, json_object
from nat.scoring.scores import score_corpus
from nat.web.folder import Page
from nat.web.runtime import PACKAGE


class Format(Enum):
    """An engine, by its name there; or a page that translates in a browser, whose graph ONNX Runtime opens here."""

    ONNX = Engine.ONNX.value
    CTRANSLATE2 = Engine.CTRANSLATE2.value
    WEB = "web"


@dataclass(frozen=True)
class WebOptions:
    """Of a page."""

    runtime: str | None = option(
        None, f"{PACKAGE} as npm has it, the file or its folder; null: fetched once from npm, and kept"
    )


@dataclass(frozen=True, kw_only=True)
class ExportConfig(SystemConfig):
    """Everything that `configs/export.yaml` holds."""

    output: str = option(help="folder of the export")
    format: Format = option(
        Format.ONNX, "onnx: methods of one pass or several; ctranslate2: the teacher; web: a page, methods of one pass"
    )
    precision: ComputeType = option(ComputeType.INT8, "of matrix products: fp32 or int8")
    max_sentences: int | None = option(
        None,
        "validation sentences that both translate, at most; null: all; 0: no comparison",
        minimum=0,
    )

    web: WebOptions = option(WebOptions())

    def __post_init__(self) -> None:
        if self.max_sentences == 0 and self.data:
            raise ConfigError(f"data.{next(iter(self.data))}: has no effect with max_sentences=0")
        if self.format is not Format.WEB and self.web.runtime is not None:
            raise ConfigError(f"web.runtime={self.web.runtime}: has no effect with format={self.format.value}")

    @property
    def engine(self) -> Engine:
        return Engine.ONNX if self.format is Format.WEB else Engine(self.format.value)

    @property
    def tool(self) -> Tool:
        return portable if self.format is Format.WEB else TOOLS[self.engine]

    @property
    def outputs(self) -> dict[str, Output]:
        folder = Path(self.output)
        return {"output": Output(folder, json_object(KEY), proof=folder / MANIFEST, is_folder=True)}

    def prepare(self) -> None:
        """As `CommandConfig.prepare`. The folder is replaced as a whole: it must not hold anything else."""
        super().prepare()
        folder = Path(self.output)
        if folder.resolve() == Path(self.run_dir).resolve():
            raise ConfigError(f"output={folder}: this is the run, choose another folder")
        others = sorted({path.name for path in folder.iterdir()} - {*NAMES}) if folder.is_dir() else []
        if others:
            raise ConfigError(
                f"output={folder}: holds {others[0]}, which is no part of an export; choose another folder"
            )


def export(config: ExportConfig) -> dict[str, Any]:
    """Write, compare, describe: the whole folder or nothing. Returns the comparison, {} without one.

    Raises ConfigError or DataError before any work where the run cannot be exported so, or its text cannot be read.
    """
    config.prepare()
    run = open_system(config.system, Runs(config.device))
    check(run, config)
    page = Page(run.translator, config.web.runtime) if config.format is Format.WEB else None
    text = read_text(config, run)
    found: dict[str, Any] = {}

    def write(folder: Path) -> None:
        folder.mkdir()
        with Progress("export", total=1, unit="model") as progress:
            described = write_export(run.translator, folder, config.engine, config.tool, config.precision)
            if page is not None:
                page.write(folder, described)
            progress.advance()
        write_manifest(folder, described | {"validation": None})
        if text is not None:
            exported = open_system(SystemOptions(str(folder), decoding=config.decoding), Runs(config.device))
            found.update(compare(run, exported, text))
            write_manifest(folder, described | {"validation": found})

    write_atomically(Path(config.output), write)
    return found


def check(run: System, config: ExportConfig) -> None:
    """Raises ConfigError, by the option of this command, where the engine cannot have the run."""
    if run.translator.engine != Engine.TORCH.value:
        raise ConfigError(f"run_dir={run.translator.folder}: is an export itself, name the run it is of")
    try:
        config.tool.check(run.translator)
    except ConfigError as error:
        by_engine, by_format = f"engine={config.engine.value}", f"format={config.format.value}"
        raise ConfigError(str(error).replace(by_engine, by_format, 1)) from None


def read_text(config: ExportConfig, run: System) -> Text | None:
    """The validation sentences, evenly spread; None where nothing is compared."""
    if config.max_sentences == 0:
        return None
    text = read_split(run.translator, Split.VALID, config.data)
    total = len(text.sources)
    text = text.select(spread_indices(total, total if config.max_sentences is None else config.max_sentences))
    run.encode(text)  # too long ones are refused now
    return text


def compare(run: System, exported: System, text: Text) -> dict[str, Any]:
    """Both on the same sentences."""
    assert text.references is not None
    exported.encode(text)
    best = [translate(system, text.sources, name=name).best for name, system in (("run", run), ("export", exported))]
    scores = [score_corpus(texts, text.references, tokenizer=text.tokenizer) for texts in best]
    return {
        "text": text.name,
        "num_sentences": len(text.sources),
        "identical": sum(one == other for one, other in zip(*best, strict=True)) / len(text.sources),
        "bleu": scores[1].bleu,
        "bleu_of_run": scores[0].bleu,
        "bleu_signature": scores[1].bleu_signature,
        "decoding": to_plain(exported.decoding),
    }


def outcome(folder: str, found: dict[str, Any]) -> str:
    """For people."""
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    if not found:
        return f"{size:.1f} MB"
    return (
        f"{size:.1f} MB; {100 * found['identical']:.1f} % of {found['num_sentences']} validation sentences as the run "
        f"translates them, BLEU {found['bleu']:.2f}, of the run {found['bleu_of_run']:.2f}"
    )
