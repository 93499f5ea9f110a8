"""How drafts are spoiled and terms are drawn."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nat.data.vocabulary import Symbol
from nat.studies.editing import describe_study, span, spelled, spoil

LINES = [" ".join(f"w{i % 97}" for i in range(n, n + 20)) for n in range(200)]


def test_the_share_of_words_is_spoiled_half_of_them_dropped() -> None:
    spoiled = spoil(LINES, share=0.2, seed=1)
    before, after = sum(len(line.split()) for line in LINES), sum(len(line.split()) for line in spoiled)
    assert (before - after) / before == pytest.approx(0.1, abs=0.02)
    untouched = sum(sum(word in line.split() for word in old.split()) for old, line in zip(LINES, spoiled, strict=True))
    assert untouched / before == pytest.approx(0.8, abs=0.04)
    assert spoil(LINES, share=0.2, seed=1) == spoiled
    assert spoil(LINES, share=0.2, seed=2) != spoiled
    assert spoil(LINES[:3], share=0.2, seed=1) != LINES[:3]


def test_a_line_keeps_a_word() -> None:
    assert all(spoil(["one", "one two"] * 20, share=1.0, seed=1))
    assert spoil([""], share=0.5, seed=1) == [""]


def test_a_term_is_a_part_of_the_line() -> None:
    chance = random.Random(1)
    found = [span("a b c d", chance, 2) for _ in range(200)]
    assert set(found) == {"a", "b", "c", "d", "a b", "b c", "c d"}
    assert span("a", chance, 5) == "a"


def test_a_term_is_asked_for_only_where_it_can_be_written() -> None:
    class Letters:
        """a, b and c are known."""

        def encode(self, texts: list[str]) -> list[list[int]]:
            return [[int(Symbol.UNK) if letter not in "abc" else 90 + ord(letter) for letter in text] for text in texts]

    letters: Any = Letters()
    assert spelled("abc", letters)
    assert not spelled("abz", letters)
    assert not spelled("", letters)


def test_gains_are_those_over_the_draft_and_over_no_constraints() -> None:
    figures = {"num_sentences": 7, "bleu": 10.0, "teacher_bleu": 30.0, "draft_bleu": 20.0, "edited_bleu": 23.5}
    figures |= {"edited_passes": 2.0, "num_constraints": 8, "num_constraints_kept": 6}
    figures |= {"num_cases": 4, "num_cases_kept": 3, "constrained_bleu": 9.0}
    told = describe_study(figures)
    assert "spoiled 20.00, edited 23.50 (+3.50)" in told
    assert "kept 75 % (6 of 8), all of them in 3 of 4 cases" in told
    assert "BLEU 9.00 (-1.00)" in told
