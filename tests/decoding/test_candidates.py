"""The choice among candidates, alone: made-up candidates, and a teacher whose scores are known."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import NOTHING, Decoded
from nat.decoding.candidates import (
    Candidates,
    Choice,
    choose,
    chunks,
    expected_utilities,
    highest,
    resolve_choice,
    sentence_bleu,
)
from nat.errors import ConfigError, DataError
from nat.scoring.chrf import sentence_chrf
from nat.scoring.tokenization import BleuTokenizer

SOME = settings(deadline=None, max_examples=40)  # a deadline would measure the machine
WORDS = st.lists(st.sampled_from(["a", "b", "cat", "dog"]), max_size=6).map(" ".join)
TEXTS = st.lists(WORDS, min_size=1, max_size=6)


class Table:
    """A teacher whose score of a pair is a fixed function of it. It writes down the batches that it is asked for and
    refuses what `Translator.score` refuses."""

    def __init__(self, impossible: Callable[[str], bool] = lambda target: False, longest: int = 99) -> None:
        self.impossible, self.longest = impossible, longest
        self.asked: list[tuple[list[tuple[str, str]], int]] = []

    def encode(self, sentences: Sequence[str], name: str) -> list[list[int]]:
        rows = [[7] * len(sentence.split()) for sentence in sentences]
        if max(map(len, rows), default=0) > self.longest:
            raise DataError(f"{name}, line 1: too long")
        return rows

    def log_prob(self, source: str, target: str) -> float:
        return -math.inf if self.impossible(target) else -(zlib.crc32(f"{source}|{target}".encode()) % 1000) / 10

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_size: int = 64, max_tokens: int | None = None
    ) -> list[float]:
        assert all(source.split() for source in sources)
        pairs = list(zip(sources, targets, strict=True))
        self.asked.append((pairs, batch_size))
        return [self.log_prob(*pair) for pair in pairs]


def candidates(*texts: str, scores: Sequence[float] = (), tokens: Sequence[list[int]] = ()) -> Candidates:
    scores = scores or [-1.0 - k for k in range(len(texts))]
    tokens = tokens or [[8] * len(text.split()) for text in texts]
    return Candidates.of(Decoded([*tokens], [*scores], 1, False), texts)


EMPTY = Candidates.of(NOTHING, [""])


# --- candidates ------------------------------------------------------------------------------------


def test_candidates_that_do_not_exist_are_left_out() -> None:
    found = Candidates.of(Decoded([[8], [], [9]], [-1.0, -math.inf, -2.0], 3, True), ["x", "", "y"])
    assert (found.texts, found.tokens, found.scores) == (["x", "y"], [[8], [9]], [-1.0, -2.0])
    assert (found.passes, found.truncated, found.best, found.filled) == (3, True, "x", True)
    assert Candidates.of(Decoded([[8]], [-math.inf], 1, False), ["x"]).texts == ["x"]
    assert not EMPTY.filled


def test_a_line_end_in_a_translation_moves_no_line() -> None:
    assert candidates("a\nb\r\nc\u2028d").best == "a b  c\u2028d"


def test_a_choice_that_reads_like_the_first_does_not_differ() -> None:
    found = choose([candidates("x", "x", "y", scores=[-3.0, -1.0, -2.0])], ["s"], choice=Choice.OWN)
    assert (found[0].chosen, found[0].differs) == (1, False)
    found = choose([candidates("x", "x", "y", scores=[-3.0, -2.0, -1.0])], ["s"], choice=Choice.OWN)
    assert (found[0].chosen, found[0].differs) == (2, True)


def test_the_first_of_the_highest_and_none_is_the_lowest() -> None:
    assert highest([None, None]) == 0
    assert highest([None, -5.0, -1.0, -1.0]) == 2


# --- first, own ------------------------------------------------------------------------------------


def test_first_is_the_methods_own_order() -> None:
    found = [candidates("x", "y", scores=[-9.0, -1.0]), EMPTY]
    assert choose(found, ["s", ""], choice=Choice.FIRST, teacher=Table()) == found


def test_own_is_the_mean_and_not_the_sum() -> None:
    one = candidates("a", "a b c", "", scores=[-2.0, -3.0, -5.0])
    assert one.mean_scores == [-2.0, -1.0, -5.0]
    assert choose([one, EMPTY], ["s", ""], choice=Choice.OWN)[0].best == "a b c"


# --- teacher ---------------------------------------------------------------------------------------


@SOME
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), batch_size=st.integers(1, 3))
def test_the_teachers_choice_has_its_highest_score(texts: list[list[str]], batch_size: int) -> None:
    teacher = Table()
    sources = [f"source {i}" for i in range(len(texts))]
    found = choose(
        [candidates(*row) for row in texts],
        sources,
        choice=Choice.TEACHER,
        teacher=teacher,
        batches=BatchOptions(batch_size),
    )
    for item, row, source in zip(found, texts, sources, strict=True):
        scores = [teacher.log_prob(source, text) for text in row]
        assert item.teacher_scores == scores
        assert item.chosen == scores.index(max(scores))
    asked = [pair for pairs, _ in teacher.asked for pair in pairs]
    assert len(asked) == len(set(asked))  # a text is scored once


@SOME
@given(texts=st.lists(WORDS, min_size=2, max_size=8))
def test_more_candidates_are_never_worse_under_the_teacher(texts: list[str]) -> None:
    teacher = Table()

    def value(count: int) -> float:
        (found,) = choose([candidates(*texts[:count])], ["s"], choice=Choice.TEACHER, teacher=teacher)
        return teacher.log_prob("s", found.best)

    values = [value(count) for count in range(1, len(texts) + 1)]
    assert values == sorted(values)


@SOME
@given(texts=st.lists(TEXTS, min_size=2, max_size=6), choice=st.sampled_from(list(Choice)), data=st.data())
def test_a_sentence_chooses_as_it_does_alone(texts: list[list[str]], choice: Choice, data: st.DataObject) -> None:
    found, sources = [candidates(*row) for row in texts], [f"source {i}" for i in range(len(texts))]
    order = data.draw(st.permutations(range(len(texts))))
    given = {"choice": choice, "teacher": Table(), "batches": BatchOptions(2)}
    together = choose([found[i] for i in order], [sources[i] for i in order], **given)
    assert together == [choose([found[i]], [sources[i]], **given)[0] for i in order]


def test_all_candidates_of_a_sentence_fit_into_one_batch_of_the_teacher() -> None:
    teacher = Table()
    choose([candidates(*"abcdefg")], ["s"], choice=Choice.TEACHER, teacher=teacher, batches=BatchOptions(1))
    assert teacher.asked == [([("s", text) for text in "abcdefg"], 7)]


def test_what_the_teacher_cannot_score_is_none_and_chosen_last() -> None:
    teacher = Table(impossible=lambda target: "a" in target)
    found = choose(
        [candidates("a", "b"), candidates("a", "a a"), candidates("b"), EMPTY, EMPTY],
        ["s", "s", " ", "", "s"],  # the teacher's tokenizer finds nothing in the third, the student's in the last
        choice=Choice.TEACHER,
        teacher=teacher,
    )
    assert [item.chosen for item in found] == [1, 0, 0, 0, 0]
    assert found[0].teacher_scores == [None, teacher.log_prob("s", "b")]
    assert [item.teacher_scores for item in found[1:]] == [[None, None], [None], [None], [None]]


def test_a_source_too_long_for_the_teacher() -> None:
    with pytest.raises(DataError, match=r"^the teacher's source, line 1: too long$"):
        choose([candidates("a", "b")], ["s s s"], choice=Choice.TEACHER, teacher=Table(longest=2))


def test_progress_hears_of_every_sentence() -> None:
    heard: list[int] = []
    found = [candidates("a", "b", "c")] * 50
    choose(found, ["s"] * 50, choice=Choice.TEACHER, teacher=Table(), batches=BatchOptions(2), advance=heard.append)
    assert len(heard) > 1
    assert sum(heard) == 50
    choose(found, ["s"] * 50, choice=Choice.MBR_BLEU, advance=heard.append)
    assert sum(heard) == 100


def test_chunks() -> None:
    assert chunks([1, 2, 3, 4, 9, 1], 5, cost=int) == [[1, 2], [3], [4], [9], [1]]
    assert chunks([], 5, cost=int) == []


# --- minimum Bayes risk ----------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [Choice.MBR_CHRF, Choice.MBR_BLEU])
@SOME
@given(texts=st.lists(WORDS, min_size=2, max_size=6))
def test_minimum_bayes_risk_is_the_double_loop(choice: Choice, texts: list[str]) -> None:
    def utility(text: str, reference: str) -> float:
        if choice is Choice.MBR_CHRF:
            return float(sacrebleu.sentence_chrf(text, [reference]).score)
        return float(sacrebleu.sentence_bleu(text, [reference], use_effective_order=True).score)

    expected = []
    for i in range(len(texts)):
        against = [utility(texts[i], texts[j]) for j in range(len(texts)) if j != i]
        expected.append(sum(against) / len(against))
    (found,) = choose([candidates(*texts)], ["s"], choice=choice)
    assert found.utilities == pytest.approx(expected, abs=1e-9)
    assert expected[found.chosen] == pytest.approx(max(expected), abs=1e-9)
    assert found.texts == texts


def test_a_candidate_that_occurs_twice_counts_twice() -> None:
    metric: Any = lambda text, other: {"a": 1.0, "b": 2.0, "c": 3.0}[other] * (1 if text != other else 10)  # noqa: E731
    assert expected_utilities(["a", "b", "b", "c"], metric) == [
        pytest.approx((2 + 2 + 3) / 3), pytest.approx((1 + 20 + 3) / 3), pytest.approx((1 + 20 + 3) / 3),
        pytest.approx((1 + 2 + 2) / 3),
    ]  # fmt: skip


def test_a_single_candidate_is_chosen_without_a_utility() -> None:
    for choice in (Choice.MBR_CHRF, Choice.MBR_BLEU):
        found = choose([candidates("a b"), EMPTY], ["s", ""], choice=choice)
        assert [(item.chosen, item.utilities) for item in found] == [(0, [None]), (0, [None])]


def test_the_most_agreeable_is_chosen() -> None:
    found = candidates("the dog sleeps", "a cat sat down", "the cat sat down", "the cat sat up")
    for choice in (Choice.MBR_CHRF, Choice.MBR_BLEU):
        assert choose([found], ["s"], choice=choice)[0].best == "the cat sat down"


def test_metrics_are_those_of_sacrebleu() -> None:
    for text, reference in itertools.product(["a b c d e", "a b", "", "the cat, the dog"], repeat=2):
        bleu = sacrebleu.sentence_bleu(text, [reference], use_effective_order=True).score
        assert sentence_bleu(BleuTokenizer.MTEVAL)(text, reference) == bleu
        assert sentence_chrf()(text, reference) == sacrebleu.sentence_chrf(text, [reference]).score


# --- which choice is meant -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "teacher", "num_candidates", "meant"),
    [
        (None, False, 1, Choice.FIRST),
        (None, False, 4, Choice.FIRST),
        (None, True, 4, Choice.TEACHER),
        (None, True, 1, Choice.FIRST),
        (Choice.FIRST, True, 4, Choice.FIRST),
        (Choice.FIRST, False, 1, Choice.FIRST),
        (Choice.OWN, True, 2, Choice.OWN),
        (Choice.TEACHER, True, 2, Choice.TEACHER),
        (Choice.MBR_BLEU, False, 2, Choice.MBR_BLEU),
    ],
)
def test_which_choice_is_meant(asked: Choice | None, teacher: bool, num_candidates: int, meant: Choice) -> None:
    assert resolve_choice(asked, teacher=teacher, num_candidates=num_candidates) is meant


@pytest.mark.parametrize("choice", [Choice.OWN, Choice.TEACHER, Choice.MBR_CHRF, Choice.MBR_BLEU])
def test_a_choice_without_candidates_is_refused(choice: Choice) -> None:
    with pytest.raises(ConfigError, match=f"^choose={choice.value}: has no effect with num_candidates=1"):
        resolve_choice(choice, teacher=True, num_candidates=1)


def test_the_teachers_choice_without_a_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^choose=teacher: needs a model that scores, teacher=RUN_DIR$"):
        resolve_choice(Choice.TEACHER, teacher=False, num_candidates=2)
