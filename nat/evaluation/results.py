"""What is known of a system's translations: scores, candidates, speed, and what made them. The fields of nat-decode's
OUTPUT.json and of nat-report's rows."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch

import nat
from nat.config import to_plain
from nat.data.references import all_references
from nat.decoding.candidates import Candidates, Metric, sentence_bleu, with_teacher_scores
from nat.decoding.requests import Sentence, source_of
from nat.evaluation.inputs import Text
from nat.evaluation.speed import Speed, device_name, machine_name, translate_timed
from nat.evaluation.system import System
from nat.progress import Progress
from nat.runs.folder import run_summary
from nat.scoring.chrf import sentence_chrf
from nat.scoring.polygons import score_points
from nat.scoring.scores import copied_rate, exact_match_rate, repetition_rate, score_corpus, unknown_rate

GROUPS = (4, 7, 10, 15, 21, 31)  # words of the source that begin a group of BLEU by length
LONGER = 5  # scores on sources of so many words and more stand beside the whole: short lines flatter
SPEEDS = ("ms_per_sentence_p50", "ms_per_sentence_p95", "sentences_per_second")


@dataclass(frozen=True)
class Translations:
    """candidates: of each sentence, in input order. seconds: what all took together, the choice included."""

    candidates: list[Candidates]
    seconds: float

    @property
    def best(self) -> list[str]:
        return [item.best for item in self.candidates]

    @property
    def filled(self) -> list[Candidates]:
        """Of sentences that are not empty."""
        return [item for item in self.candidates if item.filled]

    @property
    def mean_passes(self) -> float:
        """Decoder calls of a sentence that is not empty."""
        return sum(item.passes for item in self.filled) / max(1, len(self.filled))


def translate(system: System, sentences: Sequence[Sentence], *, name: str = "") -> Translations:
    """All sentences, timed; with a teacher's scores, even where it had no say (that is not timed)."""
    with Progress(f"translate {name}".strip(), total=len(sentences), unit="sentences") as progress:
        timed = translate_timed(system, sentences, advance=progress.advance)
    candidates = timed.candidates
    if system.scorer is not None and any(item.teacher_scores is None for item in candidates):
        with Progress("score", total=len(sentences), unit="sentences") as progress:
            candidates = with_teacher_scores(
                candidates,
                [source_of(sentence) for sentence in sentences],
                system.scorer.translator,
                batches=system.batches,
                advance=progress.advance,
            )
    return Translations(candidates, timed.seconds)


def results(
    system: System, text: Text, translations: Translations, *, alone: Sequence[float], ter: bool = False
) -> dict[str, Any]:
    """All fields but those of COMET. alone: milliseconds of sentences by themselves; empty where nothing was timed."""
    report = (
        quality(text, translations, ter=ter)
        | point_report(system, text, translations)
        | candidate_report(system, text, translations)
        | teacher_report(system, translations)
        | drafter_report(system, translations)
    )
    return report | speed_report(speed_of(system, alone, translations)) | provenance(system)


def quality(text: Text, translations: Translations, *, ter: bool = False) -> dict[str, Any]:
    """Scores (null without references), rates and counts."""
    best, filled = translations.best, translations.filled
    return {
        "text": text.name,
        "num_sentences": len(best),
        **score_report(text, best, ter=ter),
        "exact_match": None if text.references is None else exact_match_rate(best, text.references),
        "copied_rate": copied_rate(best, text.sources),
        "repetition_rate": repetition_rate(best),
        "unknown_rate": unknown_rate([item.tokens[item.chosen] for item in translations.candidates]),
        "passes": translations.mean_passes,
        "passes_by_length": passes_by_length(filled),
        "num_empty": len(best) - len(filled),
        "num_empty_translations": sum(not item.best for item in filled),
        "num_truncated": sum(item.truncated for item in filled),
        "num_cut_sources": text.dropped["cut_sources"] if text.dropped else 0,
        "num_dropped": text.dropped["dropped"] if text.dropped else 0,
        "dropped_reasons": text.dropped["reasons"] if text.dropped else {},
    }


def passes_by_length(filled: Sequence[Candidates]) -> list[dict[str, Any]]:
    """Mean passes of the translations of each length in tokens, and how many there are."""
    groups: dict[int, list[int]] = {}
    for item in filled:
        groups.setdefault(len(item.tokens[item.chosen]), []).append(item.passes)
    return [
        {"length": length, "sentences": len(passes), "passes": sum(passes) / len(passes)}
        for length, passes in sorted(groups.items())
    ]


def score_report(text: Text, best: Sequence[str], *, ter: bool) -> dict[str, Any]:
    """Scores on all sentences, and on those whose source has LONGER words or more."""
    longer = [i for i, source in enumerate(text.sources) if len(source.split()) >= LONGER]
    names = ("bleu", "bleu_signature", "chrf", "chrf_signature", "length_ratio")
    report: dict[str, Any] = dict.fromkeys(names)
    report |= {f"bleu_{LONGER}plus_words": None, f"chrf_{LONGER}plus_words": None}
    report |= {f"num_{LONGER}plus_words": len(longer), "bleu_by_source_words": None}
    if text.references is None or not best:
        return report
    scores = score_corpus(best, text.references, tokenizer=text.tokenizer, ter=ter)
    report |= {name: getattr(scores, name) for name in names}
    report["bleu_by_source_words"] = bleu_by_source_words(text, best)
    if ter:
        report |= {"ter": scores.ter, "ter_signature": scores.ter_signature}
    if longer:
        references = [text.references[i] for i in longer]
        part = score_corpus([best[i] for i in longer], references, tokenizer=text.tokenizer)
        report |= {f"bleu_{LONGER}plus_words": part.bleu, f"chrf_{LONGER}plus_words": part.chrf}
    return report


def point_report(system: System, text: Text, translations: Translations) -> dict[str, Any]:
    """Scores of polygons and triangles, see `score_points`; {} for text, and without references."""
    points = system.translator.tokenizers.vocabularies.points and text.references is not None
    return score_points(text.sources, translations.best, text.references or []) if points else {}


def bleu_by_source_words(text: Text, best: Sequence[str]) -> list[dict[str, Any]]:
    """BLEU of the sentences in each group of GROUPS, empty sources and empty groups left out: the words that the group
    has, from and to, their mean, and how many sentences there are."""
    assert text.references is not None
    numbers = [len(source.split()) for source in text.sources]
    groups = []
    for first, beyond in pairwise((1, *GROUPS, max([0, *numbers]) + 1)):
        here = [i for i, number in enumerate(numbers) if first <= number < beyond]
        if here:
            words = [numbers[i] for i in here]
            references = [text.references[i] for i in here]
            scores = score_corpus([best[i] for i in here], references, tokenizer=text.tokenizer)
            group = {"from": min(words), "to": max(words), "mean_words": sum(words) / len(words)}
            groups.append(group | {"sentences": len(here), "bleu": scores.bleu})
    return groups


def candidate_report(system: System, text: Text, translations: Translations) -> dict[str, Any]:
    """num_candidates: the mean over sentences that are not empty. num_choice_differs: sentences whose translation is
    not the first candidate. oracle_bleu, oracle_chrf: of the candidates of the highest sentence BLEU (sentence chrF),
    the best that a choice could make; null without references, and where there was nothing to choose from."""
    filled = translations.filled
    report: dict[str, Any] = {
        "num_candidates": sum(len(item.texts) for item in filled) / max(1, len(filled)),
        "choice": system.choice.value,
        "num_choice_differs": sum(item.differs for item in filled),
        "oracle_bleu": None,
        "oracle_chrf": None,
    }
    if text.references is not None and translations.candidates and system.decoding.num_candidates > 1:
        with_bleu = oracle(translations.candidates, text.references, sentence_bleu(text.tokenizer))
        with_chrf = oracle(translations.candidates, text.references, sentence_chrf())
        report["oracle_bleu"] = score_corpus(with_bleu, text.references, tokenizer=text.tokenizer).bleu
        report["oracle_chrf"] = score_corpus(with_chrf, text.references, tokenizer=text.tokenizer).chrf
    return report


def oracle(candidates: Sequence[Candidates], references: Sequence[str], metric: Metric) -> list[str]:
    """Of each sentence's candidates, the first of the highest metric against its reference, of several any."""
    return [
        max(dict.fromkeys(item.texts), key=lambda text: max(metric(text, line) for line in lines))
        if len(item.texts) > 1
        else item.best
        for item, lines in zip(candidates, map(all_references, references), strict=True)
    ]


def teacher_report(system: System, translations: Translations) -> dict[str, Any]:
    """The mean log-probability of a translation under the teacher; {} without one."""
    if system.scorer is None:
        return {}
    chosen = [item.teacher_scores[item.chosen] for item in translations.candidates if item.teacher_scores is not None]
    known = [score for score in chosen if score is not None]
    return {
        "teacher": system.scorer.path,
        "teacher_score": math.fsum(known) / len(known) if known else None,
        "num_unscored": len(chosen) - len(known),
    }


def drafter_report(system: System, translations: Translations) -> dict[str, Any]:
    """Tokens, ends included, that a call of the model wrote, and how many sentences were too long for the drafter; {}
    without one."""
    drafter = system.translator.drafter
    if drafter is None:
        return {}
    tokens = sum(len(item.tokens[item.chosen]) + 1 for item in translations.filled)
    calls = sum(item.passes for item in translations.filled)
    return {
        "drafter": str(drafter.folder),
        "tokens_per_pass": tokens / max(1, calls),
        "num_undrafted": sum(item.undrafted for item in translations.filled),
    }


def speed_of(system: System, alone: Sequence[float], translations: Translations) -> Speed | None:
    """None where nothing was measured."""
    if not alone:
        return None
    return Speed.of(
        alone,
        seconds=translations.seconds,
        num_sentences=len(translations.filled),
        batch_size=system.batches.batch_size,
        device=system.translator.device,
    )


def speed_report(speed: Speed | None) -> dict[str, Any]:
    if speed is None:
        return dict.fromkeys(SPEEDS) | {"num_timed_alone": 0}
    return {name: getattr(speed, name) for name in SPEEDS} | {"num_timed_alone": speed.num_alone}


def provenance(system: System) -> dict[str, Any]:
    """What made the translations."""
    translator = system.translator
    return {
        "run_dir": str(translator.folder),
        "model": type(translator.model).__name__,
        "engine": translator.engine,
        "weights": translator.weights or run_summary(translator.folder).get("weights"),
        "num_parameters": translator.num_parameters,
        "decoding": to_plain(system.decoding),
        "precision": translator.computed_in,
        **to_plain(system.batches),
        "cuda_graphs": translator.graphs is not None,
        "device": device_name(translator.device),
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in sorted({"torch", "sacrebleu", "sentencepiece", translator.package})}
        | {"nat": nat.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
