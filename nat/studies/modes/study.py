"""nat-modes' work, the study of multi-modality: of several languages that a source may be translated to, does a system
choose one for a sentence, or mix them? (Gu et al. 2018; Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.)

DIR/study.json     a row for each system, the references' rows, the accuracy of the languages, the training texts
DIR/study.md       the same as tables
DIR/simplex.png    every sentence of every system in the triangle of the languages; also simplex.svg
DIR/outputs/       every system's translations, NAME.txt, one a line; source.txt and reference.LANGUAGE.txt beside them
DIR/languages/     NAME.jsonl: a translation a line, with the language of its words and of its token pieces
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nat.config import option
from nat.drawing.simplex import Panel, check_simplex, drawable, write_simplex
from nat.drawing.style import check_plots, has_plots
from nat.evaluation.opening import SystemsConfig, open_systems
from nat.evaluation.results import Translations, provenance, translate
from nat.evaluation.system import System
from nat.files import to_json, write_json, write_text
from nat.reporting.outputs import file_names, write_lines
from nat.runs.outputs import Output, in_folder
from nat.scoring.claims import Claim, parse_claim
from nat.scoring.scores import score_corpus
from nat.scoring.tokenization import BleuTokenizer
from nat.studies.modes.accuracy import TELLING, accuracy
from nat.studies.modes.languages import Languages, Posteriors, weights_of, words_of
from nat.studies.modes.mixing import (
    Contents,
    chance,
    chosen,
    entropy,
    excess,
    plain_mixing,
    resamples,
)
from nat.studies.modes.tables import describe
from nat.studies.modes.texts import (
    Sentences,
    check_aligner,
    has_aligner,
    learn_languages,
    measure,
    read_sentences,
    training_names,
)

FILES = ("study.json", "study.md", "simplex.png", "simplex.svg", "outputs/", "languages/")
REFERENCES = "references"
SCORES = ("bleu", "chrf", "bleu_signature", "chrf_signature", "length_ratio", "repetition_rate")


@dataclass(frozen=True, kw_only=True)
class ModesConfig(SystemsConfig):
    """Everything that `configs/modes.yaml` holds. The first run is one on raw text: its text tells the languages."""

    smoothing: float = option(1.0, "occurrences that a word's spelling counts for, beside those in the text", above=0)
    alignments: bool | None = option(None, "complexity and faithfulness of the training texts by a word aligner")
    plots: bool | None = option(None, "the simplex, of three languages; null: where that can be")
    claims: list[str] = option([], "pairs of systems, 'A > B': A mixes more")

    @property
    def outputs(self) -> dict[str, Output]:
        return in_folder(self.output, FILES, begins=r"\| system \| trained on \|", proof="study.md")


@dataclass(frozen=True, eq=False)
class Judged:
    """A text and what it is made of. floor: the references of the languages that it chose."""

    name: str
    contents: Contents
    floor: Contents


def study(config: ModesConfig) -> tuple[dict[str, Any], str]:
    """Translate, tell the languages, measure, write. Returns what study.json holds and the tables. Raises ConfigError
    or DataError before any translation where an option, a run or a text is unusable."""
    config.prepare()
    folder = Path(config.output)
    check_packages(config)
    systems = open_systems(config)
    claims = [parse_claim(claim, [system.name for system in systems]) for claim in config.claims]
    first = systems[0].translator
    sentences = read_sentences(first, config.split, config.data)
    for system in systems:
        system.encode(sentences.text)  # too long ones are refused now
    names = list(sentences.references)
    if config.plots:
        check_simplex(names)
    languages = learn_languages(first, config.data, names, smoothing=config.smoothing)
    texts = measure(systems) if config.alignments or (config.alignments is None and has_aligner()) else None
    references = [Contents.of(lines, languages) for lines in sentences.references.values()]
    originals = named_texts(sentences)
    files = file_names([system.name for system in systems], taken=originals)
    rows, judged = [], []
    lines_of = {f"outputs/{name}.txt": part for name, part in originals.items()}  # by file, written when all is known
    for system, training in zip(systems, training_names(systems), strict=True):
        translations = translate(system, sentences.text.sources, name=system.name)
        contents, output = Contents.of(translations.best, languages), f"outputs/{files[system.name]}.txt"
        judged.append(Judged(system.name, contents, chosen(contents, references)))
        row = {"name": system.name, "training_text": training, "output": output} | measured(judged[-1], names)
        row |= scored(translations, judged[-1], sentences, config.bleu_tokenizer)
        rows.append(row | provenance(system))
        languages_of = language_lines(system, translations, contents, sentences, languages)
        lines_of |= {output: translations.best, f"languages/{files[system.name]}.jsonl": list(languages_of)}
    reference_texts = [Judged(f"{REFERENCES} {name}", part, part) for name, part in zip(names, references, strict=True)]
    figures = {
        "languages": names,
        "text": sentences.text.name,
        "num_sentences": len(sentences.text.sources),
        "num_incomplete": sentences.num_incomplete,
        "smoothing": config.smoothing,
        "systems": rows,
        "references": [{"name": text.name} | measured(text, names) for text in reference_texts],
        "claims": [examine(claim, {text.name: text for text in judged}) for claim in claims],
        "accuracy": accuracy(languages, sentences.references, first.sides()[1]),
        "telling_weight": TELLING,
        "training_texts": texts,
    }
    tables = describe(figures)
    write_text(folder / "study.md", tables)
    for name, lines in lines_of.items():
        write_lines(folder / name, lines)
    if config.plots is not False and has_plots() and drawable(names):
        write_simplex([panel(text) for text in (*judged, joined(reference_texts))], names, folder)
    write_json(folder / "study.json", figures)
    return figures, tables


def check_packages(config: ModesConfig) -> None:
    """Raises ConfigError where one is asked for and missing."""
    if config.plots:
        check_plots()
    if config.alignments:
        check_aligner()


# --- figures ---------------------------------------------------------------------------------------


def measured(text: Judged, names: Sequence[str]) -> dict[str, Any]:
    """Mixing in all its forms, and the languages of the sentences; untold: those without a word that tells."""
    contents = text.contents
    counts = np.bincount(contents.main[contents.telling], minlength=len(names))
    return {
        **asdict(excess(contents, text.floor, resamples(len(contents.masses)))),
        "plain_mixing": plain_mixing(contents),
        "entropy": entropy(contents),
        "sentences_by_language": dict(zip(names, counts.tolist(), strict=True)),
        "num_untold": int((~contents.telling).sum()),
    }


def scored(
    translations: Translations, text: Judged, sentences: Sentences, tokenizer: BleuTokenizer | None
) -> dict[str, Any]:
    """BLEU and chrF against the reference in the language that each translation chose, and against all references."""
    by_language = list(sentences.references.values())
    own = [by_language[number][i] for i, number in enumerate(text.contents.main)]
    alone = score_corpus(translations.best, own, tokenizer=tokenizer)
    every = score_corpus(translations.best, sentences.text.references or [], tokenizer=tokenizer)
    return {name: getattr(alone, name) for name in SCORES} | {
        "bleu_all_references": every.bleu,
        "bleu_all_references_signature": every.bleu_signature,
        "passes": translations.mean_passes,
    }


def examine(claim: Claim, texts: Mapping[str, Judged]) -> dict[str, Any]:
    """Whether the better of a claim, which here mixes more, does so above its floor."""
    more, less = texts[claim.better], texts[claim.worse]
    rows = resamples(len(more.contents.masses))
    values = [excess(text.contents, text.floor, rows).excess for text in (more, less)]
    p_value = chance(more.contents, more.floor, less.contents, less.floor, rows)
    return {"claim": str(claim), "excess": values, "p_value": p_value, "holds": values[0] > values[1]}


# --- files -----------------------------------------------------------------------------------------


def panel(text: Judged) -> Panel:
    """What the picture shows of a text."""
    contents = text.contents
    mixed = excess(contents, text.floor, resamples(len(contents.masses)))
    note = f"mixing {100 * mixed.mixing:.1f} %, floor {100 * mixed.floor:.1f} %"
    return Panel(text.name, note, contents.shares[contents.telling], contents.main[contents.telling])


def joined(texts: Sequence[Judged]) -> Judged:
    """The references of all languages as one text."""
    masses, means = (np.concatenate([getattr(text.contents, name) for text in texts]) for name in ("masses", "means"))
    return Judged(REFERENCES, Contents(masses, means), Contents(masses, means))


def named_texts(sentences: Sentences) -> dict[str, list[str]]:
    """Sources and references, by the name of their file."""
    return {"source": sentences.text.sources} | {
        f"reference.{name}": lines for name, lines in sentences.references.items()
    }


def language_lines(
    system: System, translations: Translations, contents: Contents, sentences: Sentences, languages: Languages
) -> Iterator[str]:
    """JSON objects. line: in the split's file. language: the main one, null where no word tells. shares: of the
    languages, in their order. words, pieces: each with its language, null where it tells too little. posteriors: of the
    words."""
    tokenizer = system.translator.sides(system.decoding)[1]
    for i, (item, line) in enumerate(zip(translations.candidates, sentences.text.lines or [], strict=True)):
        words, pieces = words_of(item.best), tokenizer.pieces(item.tokens[item.chosen])
        posteriors = languages.posteriors(words)
        texts, parts = [word.text for word in words], languages.of_pieces(pieces)
        fields = {
            "line": line,
            "source": sentences.text.sources[i],
            "translation": item.best,
            "language": languages.names[contents.main[i]] if contents.telling[i] else None,
            "shares": [round(float(share), 4) for share in contents.shares[i]],
            "words": [list(pair) for pair in zip(texts, languages_told(posteriors, languages), strict=True)],
            "posteriors": [[round(float(p), 4) for p in row] for row in posteriors],
            "pieces": [list(pair) for pair in zip(pieces, languages_told(parts, languages), strict=True)],
        }
        yield to_json(fields)


def languages_told(posteriors: Posteriors, languages: Languages) -> list[str | None]:
    """The language of each, None where it tells too little."""
    weights = weights_of(posteriors)
    return [languages.names[row.argmax()] if w > TELLING else None for row, w in zip(posteriors, weights, strict=True)]
