"""chrF of many pairs: sacreBLEU's, with each text's n-grams counted once."""

from __future__ import annotations

import itertools

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.scoring.chrf import CharacterNgrams, sentence_chrf

TEXT = st.text(alphabet="ab c\u00e4", max_size=12)


@settings(deadline=None, max_examples=60)  # a deadline would measure the machine
@given(TEXT, TEXT)
def test_it_is_that_of_sacrebleu(text: str, reference: str) -> None:
    assert sentence_chrf()(text, reference) == sacrebleu.sentence_chrf(text, [reference]).score


def test_the_ngrams_of_a_text_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    plain = CharacterNgrams.of

    def spy(text: str) -> CharacterNgrams:
        counted.append(text)
        return plain(text)

    monkeypatch.setattr(CharacterNgrams, "of", spy)
    metric, texts = sentence_chrf(), ["the cat", "a cat", "the dog"]
    for text, other in itertools.permutations(texts, 2):
        metric(text, other)
    assert sorted(counted) == sorted(texts)
