"""The language of words: posteriors by hand, the character model against a loop, neutral words, pieces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.errors import DataError
from nat.studies.modes.accuracy import accuracy, accuracy_of
from nat.studies.modes.languages import ORDER, Languages, Spelling, contexts, weights_of, words_of

TARGETS = {
    "de": ["das Haus das Fenster", "Datei und Datei"],
    "fr": ["la fenêtre", "le fichier"],
    "es": ["la ventana la casa archivo Datei"],
}
SOURCES = ["the house and the window"]


def learn(smoothing: float = 1.0) -> Languages:
    return Languages.learn(TARGETS, SOURCES, smoothing=smoothing)


def test_words_are_letters_small_with_their_apostrophe() -> None:
    line = "L'API « Öffnen » de 3D-Objekte, d’un x2 l' _a_ 12"
    found = words_of(line)
    texts = ["l'", "api", "öffnen", "de", "d", "objekte", "d'", "un", "x", "l", "a"]
    assert [word.text for word in found] == texts
    assert [line[word.start : word.end].lower().replace("’", "'") for word in found] == texts
    assert words_of("12, 3.5 % _") == []


def test_posteriors_are_smoothed_shares_of_equal_texts() -> None:
    languages = learn(smoothing=0.5)
    # 7, 4 and 6 words: as if each had 17/3
    scale = np.array([17 / 3 / 7, 17 / 3 / 4, 17 / 3 / 6])
    for word, counts in {"la": (0, 1, 2), "datei": (2, 0, 1), "fichier": (0, 1, 0)}.items():
        left = languages._left_over(word)
        expected = (scale * counts + 0.5 * left) / ((scale * counts).sum() + 0.5)
        np.testing.assert_allclose(languages.posterior(word), expected)
    assert languages.names[languages.posterior("datei").argmax()] == "de"
    assert languages.posterior("la").argmax() == 2


def test_a_new_word_is_told_by_its_spelling_and_a_copied_one_by_nothing() -> None:
    languages = learn()
    np.testing.assert_allclose(languages.posterior("window"), 1 / 3)
    scores = np.array([spelling.log_prob("fenêtres") for spelling in languages.spellings])
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(languages.posterior("fenêtres"), expected)
    assert expected.argmax() == 1


def slow_prob(words: list[str], context: str, letter: str, num_letters: int) -> float:
    """Witten & Bell, from the shortest context to the longest, by counting anew."""
    prob = 1 / (num_letters + 2)
    for length in range(len(context) + 1):
        tail = context[len(context) - length :]
        after = [c for word in words for h, c in contexts(word) if h.endswith(tail)]
        if after:
            prob = (after.count(letter) + len(set(after)) * prob) / (len(after) + len(set(after)))
    return prob


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5, unique=True),
    st.text("abc", min_size=1, max_size=3),
)
def test_the_character_model_is_that_of_a_loop(words: list[str], word: str) -> None:
    spelling = Spelling.learn(words, num_letters=2)
    expected = sum(math.log(slow_prob(words, context, letter, 2)) for context, letter in contexts(word))
    assert spelling.log_prob(word) == pytest.approx(expected)


def test_what_may_follow_sums_to_one() -> None:
    spelling = Spelling.learn(["abba", "ba"], num_letters=2)
    for context in ("ab", "bb", "\x02\x02", "ca"):
        # a, b, the end, and one letter that was never seen
        assert sum(spelling._prob(context, letter) for letter in "ab\x03c") == pytest.approx(1)
    assert len(contexts("ab")) == 3
    assert {len(context) for context, _ in contexts("ab")} == {ORDER - 1}


def test_weights_are_0_for_even_odds_and_1_for_certainty() -> None:
    found = weights_of(np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(found, [1.0, 0.0, 1 - math.log(2) / math.log(3)], atol=1e-12)
    assert weights_of(np.empty((0, 3))).shape == (0,)


def test_a_piece_is_told_by_its_word() -> None:
    languages = learn()
    pieces = ["▁Da", "tei", ",", "▁", "12", "▁la", "▁x", "y▁", "fenêtre"]
    found = languages.of_pieces(pieces)
    for number, word in {0: "datei", 1: "datei", 5: "la", 6: "xy", 7: "xy", 8: "fenêtre"}.items():
        np.testing.assert_allclose(found[number], languages.posterior(word))
    for number in (2, 3, 4):
        np.testing.assert_allclose(found[number], 1 / 3)
    assert languages.of_pieces([]).shape == (0, 3)


@pytest.mark.parametrize("lines", [[], ["", "12 %"]])
def test_a_language_without_words_is_refused(lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"^data\.train: has no word of language 'it'; its words cannot be told$"):
        Languages.learn({"de": ["Haus"], "it": lines}, [], smoothing=1.0)


class Letters:
    """Each word is two pieces."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.words = [word for text in texts for word in text.split()]
        ids = iter(range(2 * len(self.words)))
        return [[next(ids) for _ in range(2 * len(text.split()))] for text in texts]

    def pieces(self, ids: list[int]) -> list[str]:
        return [self.words[i // 2][1:] if i % 2 else "▁" + self.words[i // 2][0] for i in ids]


def test_accuracy_and_confusion_of_references() -> None:
    languages = Languages.learn({"de": ["ja nein gut"], "fr": ["oui non bon"]}, ["ok"], smoothing=1e-9)
    tokenizer: Any = Letters()
    found = accuracy(languages, {"de": ["ja oui nein", "ok"], "fr": ["non 12"]}, tokenizer)
    words = found["words"]
    assert words["confusion"] == {"de": {"de": 2, "fr": 1, "untold": 1}, "fr": {"de": 0, "fr": 1, "untold": 0}}
    assert (words["total"], words["telling"], words["accuracy"]) == (5, 0.8, 0.75)
    assert words["accuracy_by_language"] == {"de": 2 / 3, "fr": 1.0}
    assert words["expected"] == pytest.approx((2 + 0.5 + 1) / 5)
    assert found["tokens"]["confusion"] == {
        "de": {"de": 4, "fr": 2, "untold": 2},
        "fr": {"de": 0, "fr": 2, "untold": 2},
    }
    assert found["sentences"]["confusion"] == {
        "de": {"de": 1, "fr": 0, "untold": 1},
        "fr": {"de": 0, "fr": 1, "untold": 0},
    }


def test_accuracy_of_nothing_is_0() -> None:
    found = accuracy_of(learn(), {"de": [], "fr": [], "es": [np.empty((0, 3))]})
    assert (found["total"], found["accuracy"], found["expected"]) == (0, 0.0, 0.0)
