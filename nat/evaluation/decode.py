"""nat-decode's work: text in, translations and a report out.

OUTPUT         one translation a line, in input order; an empty line for an empty line
OUTPUT.json    scores with their signatures, candidates, speed, counts, and what made them
JSONL, NBEST   the same with scores and all candidates
HISTORY        every pass over every candidate, see `nat.decoding.history`
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nat.config import option
from nat.decoding.candidates import Choice
from nat.decoding.history import write_history
from nat.drawing.polygons import check_pictures, write_polygons
from nat.errors import ConfigError, DataError
from nat.evaluation.editing import EditFiles, edit_report, with_requests
from nat.evaluation.histories import how_made
from nat.evaluation.inputs import STANDARD_INPUT, Split, Text, read_files, read_split
from nat.evaluation.opening import Runs, SystemConfig, SystemOptions, open_system
from nat.evaluation.results import Translations, results, translate
from nat.evaluation.speed import spread, time_alone
from nat.evaluation.system import System
from nat.files import to_json, write_json
from nat.progress import Progress
from nat.runs.outputs import SVG, Output, is_stream, json_object, write_output
from nat.scoring.comet import comet_score, open_comet
from nat.scoring.polygons import check_references
from nat.scoring.tokenization import BleuTokenizer

WHOLE_TEXT = (  # options that need all sentences together
    "reference", "output", "draft", "known", "constraints", "jsonl", "nbest", "pictures", "history", "ter", "comet",
)  # fmt: skip
REPORT = json_object("text", "num_sentences")
BEGINNINGS = {  # of the files that may be asked for beside `output`, as `Output.begins`
    "jsonl": r'\{"index": ',
    "nbest": r"0 \|\|\| ",
    "pictures": SVG,
    "history": r'\{"index": ',
}


@dataclass(frozen=True, kw_only=True)
class DecodeConfig(SystemConfig):
    """Everything that `configs/decode.yaml` holds."""

    split: Split | None = option(None, "what is translated: test, valid or train")
    source: str | None = option(None, "or a text file, one sentence a line; - is standard input")
    reference: str | None = option(None, "its translations, line by line")
    target: str | None = option(
        None, "with source: the language that is written, of a run whose sources begin with a tag of it"
    )
    output: str | None = option(None, "file of translations; null: standard output")
    draft: str | None = option(None, "file of drafts to start from, one a line")
    known: str | None = option(None, "file of known words around gaps, ___, one a line")
    constraints: str | None = option(None, "file of terms that must stay, tab-separated, a line for each sentence")
    jsonl: str | None = option(None, "file of one JSON object a line")
    nbest: str | None = option(None, "file of all different candidates")
    pictures: str | None = option(None, "of points: .svg file of the first polygons, found and true (extra `plot`)")
    history: str | None = option(None, "file of how each translation was made, pass by pass")
    choose: Choice | None = option(
        None, "which candidate is the translation; null: the teacher's choice if there is a teacher, else the first"
    )
    teacher: str | None = option(None, "run folder whose model scores the candidates")
    drafter: str | None = option(
        None, "run folder or export that drafts what this autoregressive run then checks: the same translations"
    )
    max_source_tokens: int | None = option(
        None,
        "a longer source is refused; null: 1000, or 4 times data.filters.max_tokens of the run",
        minimum=1,
        maximum=1_000_000_000,
    )
    shard_size: int | None = option(
        None,
        "with source=FILE output=FILE: a large text in shards of so many lines, on several ranks; null: all at once",
        minimum=1,
        maximum=1_000_000_000,
    )
    interactive: bool | None = option(
        None, "with source=-: answer each line at once; null: where standard input is a terminal"
    )
    bleu_tokenizer: BleuTokenizer | None = option(
        None, "words of BLEU: 13a, intl, zh, ja-mecab, ko-mecab, char, none; null: as the references' script needs"
    )
    ter: bool = option(False, "translation edit rate too")
    comet: str | None = option(None, "COMET too: name or path of its model")
    speed: bool = option(True, "measure speed")
    speed_sentences: int = option(100, "sentences timed alone, at most", minimum=1)

    def __post_init__(self) -> None:
        if self.source is not None and self.split is not None:
            raise ConfigError(f"source={self.source}: has no place beside split={self.split.value}, choose one")
        if self.source is not None and self.data:
            raise ConfigError(f"data.{next(iter(self.data))}: has no effect with source={self.source}")
        if self.source is None and self.target is not None:
            raise ConfigError(f"target={self.target}: needs source=FILE; of a split, data.target names one")
        if self.source is None and self.reference is not None:
            raise ConfigError(f"reference={self.reference}: needs source=FILE (a split has its own references)")
        if self.pictures is not None and self.source is not None and self.reference is None:
            raise ConfigError(f"pictures={self.pictures}: needs reference=FILE")
        if self.ter and self.source is not None and self.reference is None:
            raise ConfigError("ter=true: needs reference=FILE")
        if self.bleu_tokenizer is not None:
            self.bleu_tokenizer.check()
        if self.shard_size is not None:
            self._check_shards()
        if self.interactive:
            if self.source != STANDARD_INPUT:
                raise ConfigError("interactive=true: needs source=-")
            for name in (name for name in WHOLE_TEXT if getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)}: has no effect with interactive=true, line by line")

    def _check_shards(self) -> None:
        if self.source in (None, STANDARD_INPUT) or self.output is None or is_stream(Path(self.output)):
            raise ConfigError(f"shard_size={self.shard_size}: needs source=FILE and output=FILE")
        for name in (*(name for name in WHOLE_TEXT if name != "output"), "interactive"):
            if getattr(self, name):
                raise ConfigError(f"{name}={getattr(self, name)}: has no effect with shard_size={self.shard_size}")

    @property
    def is_interactive(self) -> bool:
        """Each line is answered at once, see `answers`."""
        if self.interactive is not None:
            return self.interactive
        at_terminal = self.source == STANDARD_INPUT and sys.stdin.isatty()
        return at_terminal and not any(getattr(self, name) for name in WHOLE_TEXT)

    @property
    def edit_files(self) -> EditFiles:
        return EditFiles(draft=self.draft, known=self.known, constraints=self.constraints)

    @property
    def system(self) -> SystemOptions:
        return replace(
            super().system,
            choose=self.choose,
            teacher=self.teacher,
            drafter=self.drafter,
            max_source_tokens=self.max_source_tokens,
        )

    @property
    def inputs(self) -> Iterable[str | None]:
        return *super().inputs, self.source, self.reference, self.draft, self.known, self.constraints

    @property
    def runs(self) -> Iterable[str | None]:
        return *super().runs, self.teacher, self.drafter

    @property
    def outputs(self) -> dict[str, Output]:
        paths = {name: Path(value) for name in BEGINNINGS if (value := getattr(self, name)) is not None}
        outputs = {name: Output(path, BEGINNINGS[name]) for name, path in paths.items()}
        if self.output is not None:
            report = Path(f"{self.output}.json")
            outputs["output"] = Output(Path(self.output), REPORT, proof=report)
            if not is_stream(Path(self.output)):
                outputs["report"] = Output(report, REPORT)
        return outputs


def decode(config: DecodeConfig) -> tuple[list[str], dict[str, Any]]:
    """Translate, choose, score, measure, write. Returns the translations and the report.

    Raises ConfigError or DataError before any translation where an option or a file is unusable.
    """
    config.prepare()
    system = opened(config)
    if config.history is not None and not config.speed:
        system = replace(system, decoding=replace(system.decoding, history=True))
    translator = system.translator
    text = with_requests(read_text(config, system), config.edit_files)
    if system.scorer is not None:
        system.scorer.check(text)
    if config.pictures is not None:
        check_pictures(config.pictures, points=translator.tokenizers.vocabularies.points)
    comet = None if config.comet is None else open_comet(config.comet, has_references=text.references is not None)
    if config.reference is not None and translator.tokenizers.vocabularies.points:
        check_references(config.reference, text.sources, text.references or [])
    system.encode(text)  # too long ones are refused now
    translator.wanted(text.sentences, text.name, decoding=system.decoding)  # and what cannot be kept
    # first of all, for it warms up what is timed next
    alone = measure_alone(system, text, config.speed_sentences) if config.speed else []
    translations = translate(system, text.sentences)
    report = results(system, text, translations, alone=alone, ter=config.ter)
    report |= edit_report(text, translations.best, translator.sides(system.decoding)[1])
    if comet is not None:
        score = comet_score(
            comet, text.sources, translations.best, text.references, on_gpu=translator.device.type == "cuda"
        )
        report |= {"comet": score, "comet_model": config.comet}
    if config.history is not None:
        write_history(config.outputs["history"].path, how_made(system, text, translations))
    write_outputs({name: output.path for name, output in config.outputs.items()}, text, translations, report)
    return translations.best, report


def opened(config: DecodeConfig) -> System:
    """Raises ConfigError or DataError where a run cannot be used as is asked."""
    system = open_system(config.system, Runs(config.device))
    return system if config.target is None else system.to_language(config.target)


def answers(config: DecodeConfig, lines: Iterable[str]) -> Iterator[str]:
    """The translation of each line, before the next one is read. One that cannot be translated is told on standard
    error, and answered by an empty line. Raises ConfigError or DataError before the first line is read."""
    config.prepare()
    system = opened(config)
    for number, line in enumerate(lines, start=1):
        try:
            system.encode(Text("standard input", [line], None, lines=[number]))
            (candidates,) = system.translate([line])
        except DataError as error:
            print(f"nat-decode: {error}", file=sys.stderr)
            yield ""
        else:
            yield candidates.best


def read_text(config: DecodeConfig, system: System) -> Text:
    """The sentences that the options name. Raises ConfigError or DataError."""
    if config.source is not None:
        return replace(read_files(config.source, config.reference), bleu_tokenizer=config.bleu_tokenizer)
    text = read_split(system.translator, config.split or Split.TEST, config.data)
    return replace(text.swapped() if system.decoding.reverse else text, bleu_tokenizer=config.bleu_tokenizer)


def measure_alone(system: System, text: Text, count: int) -> list[float]:
    """Milliseconds of each of at most `count` sentences by itself."""
    filled = [sentence for sentence, row in zip(text.sentences, system.encode(text), strict=True) if row]
    sentences = spread(filled, count)
    with Progress("time alone", total=len(sentences), unit="sentences") as progress:
        return time_alone([system], sentences, advance=progress.advance)[0]


# --- files -----------------------------------------------------------------------------------------


def write_outputs(paths: dict[str, Path], text: Text, translations: Translations, report: dict[str, Any]) -> None:
    """Every file whole or not at all; the report, which says that all is done, last. Raises DataError."""
    if "output" in paths:
        write_output(paths["output"], "".join(f"{line}\n" for line in translations.best))
    if "nbest" in paths:
        write_output(paths["nbest"], "".join(nbest_lines(translations)))
    if "jsonl" in paths:
        rows = (to_json(json_row(i, text, translations)) + "\n" for i in range(len(text.sources)))
        write_output(paths["jsonl"], "".join(rows))
    if "pictures" in paths:
        assert text.references is not None
        write_polygons(text.sources, translations.best, text.references, paths["pictures"])
    if "report" in paths:
        write_json(paths["report"], report)


def nbest_lines(translations: Translations) -> list[str]:
    """The format of Moses: index (from 0) ||| text ||| log-probability under the model. Different texts: of candidates
    that read alike the first. The separator within a text is written as Moses does, &#124;&#124;&#124;."""
    lines = []
    for i, item in enumerate(translations.candidates):
        scores: dict[str, float] = {}
        for text, score in zip(item.texts, item.scores, strict=True):
            scores.setdefault(text.replace("|||", "&#124;" * 3), score)
        lines += [f"{i} ||| {text} ||| {score:.4f}\n" for text, score in scores.items()]
    return lines


def json_row(i: int, text: Text, translations: Translations) -> dict[str, Any]:
    """All that is known of sentence i (from 0). Scores are log-probabilities; chosen: index (from 0) in nbest."""
    item = translations.candidates[i]
    columns: dict[str, Sequence[Any] | None] = {
        "text": item.texts,
        "score": item.scores,
        "mean_score": item.mean_scores,
        "teacher_score": item.teacher_scores,
        "utility": item.utilities,
        "tokens": item.tokens,
        "history": item.history,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    row: dict[str, Any] = {"index": i} | ({"line": text.lines[i]} if text.lines is not None else {})
    row |= {"source": text.sources[i], "translation": item.best, "score": item.scores[item.chosen]}
    if item.teacher_scores is not None:
        row["teacher_score"] = item.teacher_scores[item.chosen]
    row |= {"nbest": [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]}
    row |= {"chosen": item.chosen, "passes": item.passes, "truncated": item.truncated}
    return row | ({"reference": text.references[i]} if text.references is not None else {})
