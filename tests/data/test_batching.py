from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat.data.batching import length_sorted_batches, micro_batches, plan_updates, prefetch
from nat.data.pairs import Pair

pair_lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=80)
canvases = st.sampled_from([lambda s, t: 2 * s, lambda s, t: t + 1, lambda s, t: 0 * s + 7])


def lengths_of(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in pairs], dtype=np.int32), np.array([t for _, t in pairs], dtype=np.int32)


def made(lengths: list[tuple[int, int]]) -> list[Pair]:
    """Pairs of these lengths, each with tokens of its own."""
    return [Pair([1000 + n] * s, [1000 + n] * t) for n, (s, t) in enumerate(lengths)]


# --- updates ---------------------------------------------------------------------------------------


@given(pair_lengths, st.integers(1, 400), st.integers(0, 9), st.integers(0, 3))
def test_a_plan_is_a_partition_and_reproducible(pairs, tokens, seed, epoch):
    plan = plan_updates(*lengths_of(pairs), tokens, seed=(seed, epoch))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(pairs)))
    assert all(len(update) for update in plan)
    again = plan_updates(*lengths_of(pairs), tokens, seed=(seed, epoch))
    assert [update.tolist() for update in plan] == [update.tolist() for update in again]


@given(pair_lengths, st.integers(1, 400))
def test_no_update_is_far_from_the_even_share(pairs, tokens):
    targets = lengths_of(pairs)[1] + 1
    share = targets.sum() / max(1, round(targets.sum() / tokens))
    for update in plan_updates(*lengths_of(pairs), tokens, seed=(1, 1)):
        assert abs(targets[update].sum() - share) <= targets.max()


def corpus(number: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    target = random.geometric(0.06, number).clip(1, 120)
    return (target + random.integers(-2, 5, number)).clip(1), target


@pytest.mark.parametrize("tokens", [500, 4096, 30_000])
def test_updates_have_the_asked_number_of_tokens(tokens):
    source, target = corpus()
    sizes = [(target[update] + 1).sum() for update in plan_updates(source, target, tokens, seed=(1, 0))]
    assert max(abs(size / tokens - 1) for size in sizes) < 0.3
    assert abs(np.mean(sizes) / tokens - 1) < 0.05


def test_a_small_corpus_is_one_update():
    assert len(plan_updates(np.array([4, 5]), np.array([4, 5]), 10_000, seed=(1, 0))) == 1
    assert plan_updates(np.array([]), np.array([]), 10, seed=(1, 0)) == []


def test_small_updates_hold_similar_lengths_and_large_ones_all_lengths():
    source, target = corpus()
    spread = np.mean([np.ptp(target[update]) for update in plan_updates(source, target, 2000, seed=(1, 0))])
    assert spread < 6
    for update in plan_updates(source, target, 80_000, seed=(1, 0)):
        assert np.ptp(target[update]) > 40
        assert abs(target[update].mean() / target.mean() - 1) < 0.8


def test_updates_are_sorted_by_what_the_model_works_on():
    """Nearly no padding where the source makes the canvas; less of both where encoder and decoder count."""
    source, target = corpus()

    def padding(lengths, plan):
        return 1 - lengths.sum() / sum(len(update) * lengths[update].max() for update in plan)

    plain = plan_updates(source, target, 2000, seed=(1, 0))
    slots = plan_updates(source, target, 2000, seed=(1, 0), canvas_length=lambda s, t: 2 * s)
    longer = plan_updates(source, target, 2000, seed=(1, 0), canvas_length=lambda s, t: t + 1)
    assert padding(2 * source, slots) < 0.05 < padding(2 * source, plain)
    assert padding(source, longer) < padding(source, plain) + 0.01
    assert padding(target, longer) < 0.1


def test_order_is_shuffled():
    source, target = corpus()
    means = [target[update].mean() for update in plan_updates(source, target, 2000, seed=(1, 0))]
    assert np.abs(np.diff(means)).mean() > 0.7 * np.std(means), "neighbours are as different as any two"


def test_pairs_meet_other_pairs_in_the_next_epoch():
    source, target = corpus()
    first, second = (plan_updates(source, target, 2000, seed=(1, epoch)) for epoch in (0, 1))
    place = np.zeros(len(target), dtype=int)
    for number, update in enumerate(second):
        place[update] = number
    together = [np.bincount(place[update]).max() / len(update) for update in first if len(update) > 30]
    assert np.mean(together) < 0.4


# --- micro-batches ---------------------------------------------------------------------------------


@given(pair_lengths, canvases, st.integers(1, 4), st.integers(1, 300))
def test_ranks_share_an_update_exactly_and_batches_fit(lengths, canvas, num_ranks, max_tokens):
    pairs, found = made(lengths), []
    shares = []
    for rank in range(num_ranks):
        batches = micro_batches(pairs, canvas, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens)
        shares.append(sum(len(batch) for batch in batches))
        for batch in batches:
            source, target = batch.source.lengths.numpy(), batch.target.lengths.numpy()
            width = max(source.max(), canvas(source, target).max())
            assert len(batch) * width <= max_tokens or len(batch) == 1
            found += zip(batch.source.to_lists(), batch.target.to_lists(), strict=True)
    assert sorted(Pair(*item) for item in found) == sorted(pairs)
    assert max(shares) - min(shares) <= 1


def test_a_batch_is_as_large_as_fits():
    pairs = made([(10, 5)] * 7 + [(3, 3)])
    batches = micro_batches(pairs, lambda s, t: 2 * s, rank=0, num_ranks=1, max_tokens=60)
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert batches[0].source.tokens.shape == (3, 10)


def test_more_ranks_than_pairs_and_no_pairs():
    pairs = made([(2, 2)])
    assert [len(micro_batches(pairs, lambda s, t: t, rank=r, num_ranks=3, max_tokens=9)) for r in range(3)] == [1, 0, 0]
    assert micro_batches([], lambda s, t: t, rank=0, num_ranks=1, max_tokens=9) == []


# --- decoding batches ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.none() | st.integers(1, 100))
def test_decoding_batches(lengths, batch_size, max_tokens):
    batches = length_sorted_batches(lengths, batch_size=batch_size, max_tokens=max_tokens)
    order = [int(i) for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert max_tokens is None or len(batch) == 1 or len(batch) * lengths[batch[0]] <= max_tokens


# --- prefetch --------------------------------------------------------------------------------------


def test_prefetch_gives_the_same_items():
    assert list(prefetch(iter(range(50)), depth=3)) == list(range(50))


def test_prefetch_works_ahead_but_not_further_than_asked():
    made_so_far = []
    items = prefetch(made_so_far.append(n) or n for n in range(100))
    assert next(items) == 0
    time.sleep(0.3)
    assert 3 <= len(made_so_far) <= 4
    items.close()


def test_prefetch_passes_exceptions_on_after_the_items():
    def failing():
        yield 1
        raise ValueError("here")

    items = prefetch(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="here"):
        next(items)


def test_the_thread_ends_when_the_consumer_stops():
    before = set(threading.enumerate())
    items = prefetch(iter(range(1000)))
    next(items)
    (thread,) = set(threading.enumerate()) - before
    items.close()
    assert not thread.is_alive()  # one that is within C++ when Python ends aborts the process
