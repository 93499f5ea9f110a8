"""How well the language of words and token pieces is told: tried on references, whose language is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nat.data.vocabulary import Tokenizer
from nat.studies.modes.languages import Languages, Posteriors, weights_of, words_of
from nat.studies.modes.mixing import Contents

TELLING = 0.5  # least weight of a word that is put under a language: of three, one has about 83 %
ANY = 0.0  # a sentence is put under its main language, however little tells it


def accuracy(
    languages: Languages, references: Mapping[str, Sequence[str]], tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """Of "words", of "tokens" (the pieces of this tokenizer) and of "sentences" (by their main language)."""
    words = {name: [languages.posteriors(words_of(line)) for line in lines] for name, lines in references.items()}
    pieces = {
        name: [languages.of_pieces(tokenizer.pieces(ids)) for ids in tokenizer.encode(list(lines))]
        for name, lines in references.items()
    }
    sentences = {name: [Contents.of(lines, languages).shares] for name, lines in references.items()}
    return {
        "words": accuracy_of(languages, words),
        "tokens": accuracy_of(languages, pieces),
        "sentences": accuracy_of(languages, sentences, least=ANY),
    }


def accuracy_of(
    languages: Languages, posteriors: Mapping[str, Sequence[Posteriors]], least: float = TELLING
) -> dict[str, Any]:
    """accuracy: share of the telling ones (weight above `least`) whose most probable language is the true one.
    expected: mean posterior of the true language over all. confusion: of each true language, how many were told to be
    of each, and how many tell too little (untold)."""
    names = languages.names
    confusion, per_language, right, expected = {}, {}, 0, 0.0
    for number, name in enumerate(names):
        rows = np.concatenate([np.empty((0, len(names))), *posteriors[name]])
        telling = weights_of(rows) > least
        counts = np.bincount(rows[telling].argmax(axis=1), minlength=len(names))
        confusion[name] = dict(zip(names, counts.tolist(), strict=True)) | {"untold": int((~telling).sum())}
        per_language[name] = float(counts[number] / max(1, counts.sum()))
        right += int(counts[number])
        expected += float(rows[:, number].sum())
    total = sum(sum(row.values()) for row in confusion.values())
    num_telling = total - sum(row["untold"] for row in confusion.values())
    return {
        "total": total,
        "telling": num_telling / max(1, total),
        "accuracy": right / max(1, num_telling),
        "expected": expected / max(1, total),
        "accuracy_by_language": per_language,
        "confusion": confusion,
    }
