"""Scores: sacreBLEU's own numbers, and the plain rates on cases worked out by hand."""

from __future__ import annotations

import pytest
import sacrebleu

from nat.data.references import Reference
from nat.data.vocabulary import Symbol
from nat.scoring.scores import copied_rate, exact_match_rate, repetition_rate, score_corpus, unknown_rate

OUTPUTS = ["the cat sat on the mat", "a dog dog", ""]
REFERENCES = ["the cat sat on a mat", "a dog", "gone"]


def test_scores_are_those_of_sacrebleu() -> None:
    scores = score_corpus(OUTPUTS, REFERENCES, ter=True)
    assert scores.bleu == sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES]).score
    assert scores.chrf == sacrebleu.corpus_chrf(OUTPUTS, [REFERENCES]).score
    assert scores.ter == sacrebleu.corpus_ter(OUTPUTS, [REFERENCES]).score
    assert "tok:13a" in scores.bleu_signature
    assert "nc:6" in scores.chrf_signature
    assert scores.ter_signature is not None


def test_several_references_are_all_looked_at() -> None:
    outputs = ["the cat sat on the mat today", "a dog ran away", "gone"]
    references = [
        Reference("a cat sat", "the cat sat on a mat"),
        "a dog ran off",
        Reference("left", "gone", "went off"),
    ]
    streams = [["a cat sat", "a dog ran off", "left"], ["the cat sat on a mat", None, "gone"], [None, None, "went off"]]
    scores = score_corpus(outputs, references, ter=True)
    assert scores.bleu == sacrebleu.corpus_bleu(outputs, streams).score > score_corpus(outputs, streams[0]).bleu
    assert scores.chrf == sacrebleu.corpus_chrf(outputs, streams).score
    assert scores.ter == sacrebleu.corpus_ter(outputs, streams).score
    assert "nrefs:var" in scores.bleu_signature
    assert scores.length_ratio == pytest.approx(12 / (4.5 + 4 + 4 / 3))
    assert exact_match_rate(outputs, references) == pytest.approx(1 / 3)


def test_ter_is_left_out_unless_asked_for() -> None:
    assert score_corpus(OUTPUTS, REFERENCES).ter is None


def test_length_ratio_counts_words() -> None:
    assert score_corpus(OUTPUTS, REFERENCES).length_ratio == pytest.approx(9 / 9)
    assert score_corpus(["a b c"], ["a b"]).length_ratio == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        ([], 0.0),
        ([""], 0.0),
        (["a b c"], 0.0),
        (["a a a"], 2 / 3),
        (["a a", "b c"], 1 / 4),
        (["a", "a"], 0.0),  # the end of a line is no neighbour of the next one's beginning
    ],
)
def test_repetition_rate(lines: list[str], rate: float) -> None:
    assert repetition_rate(lines) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("outputs", "references", "rate"),
    [([], [], 0.0), (["a b", "c", ""], ["a  b ", "C", ""], 2 / 3), (["a"], ["a b"], 0.0)],
)
def test_exact_match(outputs: list[str], references: list[str], rate: float) -> None:
    assert exact_match_rate(outputs, references) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("outputs", "sources", "rate"),
    [
        ([], [], 0.0),
        ([""], ["a"], 0.0),
        (["a b a", "c"], ["b a", "d"], 3 / 4),
        (["a", "b"], ["b", "a"], 0.0),  # another source's words
        (["ab"], ["a b abc"], 0.0),  # whole words
    ],
)
def test_copied_words(outputs: list[str], sources: list[str], rate: float) -> None:
    assert copied_rate(outputs, sources) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("rows", "rate"),
    [([], 0.0), ([[]], 0.0), ([[7, 8]], 0.0), ([[int(Symbol.UNK), 8], [9], [int(Symbol.UNK)]], 0.5)],
)
def test_unknown_rate(rows: list[list[int]], rate: float) -> None:
    assert unknown_rate(rows) == rate
