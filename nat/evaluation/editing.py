"""Drafts, known words and constraints: read from files, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nat.data.lines import read_lines
from nat.data.vocabulary import Tokenizer
from nat.decoding.requests import GAP, Request
from nat.errors import DataError
from nat.evaluation.inputs import Text
from nat.scoring.scores import score_corpus


@dataclass(frozen=True)
class EditFiles:
    """Files with a line for each sentence of the text; None: nothing of that kind is asked."""

    draft: str | None = None
    known: str | None = None
    constraints: str | None = None


def with_requests(text: Text, files: EditFiles) -> Text:
    """The text with what the files ask of each sentence. A line of constraints holds any number of them, separated by
    tabs. Raises DataError for a file that cannot be read or has another number of lines."""
    if files == EditFiles():
        return text
    drafts, known, constraints = (lines_of(path, text) for path in (files.draft, files.known, files.constraints))
    requests = [
        Request(source, draft or None, words or None, tuple(part for part in line.split("\t") if part.strip()))
        for source, draft, words, line in zip(text.sources, drafts, known, constraints, strict=True)
    ]
    return replace(text, requests=requests)


def lines_of(path: str | None, text: Text) -> list[str]:
    """A line for each sentence; empty ones where there is no file."""
    if path is None:
        return [""] * len(text.sources)
    lines = [line.strip() for line in read_lines(path)]
    if len(lines) != len(text.sources):
        raise DataError(f"{path} has {len(lines)} lines but {text.name} has {len(text.sources)} sentences")
    return lines


def edit_report(text: Text, best: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """What became of drafts, known words and constraints; {} where nothing was asked. tokenizer: of the language that
    is written."""
    if text.requests is None:
        return {}
    return (
        draft_report(text, text.requests, best)
        | known_report(text.requests, best, tokenizer)
        | constraint_report(text.requests, best, tokenizer)
    )


def draft_report(text: Text, requests: Sequence[Request], best: Sequence[str]) -> dict[str, Any]:
    """draft_bleu, draft_chrf: of the drafts themselves, null without references."""
    drafts = [request.draft or "" for request in requests]
    if not any(drafts):
        return {}
    scores = None if text.references is None else score_corpus(drafts, text.references, tokenizer=text.tokenizer)
    changed = sum(draft != line for draft, line in zip(drafts, best, strict=True))
    return {
        "draft_bleu": scores and scores.bleu,
        "draft_chrf": scores and scores.chrf,
        "num_drafts": sum(map(bool, drafts)),
        "num_drafts_changed": changed,
    }


def known_report(requests: Sequence[Request], best: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """num_known_kept: sentences whose known words stand in the translation, in order."""
    known = [(request.known, line) for request, line in zip(requests, best, strict=True) if request.known]
    if not known:
        return {}
    kept = sum(stand_in_order(as_written(words.split(GAP), tokenizer), line) for words, line in known)
    return {"num_known": len(known), "num_known_kept": kept}


def constraint_report(requests: Sequence[Request], best: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """num_constraints_kept: of all constraints of all sentences, those that stand in the translation, as often as they
    were given."""
    total = kept = 0
    for request, line in zip(requests, best, strict=True):
        for phrase, count in Counter(as_written(request.constraints, tokenizer)).items():
            total += count
            kept += min(count, line.count(phrase))
    return {"num_constraints": total, "num_constraints_kept": kept} if total else {}


def as_written(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The texts as the vocabulary spells them: its normalization, single spaces."""
    return tokenizer.decode(tokenizer.encode(texts))


def stand_in_order(parts: Sequence[str], line: str) -> bool:
    position = 0
    for part in parts:
        start = line.find(part, position)
        if start < 0:
            return False
        position = start + len(part)
    return True


def describe_edits(report: dict[str, Any]) -> list[str]:
    """The report's lines for people to read."""
    lines = []
    if "num_drafts" in report:
        lines.append(f"drafts {report['num_drafts']}, changed {report['num_drafts_changed']}")
        if report["draft_bleu"] is not None:
            lines[-1] += f"; the drafts' own BLEU {report['draft_bleu']:.2f}, chrF {report['draft_chrf']:.2f}"
    for name, what in (("known", "known words kept"), ("constraints", "constraints kept")):
        if f"num_{name}" in report:
            total, kept = report[f"num_{name}"], report[f"num_{name}_kept"]
            lines.append(f"{what}: {100 * kept / total:.4g} % ({kept} of {total})")
    return lines
