"""Complexity and faithfulness against enumeration by hand, and what an aligner finds in a planted text."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from nat.studies.modes.complexity import aligned_words, complexity, divergence, entropy, faithfulness

REAL = {"cat": Counter({"Katze": 1, "chat": 1, "gato": 2}), "end": Counter({"Ende": 3})}


def test_complexity_is_the_mean_entropy_of_source_words() -> None:
    cat = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    assert entropy(REAL["cat"]) == pytest.approx(cat)
    assert complexity(REAL) == pytest.approx(cat / 2)
    assert complexity({}) == 0.0
    distilled = {"cat": Counter({"chat": 4}), "end": Counter({"Ende": 3})}
    assert complexity(distilled) == 0.0


def test_faithfulness_is_the_mean_divergence_from_the_real_words() -> None:
    distilled = {"cat": Counter({"chat": 3, "minou": 1}), "other": Counter({"autre": 5})}
    # four words that cat is aligned to in either text, each with half an occurrence more: 4 + 2
    q = {"Katze": 0.5 / 6, "chat": 3.5 / 6, "gato": 0.5 / 6}
    p = {"Katze": 0.25, "chat": 0.25, "gato": 0.5}
    cat = sum(p[word] * math.log(p[word] / q[word]) for word in p)
    assert divergence(REAL["cat"], distilled["cat"]) == pytest.approx(cat)
    # end has no link there: one word, all of the smoothed share
    assert divergence(REAL["end"], Counter()) == pytest.approx(0.0)
    assert faithfulness(REAL, distilled) == pytest.approx(cat / 2)


def test_a_text_is_more_faithful_to_itself_than_another_is() -> None:
    same = faithfulness(REAL, REAL)
    q = {"Katze": 1.5 / 5.5, "chat": 1.5 / 5.5, "gato": 2.5 / 5.5}
    cat = 0.25 * math.log(0.25 / q["Katze"]) * 2 + 0.5 * math.log(0.5 / q["gato"])
    assert same == pytest.approx(cat / 2)
    assert 0 <= same < 0.02 < faithfulness(REAL, {"cat": Counter({"chat": 4}), "end": Counter({"Ende": 3})})


def test_an_aligner_finds_the_words_of_a_planted_text() -> None:
    pytest.importorskip("thot")
    words = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}
    sources = [f"{a} {b} ." for a in words for b in words if a != b] * 3
    targets = [" ".join(words.get(word, word) for word in line.split()) for line in sources]
    counts = aligned_words(sources, targets)
    assert {word: count.most_common(1)[0][0] for word, count in counts.items()} == words | {".": "."}
    assert complexity(counts) < 0.1
    others = [line.replace("eins", "un") if i % 2 else line for i, line in enumerate(targets)]
    mixed = aligned_words(sources, others)
    assert set(mixed["one"]) >= {"eins", "un"}
    assert complexity(mixed) > complexity(counts) + 0.05
    assert faithfulness(mixed, counts) > faithfulness(mixed, mixed)
