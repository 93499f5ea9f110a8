"""nat-cloze's work: what one KERMIT checkpoint can do. Translation both ways, and words filled into gaps.

Cloze as in Chan et al. 2019, section 4.3 (https://arxiv.org/abs/1906.01604), without any training for it: one whole
word of one side of a held-out pair is taken out, the rest of both sides is given, and the model inserts what it likes
into that gap alone. Beside it stands the baseline that answers every gap with the most frequent word of the language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.config import option, to_plain
from nat.data.batch import Draft
from nat.data.tokenizer import SPACE
from nat.data.vocabulary import Symbol, Tokenizer
from nat.decoding.batch_options import BatchOptions
from nat.decoding.candidates import one_line
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Split, read_corpus
from nat.evaluation.opening import Runs, SystemConfig, open_system
from nat.evaluation.results import translate
from nat.evaluation.speed import spread_indices
from nat.evaluation.system import System
from nat.files import write_json
from nat.models.kermit import Direction, Kermit, gapped
from nat.nn.joint import Side
from nat.nn.rng import seed_for
from nat.progress import Progress
from nat.runs.folder import run_summary
from nat.scoring.scores import score_corpus


@dataclass(frozen=True, kw_only=True)
class ClozeConfig(SystemConfig):
    """Everything that `configs/cloze.yaml` holds."""

    first_keys = ("run_dir", "weights")

    split: Split = option(Split.TEST, "what is translated and has gaps: test, valid or train")
    max_sentences: int | None = option(None, "only the first n pairs of the split; null: all", minimum=1)
    output: str | None = option(None, "JSON file of the report with every gap; null: none is written")
    examples: int = option(5, "gaps of each side that are printed", minimum=0)
    seed: int = option(1, "seed of the choice of the words that are taken out", minimum=0)

    def __post_init__(self) -> None:
        if "direction" in self.decoding:
            raise ConfigError(f"decoding.direction={self.decoding['direction']}: has no effect, both are translated")
        if self.decoding.get("num_candidates", 1) != 1:
            raise ConfigError(
                f"decoding.num_candidates={self.decoding['num_candidates']}: has no effect, the first is the answer"
            )


@dataclass(frozen=True)
class Word:
    """A word of a tokenised sentence. start, end: its tokens; text: what they spell."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Gap:
    """A pair (its index) with a word of one side taken out."""

    pair: int
    side: Side
    word: Word


class Words:
    """Finds the words of a side in its tokens.

    A word is all tokens between two spaces, but for those of punctuation at its ends: it is letters (and hyphens or
    apostrophes within) alone, so that the tokens of the rest of the sentence are those of the whole one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = tokenizer.pieces(range(tokenizer.size))
        self.begins = [piece.startswith(SPACE) for piece in pieces]
        self.is_text = [any(char.isalnum() for char in piece) for piece in pieces]
        self.known: dict[tuple[int, ...], str] = {}

    def of(self, ids: Sequence[int]) -> list[Word]:
        """The words of a sentence of these tokens, from left to right."""
        starts = [i for i, token in enumerate(ids) if i == 0 or self.begins[token]]
        words = [self._trimmed(ids, start, end) for start, end in pairwise([*starts, len(ids)])]
        return [word for word in words if is_word(word.text)]

    def _trimmed(self, ids: Sequence[int], start: int, end: int) -> Word:
        while start < end and not self.is_text[ids[start]]:
            start += 1
        while start < end and not self.is_text[ids[end - 1]]:
            end -= 1
        return Word(start, end, self._text(ids[start:end]))

    def _text(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self.known:
            self.known[key] = "" if int(Symbol.UNK) in key else self.tokenizer.decode([key])[0].strip()
        return self.known[key]


def is_word(text: str) -> bool:
    """Letters, with hyphens or apostrophes between them."""
    return bool(text) and text[0].isalpha() and text[-1].isalpha() and all(c.isalpha() or c in "-'’" for c in text)


def choose_gaps(rows: Sequence[Sequence[int]], side: Side, words: Words, *, seed: int) -> list[Gap]:
    """One gap for each sentence that has a word, any of its words alike. The choice depends on the sentence and the
    seed alone. rows: the tokens of this side of each pair."""
    gaps = []
    for number, ids in enumerate(rows):
        candidates = words.of(ids)
        if candidates:
            gaps.append(Gap(number, side, candidates[seed_for("cloze", seed, int(side), *ids) % len(candidates)]))
    return gaps


def most_frequent(rows: Sequence[Sequence[int]], words: Words) -> str:
    """The most frequent word; of several the first in the alphabet. Raises DataError where there is none."""
    counts = Counter(word.text for ids in rows for word in words.of(ids))
    if not counts:
        raise DataError("split train: there is no word in it, of letters alone, to count")
    return min(counts, key=lambda text: (-counts[text], text))


@torch.inference_mode()
def answers(
    model: Kermit,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    gaps: Sequence[Gap],
    *,
    decoding: Kermit.Decoding,
    batches: BatchOptions,
    device: torch.device,
    advance: Callable[[int], None] = lambda gaps: None,
) -> list[list[int]]:
    """What the model inserts into each gap, one token at least: a word is missing there. pairs: tokens of source and
    target."""
    answered: list[list[int]] = [[] for _ in gaps]
    lengths = [sum(map(len, pairs[gap.pair])) for gap in gaps]
    for chosen in batches.cut(lengths):
        drafts = [draft_of([gaps[i] for i in chosen], pairs, side).to(device) for side in Side]
        filled = model.fill(drafts[0], drafts[1], decoding=decoding, nonempty=True)
        for row, i in enumerate(chosen):
            gap, text = gaps[i], filled[gaps[i].side]
            ids = text.tokens[row, 0][text.valid[row, 0]].tolist()
            right = len(pairs[gap.pair][gap.side]) - gap.word.end
            answered[i] = ids[gap.word.start : len(ids) - right]
        advance(len(chosen))
    return answered


def draft_of(gaps: Sequence[Gap], pairs: Sequence[tuple[Sequence[int], Sequence[int]]], side: Side) -> Draft:
    """One side of the pairs of these gaps: given whole, or without the word, with its gap alone open."""
    rows = [list(pairs[gap.pair][side]) for gap in gaps]
    for row, gap in zip(rows, gaps, strict=True):
        if gap.side is side:
            del row[gap.word.start : gap.word.end]
    return gapped(rows, [[gap.word.start] if gap.side is side else [] for gap in gaps])


# --- the command -----------------------------------------------------------------------------------


def cloze(config: ClozeConfig) -> dict[str, Any]:
    """Translate both ways, fill gaps on both sides, score, write. Returns the report.

    Raises ConfigError or DataError before any translation where an option, a run or a file is unusable.
    """
    config.prepare()
    runs = Runs(config.device)
    translator = runs.open(config.run_dir, weights=config.weights)
    if not isinstance(translator.model, Kermit):
        raise ConfigError(
            f"run_dir={config.run_dir}: a {type(translator.model).__name__} model; both directions and gaps need "
            "KERMIT (nat-train model=kermit)"
        )
    system = open_system(config.system, runs)
    held_out = read_pairs(translator, config.split, config.data).first(config.max_sentences)
    held_out.check_lengths(translator)
    baselines = baseline_words(read_pairs(translator, Split.TRAIN, config.data), translator)
    report = heading(config, system, held_out)
    report |= {"translation": translate_both(system, held_out)}
    report |= {"cloze": fill_gaps(system, held_out, baselines, seed=config.seed)}
    if config.output is not None:
        write_json(Path(config.output), report)
    return report


@dataclass(frozen=True)
class Pairs:
    """A split: texts and tokens of both sides, by `Side`; the lines of its file; how many pairs were left out."""

    name: str
    texts: tuple[list[str], list[str]]
    rows: tuple[list[list[int]], list[list[int]]]
    lines: list[int]
    num_dropped: int

    def first(self, count: int | None) -> Pairs:
        texts, rows = ((side[0][:count], side[1][:count]) for side in (self.texts, self.rows))
        return Pairs(self.name, texts, rows, self.lines[:count], self.num_dropped)  # type: ignore[arg-type]

    def check_lengths(self, translator: Translator) -> None:
        """Raises DataError naming the line of a side or pair that is too long for the model."""
        model = translator.model
        for line, *sides in zip(self.lines, *self.rows, strict=True):
            lengths = [len(side) for side in sides]
            for number, limit, what in (
                (max(lengths), model.max_source_length, ""),
                (sum(lengths), model.max_total_length, " of both sides"),
            ):
                if limit is not None and number > limit:
                    most = f"takes at most {limit}{what} ({model.limiting})"
                    raise DataError(f"{self.name}, line {line}: {number} tokens, but {translator.folder} {most}")


def read_pairs(translator: Translator, split: Split, changes: dict[str, Any]) -> Pairs:
    """A split of the run's corpus, with `changes` of its data options. Raises ConfigError or DataError."""
    corpus = read_corpus(translator, split, changes)
    if len(corpus.sentences) < len(corpus):
        raise ConfigError(
            "data.target: gaps are filled in pairs of one source and one target, here are several; name one"
        )
    every = np.arange(len(corpus))
    pairs = corpus.pairs(every)
    rows = [pair.source for pair in pairs], [pair.target for pair in pairs]
    dropped = corpus.report.to_plain()["dropped"]
    return Pairs(f"split {split.value}", corpus.texts(every), rows, corpus.lines.tolist(), dropped)


def tokenizer_of(translator: Translator, side: Side) -> Tokenizer:
    return (translator.tokenizers.source, translator.tokenizers.target)[side]


def languages(translator: Translator) -> tuple[str, str]:
    """Names of source and target."""
    return translator.data_option("source", "source"), translator.data_option("target", "target")


def baseline_words(training: Pairs, translator: Translator) -> list[str]:
    """The most frequent word of each side of the training pairs."""
    return [most_frequent(training.rows[side], Words(tokenizer_of(translator, side))) for side in Side]


def translate_both(system: System, pairs: Pairs) -> list[dict[str, Any]]:
    """Scores of both directions."""
    rows = []
    names = languages(system.translator)
    for direction, read in ((Direction.FORWARD, Side.SOURCE), (Direction.BACKWARD, Side.TARGET)):
        written = Side(1 - read)
        name = f"{names[read]}-{names[written]}"
        decoding = replace(system.decoding, direction=direction)  # type: ignore[call-arg]
        translations = translate(replace(system, decoding=decoding), pairs.texts[read], name=name)
        outputs = translations.best
        row = {"direction": direction.value, "languages": name, "passes": translations.mean_passes}
        row |= {"num_truncated": sum(item.truncated for item in translations.candidates)}
        row |= {"num_empty": outputs.count("")} | asdict(score_corpus(outputs, pairs.texts[written]))
        rows.append({key: value for key, value in row.items() if not key.startswith("ter")})
    return rows


def fill_gaps(system: System, pairs: Pairs, baselines: Sequence[str], *, seed: int) -> list[dict[str, Any]]:
    """Accuracies of both sides, and every gap. baselines: the word that the baseline always says, of each side."""
    translator = system.translator
    assert isinstance(translator.model, Kermit)
    assert isinstance(system.decoding, Kermit.Decoding)
    rows = []
    for side in reversed(Side):
        tokenizer, name = tokenizer_of(translator, side), languages(translator)[side]
        gaps = choose_gaps(pairs.rows[side], side, Words(tokenizer), seed=seed)
        if not gaps:
            raise DataError(f"{pairs.name}: there is no {name} word in it, of letters alone, to take out")
        with Progress(f"fill {name}", total=len(gaps), unit="gaps") as progress:
            answered = answers(
                translator.model,
                list(zip(*pairs.rows, strict=True)),
                gaps,
                decoding=system.decoding,
                batches=system.batches,
                device=translator.device,
                advance=progress.advance,
            )
        said = [one_line(text).strip() for text in tokenizer.decode(answered)]
        right = [gap.word.text == text for gap, text in zip(gaps, said, strict=True)]
        by_chance = [gap.word.text == baselines[side] for gap in gaps]
        rows.append(
            {
                "side": side.name.lower(),
                "language": name,
                "num_gaps": len(gaps),
                "num_correct": sum(right),
                "accuracy": sum(right) / len(gaps),
                "baseline_word": baselines[side],
                "baseline_num_correct": sum(by_chance),
                "baseline_accuracy": sum(by_chance) / len(gaps),
                "num_without_word": len(pairs.lines) - len(gaps),
                "gaps": [gap_row(gap, pairs, tokenizer, text) for gap, text in zip(gaps, said, strict=True)],
            }
        )
    return rows


def gap_row(gap: Gap, pairs: Pairs, tokenizer: Tokenizer, answer: str) -> dict[str, Any]:
    """A gap for people and for results: the sentence with ___ for the word, its other side, word and answer."""
    ids = pairs.rows[gap.side][gap.pair]
    left, right = tokenizer.decode([ids[: gap.word.start], ids[gap.word.end :]])
    other = pairs.texts[Side(1 - gap.side)][gap.pair]
    row = {"line": pairs.lines[gap.pair], "given": other, "sentence": one_line(f"{left} ___ {right}".strip())}
    return row | {"word": gap.word.text, "answer": answer, "correct": gap.word.text == answer}


def heading(config: ClozeConfig, system: System, pairs: Pairs) -> dict[str, Any]:
    """What was asked of what."""
    folder = system.translator.folder
    options = {name: value for name, value in to_plain(system.decoding).items() if name != "direction"}
    return {
        "run_dir": str(folder),
        "weights": config.weights or run_summary(folder).get("weights"),
        "text": pairs.name,
        "num_sentences": len(pairs.lines),
        "num_dropped": pairs.num_dropped,
        "seed": config.seed,
        "decoding": options,
    }


def describe(report: dict[str, Any], *, examples: int) -> str:
    """The report for people to read. examples: gaps of each side, spread over the text."""
    lines = [
        f"KERMIT {report['run_dir']} (weights: {report['weights']}), {report['text']}: {report['num_sentences']} "
        f"sentences ({report['num_dropped']} left out)"
    ]
    for row in report["translation"]:
        lines.append(
            f"{row['languages']}  BLEU {row['bleu']:.2f}  chrF {row['chrf']:.2f}  length ratio "
            f"{row['length_ratio']:.3f}  passes {row['passes']:.2f}  at the length limit {row['num_truncated']}"
        )
    lines += [f"  {report['translation'][0][f'{metric}_signature']}" for metric in ("bleu", "chrf")]
    for row in report["cloze"]:
        lines.append(
            f"cloze {row['language']}  accuracy {100 * row['accuracy']:.2f} % ({row['num_correct']} of "
            f"{row['num_gaps']})  always '{row['baseline_word']}': {100 * row['baseline_accuracy']:.2f} % "
            f"({row['baseline_num_correct']})  sentences without a word {row['num_without_word']}"
        )
    for row in report["cloze"]:
        for i in spread_indices(row["num_gaps"], examples):
            gap = row["gaps"][i]
            mark = "right" if gap["correct"] else f"the word is '{gap['word']}'"
            lines += ["", f"given   {gap['given']}", f"gap     {gap['sentence']}", f"answer  '{gap['answer']}', {mark}"]
    return "\n".join(lines)
