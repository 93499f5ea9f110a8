"""nat-edit's work: is a run good at editing? Post-editing of spoiled drafts, and terms that must stay.

drafts        the teacher's translations, of whose words a share is dropped or replaced; their BLEU, and that of what
              the run makes of them
constraints   random words of other sentences, in many cases: are they all in the translation?
              words of the sentence's own reference: does the translation get better?
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat.config import option, to_plain
from nat.data.vocabulary import Symbol, Tokenizer
from nat.decoding.requests import CONSTRAINTS, DRAFT, Request
from nat.errors import ConfigError
from nat.evaluation.editing import constraint_report
from nat.evaluation.inputs import Split, Text, read_split
from nat.evaluation.opening import Runs, SystemConfig, SystemOptions, open_system
from nat.evaluation.results import translate
from nat.evaluation.system import System
from nat.files import write_json
from nat.nn.rng import seed_for
from nat.scoring.scores import score_corpus


@dataclass(frozen=True, kw_only=True)
class EditStudyConfig(SystemConfig):
    """Everything that `configs/edit.yaml` holds."""

    first_keys = ("run_dir", "teacher")

    teacher: str = option(help="run folder whose translations are spoiled to be drafts")
    output: str | None = option(None, "JSON file of the figures")
    split: Split = option(Split.TEST, "what is translated: test, valid or train")
    noise: float = option(0.2, "share of a draft's words that are dropped or replaced", above=0, maximum=1)
    num_cases: int = option(1000, "cases of random constraints", minimum=1, maximum=10_000_000)
    num_constraints: int = option(3, "random constraints of a case, at most", minimum=1, maximum=1000)
    num_words: int = option(2, "words of a constraint, at most", minimum=1, maximum=1000)
    seed: int = option(1, "seed of the noise and of the constraints", minimum=0)

    @property
    def runs(self) -> Iterable[str | None]:
        return *super().runs, self.teacher


def edit_study(config: EditStudyConfig) -> dict[str, Any]:
    """All figures. Raises ConfigError or DataError before any translation where an option or a run is unusable, and
    for a run that can neither start from a draft nor keep constraints."""
    config.prepare()
    system, teacher = open_both(config)
    text = read_split(system.translator, config.split, config.data)
    kept = [
        i for i, (source, line) in enumerate(zip(text.sources, text.references or [], strict=True)) if source and line
    ]
    text = text.select(kept)
    system.encode(text)  # too long ones are refused now
    abilities = system.translator.model.edits
    plain = translate(system, text.sources, name="unaided").best
    figures: dict[str, Any] = {"run_dir": config.run_dir, "teacher": config.teacher}
    figures |= {"num_sentences": len(kept), "bleu": bleu(plain, text)}
    if DRAFT in abilities:
        figures |= study_drafts(config, system, teacher, text)
    if CONSTRAINTS in abilities:
        figures |= study_random_constraints(config, system, text) | study_right_constraints(config, system, text)
    if config.output is not None:
        write_json(Path(config.output), figures)
    return figures


def open_both(config: EditStudyConfig) -> tuple[System, System]:
    """The run and its teacher, which decodes as its method does by itself."""
    runs = Runs(config.device)
    translator = runs.open(config.run_dir, weights=config.weights)
    if not translator.model.edits & {DRAFT, CONSTRAINTS}:
        raise ConfigError(f"run_dir={config.run_dir}: a {type(translator.model).__name__} checkpoint cannot edit")
    system = open_system(config.system, runs)
    teacher = SystemOptions(config.teacher, decoding=to_plain(system.batches))
    return system, open_system(teacher, runs)


def bleu(lines: Sequence[str], text: Text) -> float:
    assert text.references is not None
    return score_corpus(lines, text.references, tokenizer=text.tokenizer).bleu


# --- drafts ----------------------------------------------------------------------------------------


def study_drafts(config: EditStudyConfig, system: System, teacher: System, text: Text) -> dict[str, Any]:
    """BLEU of the teacher, of its spoiled translations, and of what the run makes of them."""
    taught = translate(teacher, text.sources, name="teacher").best
    drafts = spoil(taught, share=config.noise, seed=config.seed)
    requests = [Request(source, draft=draft) for source, draft in zip(text.sources, drafts, strict=True)]
    edited = translate(system, requests, name="drafts")
    return {
        "teacher_bleu": bleu(taught, text),
        "draft_bleu": bleu(drafts, text),
        "edited_bleu": bleu(edited.best, text),
        "edited_passes": edited.mean_passes,
    }


def spoil(lines: Sequence[str], *, share: float, seed: int) -> list[str]:
    """Each word is, with probability `share`, dropped or replaced by a word of the lines, one as often as the other;
    a line keeps one word at least."""
    words = [line.split() for line in lines]
    vocabulary = sorted({word for line in words for word in line})
    spoiled = []
    for number, line in enumerate(words):
        chance = random.Random(seed_for("spoil", seed, number))
        kept = []
        for word in line:
            if chance.random() >= share:
                kept.append(word)
            elif chance.random() < 0.5:
                kept.append(chance.choice(vocabulary))
        spoiled.append(" ".join(kept or line[:1]))
    return spoiled


# --- constraints -----------------------------------------------------------------------------------


def study_random_constraints(config: EditStudyConfig, system: System, text: Text) -> dict[str, Any]:
    """Cases of a random source with up to num_constraints constraints out of any references."""
    assert text.references is not None
    tokenizer = system.translator.sides(system.decoding)[1]
    requests = []
    for number in range(config.num_cases):
        chance = random.Random(seed_for("cases", config.seed, number))
        count = chance.randint(1, config.num_constraints)
        drawn = [span(chance.choice(text.references), chance, config.num_words) for _ in range(count)]
        terms = tuple(term for term in drawn if spelled(term, tokenizer))
        requests.append(Request(chance.choice(text.sources), constraints=terms))
    best = translate(system, requests, name="random constraints").best
    kept = constraint_report(requests, best, tokenizer)
    whole = sum(
        constraint_report([request], [line], tokenizer).get("num_constraints_kept", 0) == len(request.constraints)
        for request, line in zip(requests, best, strict=True)
    )
    return {"num_cases": config.num_cases, "num_cases_kept": whole} | kept


def study_right_constraints(config: EditStudyConfig, system: System, text: Text) -> dict[str, Any]:
    """BLEU with one term of each sentence's own reference as a constraint."""
    assert text.references is not None
    tokenizer = system.translator.sides(system.decoding)[1]
    requests = []
    for number, (source, reference) in enumerate(zip(text.sources, text.references, strict=True)):
        term = span(reference, random.Random(seed_for("right", config.seed, number)), config.num_words)
        requests.append(Request(source, constraints=(term,) if spelled(term, tokenizer) else ()))
    best = translate(system, requests, name="right constraints").best
    return {"constrained_bleu": bleu(best, text)}


def span(line: str, chance: random.Random, num_words: int) -> str:
    """Up to `num_words` neighbouring words of a line."""
    words = line.split()
    count = chance.randint(1, min(num_words, len(words)))
    begin = chance.randint(0, len(words) - count)
    return " ".join(words[begin : begin + count])


def spelled(text: str, tokenizer: Tokenizer) -> bool:
    (ids,) = tokenizer.encode([text])
    return bool(ids) and int(Symbol.UNK) not in ids


def describe_study(figures: dict[str, Any]) -> str:
    """For people to read."""
    lines = [f"{figures['num_sentences']} sentences; BLEU unaided: {figures['bleu']:.2f}"]
    if "edited_bleu" in figures:
        lines.append(
            f"drafts: BLEU of the teacher {figures['teacher_bleu']:.2f}, spoiled {figures['draft_bleu']:.2f}, edited "
            f"{figures['edited_bleu']:.2f} ({figures['edited_bleu'] - figures['draft_bleu']:+.2f}) in "
            f"{figures['edited_passes']:.2f} passes"
        )
    if "num_constraints" in figures:
        kept, total = figures["num_constraints_kept"], figures["num_constraints"]
        lines.append(
            f"random constraints: kept {100 * kept / total:.4g} % ({kept} of {total}), all of them in "
            f"{figures['num_cases_kept']} of {figures['num_cases']} cases"
        )
        gain = figures["constrained_bleu"] - figures["bleu"]
        lines.append(f"constraints of the reference: BLEU {figures['constrained_bleu']:.2f} ({gain:+.2f})")
    return "\n".join(lines)
