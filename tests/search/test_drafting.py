"""Checked drafts: whatever was drafted, the output is that of greedy search, or of sampling with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import TableModel, random_table
from torch import Tensor

from nat.data.batch import Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.nn.rng import RowRandom
from nat.search.beam import BOS, Hypotheses, greedy, sample
from nat.search.drafting import Pick, Tolerance, drafted

EOS = int(Symbol.EOS)
TOKENS = NUM_SYMBOLS + 3
SOME = settings(deadline=None, max_examples=40)
Table = Callable[[int, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Past:
    """tokens, positions: of the last call."""

    sentences: tuple[int, ...]
    histories: tuple[tuple[int, ...], ...]
    tokens: Tensor | None = None

    def select(self, rows: Tensor) -> Past:
        chosen = rows.tolist()
        assert self.tokens is None
        return Past(tuple(self.sentences[i] for i in chosen), tuple(self.histories[i] for i in chosen))

    def keep(self, taken: Tensor) -> Past:
        assert self.tokens is not None
        more = [tuple(row[mask].tolist()) for row, mask in zip(self.tokens, taken, strict=True)]
        histories = tuple(history + new for history, new in zip(self.histories, more, strict=True))
        return Past(self.sentences, histories)


class Checking:
    """A `Check` of a table, which sees what each query says that it sees."""

    def __init__(self, table: Table) -> None:
        self.table, self.calls = table, 0

    def __call__(self, tokens: Tensor, positions: Tensor, seen: Tensor, state: Past) -> tuple[Tensor, Past]:
        self.calls += 1
        rows = []
        for sentence, history, line, places in zip(state.sentences, state.histories, tokens, positions, strict=True):
            answers = []
            for query in range(tokens.size(1)):
                whole = history + tuple(line[seen[query]].tolist())  # ascending queries are ascending positions
                assert len(whole) == int(places[query]) + 1
                assert whole[0] == BOS
                answers.append(self.table(sentence, whole[1:]))
            rows.append(torch.stack(answers))
        return torch.stack(rows), replace(state, tokens=tokens)


def most_probable(log_probs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    return log_probs.argmax(dim=-1)


def check(table: Table, limits: list[int], drafts: list[list[int]], pick: Pick = most_probable, **options: Any) -> Any:
    model = Checking(table)
    start = Past(tuple(range(len(limits))), ((),) * len(limits))
    return drafted(model, start, torch.tensor(limits), Target.from_lists(drafts), pick, **options)


def rows_of(found: Hypotheses) -> list[list[int]]:
    lengths = found.lengths[:, 0].tolist()
    return [row[:length] for row, length in zip(found.tokens[:, 0].tolist(), lengths, strict=True)]


def assert_equal(one: Hypotheses, other: Hypotheses) -> None:
    assert rows_of(one) == rows_of(other)
    assert one.truncated.tolist() == other.truncated.tolist()
    torch.testing.assert_close(one.scores, other.scores)


DRAFTS = st.lists(
    st.lists(st.sampled_from([int(Symbol.UNK), *range(NUM_SYMBOLS, TOKENS)]), max_size=7), min_size=3, max_size=3
)


@SOME
@given(st.integers(0, 10_000), DRAFTS, st.lists(st.integers(0, 6), min_size=3, max_size=3))
def test_it_is_greedy_search_whatever_was_drafted(seed: int, drafts: list[list[int]], limits: list[int]) -> None:
    table = random_table(seed, TOKENS)
    expected = greedy(TableModel(table), TableModel(table).start(3), torch.tensor(limits))
    found = check(table, limits, drafts)
    assert_equal(found, expected)
    assert all(1 <= calls <= length + 1 for calls, length in zip(found.steps, expected.lengths[:, 0], strict=True))


@SOME
@given(st.integers(0, 10_000), DRAFTS)
def test_it_is_sampling_with_the_same_numbers(seed: int, drafts: list[list[int]]) -> None:
    table, limits = random_table(seed, TOKENS), torch.tensor([5, 5, 5])
    random = RowRandom(torch.tensor([seed, seed + 1, seed + 2]))
    expected = sample(TableModel(table), TableModel(table).start(3), limits, random=random, temperature=0.7)

    def pick(log_probs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        return random.select(rows).fork_each(positions).sample(log_probs / 0.7)

    assert_equal(check(table, limits.tolist(), drafts, pick), expected)


@pytest.mark.parametrize("seed", range(5))
def test_its_own_output_takes_one_call(seed: int) -> None:
    table = random_table(seed, TOKENS)
    expected = check(table, [8, 8], [[], []])
    assert expected.steps.tolist() == (expected.lengths[:, 0] + 1).tolist()  # without a draft it is greedy search
    assert check(table, [8, 8], rows_of(expected)).steps.tolist() == [1, 1]


def text(answer: list[int]) -> Table:
    """A model that writes this alone, whatever stands before."""

    def table(sentence: int, history: tuple[int, ...]) -> Tensor:
        log_probs = torch.full((TOKENS + 20,), -9.0, dtype=torch.float64)
        log_probs[answer[len(history)] if len(history) < len(answer) else EOS] = 0.0
        return log_probs.log_softmax(0)

    return table


ANSWER = [NUM_SYMBOLS + i for i in range(12)]
OTHER = NUM_SYMBOLS + 20


@pytest.mark.parametrize(
    "draft",
    [
        [*ANSWER[:4], OTHER, *ANSWER[5:]],  # another token
        [*ANSWER[:4], *ANSWER[5:]],  # one is missing
        [*ANSWER[:4], OTHER, *ANSWER[4:]],  # one too many
        [*ANSWER[:4], OTHER, OTHER, *ANSWER[4:]],
    ],
)
def test_what_is_left_of_a_draft_is_laid_anew(draft: list[int]) -> None:
    """One mistake costs a call, and a second one at most until the lines are long again, not one for each token."""
    found = check(text(ANSWER), [30], [draft])
    assert rows_of(found) == [ANSWER]
    assert int(found.steps) <= 4


def test_a_tolerance_keeps_what_is_likely_enough() -> None:
    def table(sentence: int, history: tuple[int, ...]) -> Tensor:
        log_probs = torch.full((TOKENS,), -9.0, dtype=torch.float64)
        a, b, c = range(NUM_SYMBOLS, TOKENS)
        if len(history) < 3:
            log_probs[a], log_probs[b], log_probs[c] = 0.0, -0.5, -2.0
        else:
            log_probs[EOS] = 0.0
        return log_probs.log_softmax(0)

    a, b, c = range(NUM_SYMBOLS, TOKENS)
    draft = [[b, c, a]]
    assert rows_of(check(table, [9], draft)) == [[a, a, a]]
    assert rows_of(check(table, [9], draft, tolerance=Tolerance(3, 1.0))) == [[b, a, a]]
    assert rows_of(check(table, [9], draft, tolerance=Tolerance(3, 3.0))) == [[b, c, a]]
    assert rows_of(check(table, [9], draft, tolerance=Tolerance(1, 3.0))) == [[a, a, a]]
    kept = check(table, [9], draft, tolerance=Tolerance(3, 3.0))
    expected = sum(float(table(0, tuple(draft[0][:i]))[token]) for i, token in enumerate([*draft[0], EOS]))
    assert float(kept.scores) == pytest.approx(expected)
