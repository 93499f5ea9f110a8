"""The search drivers alone, on table models whose answers are known by enumeration."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import TableModel, all_sequences, penalised, plain_beam_search, random_table
from torch import Tensor

from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.nn.rng import RowRandom
from nat.search.beam import Hypotheses, beam_search, greedy, length_penalty, sample

EOS, PAD = int(Symbol.EOS), int(Symbol.PAD)
TOKENS = NUM_SYMBOLS + 2
SEEDS = st.integers(0, 10_000)
SOME = settings(deadline=None, max_examples=25)  # a deadline would measure the machine


def hypotheses(found: Hypotheses, row: int) -> list[tuple[tuple[int, ...], float]]:
    """The real ones (score above -inf) of a sentence."""
    listed = zip(found.tokens[row].tolist(), found.lengths[row].tolist(), found.scores[row].tolist(), strict=True)
    return [(tuple(ids[:length]), score) for ids, length, score in listed if score > -math.inf]


def search(table: Any, limits: list[int], **options: Any) -> Hypotheses:
    model = TableModel(table)
    return beam_search(model, model.start(len(limits)), torch.tensor(limits), **options)


def search_greedily(table: Any, limits: list[int]) -> Hypotheses:
    model = TableModel(table)
    return greedy(model, model.start(len(limits)), torch.tensor(limits))


def assert_same(first: list[tuple[tuple[int, ...], float]], second: list[tuple[tuple[int, ...], float]]) -> None:
    assert [tokens for tokens, _ in first] == [tokens for tokens, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second], abs=1e-12)


def known(*rows: dict[tuple[int, ...], dict[int, float]]) -> Any:
    """A table from probabilities: sentence -> history -> {token: probability}; an unknown history ends."""

    def table(sentence: int, history: tuple[int, ...]) -> Tensor:
        log_probs = torch.full((TOKENS,), -math.inf, dtype=torch.float64)
        for token, probability in rows[sentence].get(history, {EOS: 1.0}).items():
            log_probs[token] = math.log(probability)
        return log_probs

    return table


GARDEN_PATH = {(): {7: 0.6, 8: 0.4}, (7,): {EOS: 0.5, 7: 0.5}, (8,): {EOS: 0.9, 7: 0.1}}


def test_greedy_takes_the_garden_path_and_beam_does_not() -> None:
    found = search_greedily(known(GARDEN_PATH), [4])
    assert_same(hypotheses(found, 0), [((7,), math.log(0.6 * 0.5))])
    found = search(known(GARDEN_PATH), [4], beam_size=2, num_candidates=2)
    assert_same(hypotheses(found, 0), [((8,), math.log(0.4 * 0.9)), ((7,), math.log(0.6 * 0.5))])
    assert found.truncated.tolist() == [False]


def test_the_limit_forces_the_end_with_its_own_probability() -> None:
    endless = {(7,) * n: {7: 0.9, EOS: 0.1} for n in range(9)}
    for found in (search_greedily(known(endless), [3]), search(known(endless), [3], beam_size=1)):
        assert_same(hypotheses(found, 0), [((7, 7, 7), math.log(0.9**3 * 0.1))])
        assert found.truncated.tolist() == [True]
    ends_there = endless | {(7, 7, 7): {EOS: 0.8, 7: 0.2}}
    assert search_greedily(known(ends_there), [3]).truncated.tolist() == [False]


def test_steps_are_calls_and_not_the_length_of_the_best() -> None:
    late = {(): {EOS: 0.6, 7: 0.4}, (7,): {7: 1.0}, (7, 7): {EOS: 1.0}}
    assert search_greedily(known(late), [5]).steps.tolist() == [1]
    found = search(known(late, GARDEN_PATH), [5, 5], beam_size=2)
    assert found.lengths.tolist() == [[0], [1]]
    assert found.steps.tolist() == [3, 2]


def test_at_most_limit_plus_one_calls() -> None:
    endless = {(7,) * n: {7: 0.9, EOS: 0.1} for n in range(9)}
    model = TableModel(known(endless, GARDEN_PATH))
    greedy(model, model.start(2), torch.tensor([5, 2]))
    assert model.calls == 6


def test_an_empty_translation_is_possible() -> None:
    empty: dict[tuple[int, ...], dict[int, float]] = {(): {EOS: 0.7, 7: 0.3}}
    for found in (search_greedily(known(empty), [3]), search(known(empty), [3], beam_size=2)):
        assert_same(hypotheses(found, 0), [((), math.log(0.7))])
        assert found.tokens.tolist() == [[[PAD]]]


def test_missing_hypotheses_are_empty_with_score_minus_infinity() -> None:
    found = search(known({(): {7: 1.0}}), [4], beam_size=3, num_candidates=3)  # one sequence only: 7
    assert found.scores.tolist() == [[0.0, -math.inf, -math.inf]]
    assert found.lengths.tolist()[0][0] == 1


def search_randomly(table: Any, limits: list[int], **options: Any) -> Hypotheses:
    """Sentence i is a source of one token, i."""
    model, tokens = TableModel(table), torch.arange(len(limits))[:, None]
    given: dict[str, Any] = {"num_samples": 3, "temperature": 1.0, "seed": 1} | options
    random = RowRandom.of((tokens, torch.ones_like(tokens, dtype=torch.bool)), seed=given.pop("seed"))
    copies = random.copies(given.pop("num_samples"))
    return sample(model, model.start(len(limits)), torch.tensor(limits), random=copies, **given)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_are_distributed_as_the_model_says(temperature: float) -> None:
    """Against every sequence's probability; their scores are the model's own, whatever the temperature."""
    plain = functools.cache(random_table(5, NUM_SYMBOLS + 1))
    number, limit = 3000, 3

    def heated(history: tuple[int, ...]) -> Tensor:
        only_end = torch.full((NUM_SYMBOLS + 1,), -math.inf, dtype=torch.float64).index_fill(0, torch.tensor(EOS), 0.0)
        return (plain(0, history) / temperature).log_softmax(0) if len(history) < limit else only_end

    found = hypotheses(search_randomly(plain, [limit], num_samples=number, temperature=temperature), 0)
    assert len(found) == number
    counts = Counter(tokens for tokens, _ in found)
    expected = {tokens: math.exp(score) for tokens, score in all_sequences(heated, limit)}
    assert sum(expected.values()) == pytest.approx(1.0)
    assert set(counts) <= set(expected)
    for tokens, probability in expected.items():
        deviation = math.sqrt(number * probability * (1 - probability))
        assert abs(counts[tokens] - number * probability) < 4 * deviation + 1, tokens
    scores = dict(all_sequences(lambda history: plain(0, history), limit))
    assert [score for _, score in found] == pytest.approx([scores[tokens] for tokens, _ in found], abs=1e-12)


@SOME
@given(seed=SEEDS, limits=st.lists(st.integers(1, 6), min_size=2, max_size=4), count=st.integers(1, 4))
def test_samples_depend_neither_on_the_batch_nor_on_their_number(seed: int, limits: list[int], count: int) -> None:
    table = random_table(seed, TOKENS)
    together = search_randomly(table, limits, num_samples=count + 1)
    fewer = search_randomly(table, limits, num_samples=count)
    for row in range(len(limits)):
        assert_same(hypotheses(together, row)[:count], hypotheses(fewer, row))
    last = len(limits) - 1
    before = search_randomly(table, limits[:last], num_samples=count + 1)
    for row in range(last):
        assert_same(hypotheses(together, row), hypotheses(before, row))
        assert together.truncated[row] == before.truncated[row] == fewer.truncated[row]
        assert together.steps[row] == before.steps[row] == together.lengths[row].max() + 1


def test_another_seed_gives_other_samples() -> None:
    table = random_table(3, TOKENS)
    one, same, other = (search_randomly(table, [9] * 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.lengths, other.lengths)


def test_the_limit_forces_the_end_of_a_sample() -> None:
    endless = {(7,) * n: {7: 0.9999, EOS: 0.0001} for n in range(9)}
    found = search_randomly(known(endless), [3])
    assert_same(hypotheses(found, 0), [((7, 7, 7), math.log(0.9999**3 * 0.0001))] * 3)
    assert (found.truncated.tolist(), found.steps.tolist()) == ([True], [4])


@SOME
@given(seed=SEEDS, limits=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_cold_samples_are_greedy(seed: int, limits: list[int]) -> None:
    table = random_table(seed, TOKENS)
    cold, simple = search_randomly(table, limits, temperature=1e-4), search_greedily(table, limits)
    for row in range(len(limits)):
        assert_same(hypotheses(cold, row), hypotheses(simple, row) * 3)


@SOME
@given(seed=SEEDS, limits=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_beam_one_is_greedy(seed: int, limits: list[int]) -> None:
    table = random_table(seed, TOKENS)  # without ties: topk does not promise to break them as max does
    narrow, simple = search(table, limits, beam_size=1, alpha=0.7), search_greedily(table, limits)
    for row in range(len(limits)):
        assert_same(hypotheses(narrow, row), hypotheses(simple, row))
    assert torch.equal(narrow.truncated, simple.truncated)
    assert torch.equal(narrow.tokens, simple.tokens)


@SOME
@given(seed=SEEDS, limit=st.integers(0, 5))
def test_greedy_is_a_plain_loop(seed: int, limit: int) -> None:
    table, score = random_table(seed, TOKENS), 0.0
    tokens: tuple[int, ...] = ()
    while True:
        log_probs = table(0, tokens)
        best = int(log_probs.argmax())
        if best == EOS or len(tokens) == limit:
            score += log_probs[EOS].item()
            break
        tokens, score = (*tokens, best), score + log_probs[best].item()
    assert_same(hypotheses(search_greedily(table, [limit]), 0), [(tokens, score)])


@SOME
@given(seed=SEEDS, limit=st.integers(0, 3))
def test_a_huge_beam_is_exhaustive_search(seed: int, limit: int) -> None:
    table = random_table(seed, NUM_SYMBOLS)  # EOS, MASK, BLANK, PLH: 4 possible tokens
    best = sorted(all_sequences(lambda tokens: table(0, tokens), limit), key=lambda item: -item[1])
    width = 4 ** (limit + 1)
    found = hypotheses(search(table, [limit], beam_size=width, num_candidates=min(width, 10), alpha=0.0), 0)
    assert_same(found[:10], best[:10])


@SOME
@given(seed=SEEDS, limit=st.integers(1, 3), alpha=st.sampled_from([0.6, 1.0, 2.0]))
def test_a_huge_beam_ranks_all_sequences_by_penalised_score(seed: int, limit: int, alpha: float) -> None:
    table = random_table(seed, NUM_SYMBOLS)
    everything = all_sequences(lambda tokens: table(0, tokens), limit)
    best = sorted(everything, key=lambda item: -penalised(item[1], len(item[0]), alpha))
    found = hypotheses(search(table, [limit], beam_size=4 ** (limit + 1), num_candidates=5, alpha=alpha), 0)
    assert_same(found, best[:5])


@SOME
@given(seed=SEEDS, limit=st.integers(1, 6), beam_size=st.integers(1, 5), alpha=st.sampled_from([0.0, 0.6, 1.5]))
def test_any_beam_is_the_plain_one(seed: int, limit: int, beam_size: int, alpha: float) -> None:
    table = random_table(seed, TOKENS)
    expected = plain_beam_search(lambda tokens: table(0, tokens), limit, beam_size=beam_size, alpha=alpha)
    found = search(table, [limit], beam_size=beam_size, num_candidates=beam_size, alpha=alpha)
    assert_same(hypotheses(found, 0), expected)


@SOME
@given(
    seed=SEEDS,
    limits=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    beam_size=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.6]),
)
def test_a_sentence_is_searched_as_if_alone(seed: int, limits: list[int], beam_size: int, alpha: float) -> None:
    table = random_table(seed, TOKENS)
    together = search(table, limits, beam_size=beam_size, num_candidates=beam_size, alpha=alpha)
    for row, limit in enumerate(limits):
        alone = search(lambda _, history, row=row: table(row, history), [limit], beam_size=beam_size,
                       num_candidates=beam_size, alpha=alpha)  # fmt: skip
        assert_same(hypotheses(together, row), hypotheses(alone, 0))
        assert together.truncated[row] == alone.truncated[0]
        assert together.steps[row] == alone.steps[0]


@SOME
@given(seed=SEEDS, limits=st.lists(st.integers(1, 5), min_size=1, max_size=3), alpha=st.sampled_from([0.0, 0.6, 2.0]))
def test_n_best_are_sorted_and_distinct(seed: int, limits: list[int], alpha: float) -> None:
    found = search(random_table(seed, TOKENS), limits, beam_size=4, num_candidates=4, alpha=alpha)
    for row in range(len(limits)):
        listed = hypotheses(found, row)
        ranks = [penalised(score, len(tokens), alpha) for tokens, score in listed]
        assert ranks == sorted(ranks, reverse=True)
        assert len({tokens for tokens, _ in listed}) == len(listed) >= 1
    beyond = torch.arange(found.tokens.size(2)) >= found.lengths[:, :, None]
    assert (found.tokens[beyond] == PAD).all()


def test_length_penalty_is_equation_14() -> None:
    assert [length_penalty(length, 0.6) for length in (1, 7)] == pytest.approx([1.0, 2.0**0.6])
