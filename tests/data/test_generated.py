"""Tasks made from a seed: what they promise, and that the truth is the truth."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.composition import compose
from nat.config import parse
from nat.data.corpus import DataConfig, read_corpus
from nat.data.generated import parse_task
from nat.data.tokenizer_training import build_tokenizers
from nat.errors import ConfigError


def rows(text: str) -> list[dict[str, Any]]:
    return list(parse_task(text).rows())


# --- both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recall", "listops"])
def test_a_row_depends_on_seed_and_number_alone(name: str) -> None:
    few, many = rows(f"{name}?pairs=3&seed=5"), rows(f"{name}?pairs=6&seed=5")
    assert many[:3] == few == rows(f"{name}?seed=5&pairs=3")
    assert [row["line"] for row in many] == [1, 2, 3, 4, 5, 6]
    assert len({row["source"] for row in many + rows(f"{name}?pairs=6&seed=6")}) == 12


@pytest.mark.parametrize("name", ["recall", "listops"])
def test_the_key_is_that_of_the_rows(name: str) -> None:
    keys = [
        parse_task(text).fingerprint()
        for text in (name, f"{name}?seed=2", f"{name}?pairs=9", f"{name}?length=200", f"{name}?length=201")
    ]
    assert len(set(keys)) == 5
    assert parse_task(f"{name}?seed=1").fingerprint() == keys[0]
    assert parse_task("recall").fingerprint() != parse_task("listops").fingerprint()


@pytest.mark.parametrize("name", ["recall", "listops"])
def test_the_location_is_read_and_words_are_tokens(name: str, tmp_path: Any) -> None:
    config = parse(DataConfig, compose("train", [f"data={name}", "run_dir=unused", f"data.cache={tmp_path}"])["data"])
    short = parse(DataConfig, compose("train", [f"data={name}", "run_dir=unused", f"data.cache={tmp_path}", *(
        f"data.{split}='task:{name}?length=120&pairs=600'" for split in ("train", "valid"))])["data"])  # fmt: skip
    assert all(str(getattr(config, split)).startswith(f"task:{name}?") for split in ("train", "valid", "test"))
    corpus = read_corpus(short, "train")
    assert list(corpus) == rows(f"{name}?length=120&pairs=600")
    tokenizers = build_tokenizers(short, corpus)
    for row in itertools.islice(corpus, 20):
        words = (row["source"] + " " + row["target"]).split()
        longest = 2 if name == "listops" else 1  # an operation is a bracket and its name
        assert all(len(ids) <= longest for ids in tokenizers.source.encode(words))
        assert tokenizers.target.decode(tokenizers.target.encode([row["target"]])) == [row["target"]]


REFUSALS = {
    "reverse": "there is no task 'reverse', known: convex_hull, delaunay, listops, recall",
    "recal": "there is no task 'recal', did you mean 'recall'",
    "recall?size=3": "task:recall has no 'size', it has length, questions",
    "recall?length=x": "length=x: a whole number is needed",
    "recall?length=": "length=: a whole number is needed",
    "recall?distance=10-20": "distance=10-20: a whole number is needed",
    "recall?length=74-90": "length=74-90: questions, distance and clues together need 75",
    "recall?questions=4-2": "questions=4-2: a whole number is needed, such as questions=5 or of a rising range",
    "recall?questions=0-2": "questions=0-2: must be at least 1 and at most 8",
    "recall?clues=3": "clues=3: must be at least 4 and at most 8",
    "recall?letters=17": "letters=17: must be at least 1 and at most 16",
    "recall?values=1": "values=1: must be at least 2 and at most 8",
    "recall?distance=0": "distance=0: must be at least 1",
    "recall?pairs=0": "pairs=0: must be at least 1",
    "recall?length=74": "length=74: questions, distance and clues together need 75",
    "listops?arguments=3": "arguments=3: must be at least 4",
    "listops?depth=100000": "depth=100000: must be at least 1 and at most 100",
    "recall?length=999999999999": "length=999999999999: must be at least 1 and at most 1048576",
    f"recall?pairs={'9' * 5000}": f"pairs={'9' * 5000}: a whole number is needed",
    "listops?depth=0": "depth=0: must be at least 1",
    "listops?length=3": "length=3: must be at least 4",
    "listops?length=4-13&depth=1": "length=4-13: must be at least 4 and at most 12",
    "listops?pairs=0": "pairs=0: must be at least 1",
    "listops?seed=-1": "seed=-1: a whole number is needed",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_task(text)
    assert str(caught.value).startswith(REFUSALS[text])
    with pytest.raises(ConfigError, match="train=task:"):
        DataConfig(train=f"task:{text}")


# --- recall -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    distance=st.integers(1, 9),
    questions=st.integers(1, 4),
    more=st.integers(0, 4),
    spare=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_clues_answer_the_questions_from_far_away(
    distance: int, questions: int, more: int, spare: int, seed: int
) -> None:
    clues = questions + more
    length = questions + distance - 1 + clues + spare
    given = f"length={length}&distance={distance}&questions=1-{questions}&clues={clues}&seed={seed}&pairs=5"
    for row in rows(f"recall?{given}"):
        words, answers = row["source"].split(), row["target"].split()
        assert len(words) == length and 1 <= len(answers) <= questions
        told = {word[0]: word[1] for word in words if len(word) == 2}
        places = [place for place, word in enumerate(words) if len(word) == 2]
        assert len(told) == len(places) == clues and min(places) >= len(answers) - 1 + distance
        assert answers == [told[word.lower()] for word in words[: len(answers)]]
        assert all("Q" <= word <= "Z" for word in words[len(answers) :] if len(word) == 1)


def test_lengths_are_even() -> None:
    counts = Counter(len(row["source"].split()) for row in rows("recall?length=20-23&distance=2&pairs=800"))
    assert sorted(counts) == [20, 21, 22, 23] and min(counts.values()) > 150


def test_the_number_of_questions_and_the_values_are_even() -> None:
    found = rows("recall?length=20&distance=2&pairs=2000")
    counts = Counter(len(row["target"].split()) for row in found)
    values = Counter(answer for row in found for answer in row["target"].split())
    assert sorted(counts) == [1, 2, 3, 4] and min(counts.values()) > 430
    assert sorted(values) == list("stuv") and min(values.values()) > 0.23 * values.total()


def test_nothing_but_the_clue_tells_the_answer() -> None:
    """Of the values that stand in a text, the one asked for is as frequent as any."""
    found = rows("recall?length=20&distance=2&questions=1&clues=4&letters=4&pairs=3000")
    most_common = sum(
        Counter(word[1] for word in row["source"].split() if len(word) == 2).most_common(1)[0][0] == row["target"]
        for row in found
    )
    assert most_common / 3000 < 0.55  # a text's most frequent value has about half of its four clues


# --- ListOps ------------------------------------------------------------------------------------------


def evaluate(words: list[str]) -> tuple[int, int]:
    """Value and depth, by a stack."""
    stack: list[list[Any]] = [[]]
    deepest = 0
    for word in words:
        if word.startswith("["):
            stack.append([word])
        elif word == "]":
            operation, *digits = stack.pop()
            stack[-1].append(
                {
                    "[MIN": min(digits),
                    "[MAX": max(digits),
                    "[MED": int(statistics.median(digits)),
                    "[SM": sum(digits) % 10,
                }[operation]
            )
        else:
            stack[-1].append(int(word))
        deepest = max(deepest, len(stack) - 1)
    assert len(stack) == 1 and len(stack[0]) == 1
    return stack[0][0], deepest


@settings(deadline=None, max_examples=40)
@given(
    low=st.integers(4, 60),
    more=st.integers(0, 20),
    arguments=st.integers(4, 8),
    depth=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_expressions_have_their_value_length_and_depth(
    low: int, more: int, arguments: int, depth: int, seed: int
) -> None:
    most = 1
    for _ in range(depth):
        most = 2 + arguments * most
    low = min(low, most)
    high = min(low + more, most)
    given = f"length={low}-{high}&arguments={arguments}&depth={depth}&seed={seed}&pairs=4"
    for row in rows(f"listops?{given}"):
        words = row["source"].split()
        value, deepest = evaluate(words)
        assert row["target"] == str(value)
        assert low <= len(words) <= high and deepest <= depth
        assert words[0].startswith("[")


def test_every_length_and_value_occurs() -> None:
    found = rows("listops?length=4-20&pairs=3000")
    assert {len(row["source"].split()) for row in found} == set(range(4, 21))
    assert {row["target"] for row in found} == set("0123456789")


def test_no_operation_has_more_arguments_than_allowed() -> None:
    for row in rows("listops?length=50-80&arguments=5&pairs=50"):
        counts = [0]
        for word in row["source"].split():
            if word == "]":
                assert 2 <= counts.pop() <= 5
            else:
                counts[-1] += 1
                if word.startswith("["):
                    counts.append(0)
