"""Mixing: exact values of planted texts, the floor of references, errors by resampling against a loop."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.studies.modes.languages import Languages
from nat.studies.modes.mixing import (
    NUM_RESAMPLES,
    Contents,
    chance,
    chosen,
    entropy,
    excess,
    likeliest_shares,
    mixing,
    plain_mixing,
    resampled,
    resamples,
)

WORDS = {name: [f"{name}{a}{b}" for a in "abcd" for b in "abcd"] for name in ("de", "fr", "es")}
SHARED = ["office", "calc"]


def learn() -> Languages:
    """Each language has words of its own, and all have two in common."""
    texts = {name: [" ".join(words + SHARED)] for name, words in WORDS.items()}
    return Languages.learn(texts, ["open window"], smoothing=1e-12)


def lines_of(names: list[str], *, length: int, count: int = 20) -> list[str]:
    """Sentences whose words are of these languages in turn."""
    chance = random.Random(1)
    turns = [list(itertools.islice(itertools.cycle(names), length)) for _ in range(count)]
    return [" ".join(chance.choice(WORDS[name]) for name in turn) for turn in turns]


@pytest.mark.parametrize(
    ("names", "length", "expected"),
    [(["de"], 6, 0.0), (["de", "fr"], 6, 1 / 2), (["de", "fr", "es"], 6, 2 / 3), (["de", "de", "es"], 6, 1 / 3)],
)
def test_planted_texts_have_the_mixing_that_was_planted(names: list[str], length: int, expected: float) -> None:
    contents = Contents.of(lines_of(names, length=length), learn())
    assert mixing(contents) == pytest.approx(expected, abs=1e-6)
    assert plain_mixing(contents) == pytest.approx(expected, abs=1e-6)
    shares = np.array([names.count(name) / len(names) for name in WORDS])
    np.testing.assert_allclose(contents.shares, np.tile(shares, (20, 1)), atol=1e-6)
    assert entropy(contents) == pytest.approx(-sum(p * math.log(p) for p in shares if p), abs=1e-5)


def test_what_belongs_to_no_language_does_not_count() -> None:
    languages = learn()
    plain = lines_of(["de", "es"], length=4)
    noisy = [f"Office {line} 12, open calc %" for line in plain]
    assert mixing(Contents.of(noisy, languages)) == pytest.approx(mixing(Contents.of(plain, languages)))
    neutral = Contents.of(["office calc", "open", "", "12 %"], languages)
    assert not neutral.telling.any()
    np.testing.assert_allclose(neutral.shares, 1 / 3)
    np.testing.assert_allclose(neutral.means, 1 / 3)
    assert (mixing(neutral), entropy(neutral)) == (0.0, 0.0)


def test_mixing_is_of_words_not_of_sentences() -> None:
    contents = Contents.of([*lines_of(["de"], length=9, count=1), *lines_of(["fr", "es"], length=2, count=1)], learn())
    assert mixing(contents) == pytest.approx(1 / 11)
    assert plain_mixing(contents) == pytest.approx(1 / 4)


def test_words_that_languages_share_are_no_mixture() -> None:
    texts = {"de": ["der die das"], "fr": ["de la de que fin"], "es": ["de la que que fin fin"]}
    languages = Languages.learn(texts, [], smoothing=1.0)
    contents = Contents.of(["de la de de", "que fin que", "der la der der"], languages)
    assert contents.main.tolist() == [1, 2, 0]
    np.testing.assert_allclose(contents.shares[:2], [[0, 1, 0], [0, 0, 1]], atol=1e-3)
    assert 0.2 < 1 - contents.shares[2].max() < 0.3, "one word of four"
    assert plain_mixing(contents) > 2 * mixing(contents)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6))
@settings(deadline=None, max_examples=12)
def test_shares_have_the_highest_likelihood(first: list[float]) -> None:
    words = np.array([first, [1 - p for p in first]]).T
    (found,) = likeliest_shares([words], 2)
    assert found.sum() == pytest.approx(1)
    grid = np.linspace(0, 1, 2001)
    likelihoods = np.log(np.outer(grid, words[:, 0]) + np.outer(1 - grid, words[:, 1])).sum(axis=1)
    assert np.log(words @ found).sum() >= likelihoods.max() - 1e-3
    # a sentence's shares do not depend on what stands beside it
    together = likeliest_shares([np.full((9, 2), 0.5), words, np.empty((0, 2))], 2)
    np.testing.assert_allclose(together, [[0.5, 0.5], found, [0, 0]], atol=1e-12)


def test_the_main_language_is_chosen_and_references_are_the_floor() -> None:
    languages = learn()
    text = Contents.of([f"{WORDS['fr'][0]} {WORDS['fr'][1]} {WORDS['de'][0]}", WORDS["es"][0], "office"], languages)
    assert text.main.tolist() == [1, 2, 0]
    shared = f"{WORDS['fr'][3]} {WORDS['es'][3]} {WORDS['fr'][2]}"  # a reference that is itself half Spanish
    references = [
        Contents.of(lines, languages)
        for lines in (
            [WORDS["de"][5]] * 3,
            [shared, WORDS["fr"][5], WORDS["fr"][5]],
            [f"{WORDS['es'][5]} {WORDS['es'][6]}"] * 3,
        )
    ]
    floor = chosen(text, references)
    np.testing.assert_allclose(floor.masses[0], references[1].masses[0])
    np.testing.assert_allclose(floor.masses[1:], [references[2].masses[1], np.zeros(3)])
    found = excess(text, floor, resamples(3))
    assert found.mixing == pytest.approx(1 / 4)
    assert found.floor == pytest.approx(1 / 5)
    assert found.excess == pytest.approx(1 / 20)
    own = excess(floor, floor, resamples(3))
    assert (own.excess, own.excess_error) == (0.0, 0.0)


def test_resampled_texts_are_those_of_a_loop() -> None:
    contents = Contents.of(
        lines_of(["de"], length=3, count=4) + lines_of(["de", "fr"], length=4, count=3) + ["12"], learn()
    )
    rows = resamples(8)
    assert rows.shape == (NUM_RESAMPLES, 8)
    found = resampled(contents, rows)
    for number in range(0, NUM_RESAMPLES, 97):
        text = Contents(contents.masses[rows[number]], contents.means[rows[number]])
        assert found[number] == pytest.approx(mixing(text))
    assert excess(contents, contents, rows).mixing_error == pytest.approx(float(np.std(found, ddof=1)))


def test_errors_shrink_as_texts_grow_as_theory_says() -> None:
    """One word in two sentences of two is foreign: the mixing is a mean of independent halves."""
    text = Contents.of(lines_of(["de"], length=2, count=200) + lines_of(["de", "es"], length=2, count=200), learn())
    floor = Contents.of(lines_of(["de"], length=2, count=400), learn())
    found = excess(text, floor, resamples(400))
    assert found.excess == pytest.approx(0.25)
    assert found.excess_error == pytest.approx(0.25 / math.sqrt(400), rel=0.1)
    assert found.mixing_error == pytest.approx(found.excess_error)


def test_chance_is_small_for_a_clear_difference_and_all_for_none() -> None:
    languages = learn()
    clean = Contents.of(lines_of(["de"], length=4, count=60), languages)
    mixed = Contents.of(lines_of(["de", "fr"], length=4, count=60), languages)
    rows = resamples(60)
    assert chance(mixed, clean, clean, clean, rows) == 0.0
    assert chance(clean, clean, mixed, clean, rows) == 1.0
    assert chance(mixed, clean, mixed, clean, rows) == 1.0
    assert chance(mixed, mixed, clean, clean, rows) == 1.0, "above their floors both mix nothing"
