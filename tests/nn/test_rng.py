"""Random numbers of rows: a function of content and seed alone, and uniform."""

from __future__ import annotations

import pytest
import torch
from builders import make_batch

from nat.data.batching import micro_batches
from nat.data.pairs import Pair
from nat.nn.rng import RowRandom, evenly_spread

LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]


def of(source_only: bool = False, seed: int = 3, extra: int = 0, rows: list[int] | None = None) -> RowRandom:
    batch = make_batch(LENGTHS)
    if rows is not None:
        batch = batch.select(torch.tensor(rows))
    parts = [(batch.source.tokens, batch.source.valid), (batch.target.tokens, batch.target.valid)]
    wide = [tuple(torch.nn.functional.pad(t, (0, extra)) for t in part) for part in parts]
    return RowRandom.of(*(wide[:1] if source_only else wide), seed=seed)  # type: ignore[arg-type]


def test_numbers_depend_on_content_and_seed_alone() -> None:
    whole = of().uniform(6, 5)
    assert torch.equal(of(extra=4).uniform(6, 5), whole)
    assert torch.equal(of(rows=[2, 0]).uniform(6, 5), whole[[2, 0]])
    assert torch.equal(of().uniform(3, 2), whole[:, :3, :2])
    for other in (of(seed=4), of(source_only=True), of().fork(0), of().fork(1)):
        assert not (other.uniform(6, 5) == whole).any()


def test_the_first_copies_are_the_same_however_many_there_are() -> None:
    few, many = of().copies(2).uniform(4), of().copies(5).uniform(4)
    assert torch.equal(few.view(5, 2, 4), many.view(5, 5, 4)[:, :2])
    assert many.unique().numel() == many.numel()


def test_forks_are_all_different() -> None:
    random = of()
    forks = torch.stack([random.fork(number).keys for number in [*range(300), 10**9, 2**62]])
    assert forks.unique().numel() == forks.numel()
    assert torch.equal(forks[7], random.fork(7).keys)


def test_samples_are_those_of_copies() -> None:
    log_probs = torch.randn(len(LENGTHS), 6, 9, generator=torch.Generator().manual_seed(1))
    log_probs[:, :, 3] = -torch.inf
    random = of()
    found = random.copies(4).samples(log_probs)
    assert torch.equal(found.flatten(0, 1), random.copies(4).sample(log_probs.repeat_interleave(4, dim=0)))
    assert torch.equal(random.copies(2).samples(log_probs), found[:, :2])
    assert torch.equal(random.copies(4).samples(log_probs[:, :2]), found[:, :, :2])
    assert (found != 3).all()
    assert (found[:, 0] != found[:, 1]).any()


def test_numbers_are_uniform_and_independent() -> None:
    tokens = torch.arange(2000)[:, None] + 7
    numbers = RowRandom.of((tokens, torch.ones_like(tokens, dtype=torch.bool)), seed=0).uniform(4, 3).double()
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert numbers.var().item() == pytest.approx(1 / 12, rel=0.02)
    correlation = torch.corrcoef(numbers.flatten(1).T).fill_diagonal_(0).abs().max()
    assert correlation < 0.1


def test_samples_follow_their_probabilities_and_never_the_impossible() -> None:
    tokens = torch.arange(20000)[:, None]
    random = RowRandom.of((tokens, torch.ones_like(tokens, dtype=torch.bool)), seed=1)
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.7, 0.1, 0.0])
    drawn = random.sample(probabilities.log().expand(20000, 2, 6))
    for column in drawn.T:
        share = column.bincount(minlength=6) / 20000
        assert torch.allclose(share, probabilities, atol=0.015)
        assert (share[probabilities == 0] == 0).all()


def test_forks_of_any_number_are_different_streams() -> None:
    random = RowRandom(torch.tensor([7, -(2**62)]))
    streams = [random.fork(number).uniform(3) for number in (*range(20), 10**6, 2**40)]
    assert len({tuple(stream.flatten().tolist()) for stream in streams}) == len(streams)


def test_equal_pairs_of_an_update_draw_other_numbers_and_so_do_two_seeds() -> None:
    pairs = [Pair([7, 8, 9], [9, 8])] * 3 + [Pair([9], [7])]

    def drawn(seed: int, max_tokens: int = 100, rank: int = 0, num_ranks: int = 1) -> list[list[float]]:
        batches = micro_batches(pairs, lambda s, t: t, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens, seed=seed)
        return [row for batch in batches for row in RowRandom.of_pairs(batch, seed=5).uniform(4).tolist()]

    together = drawn(1)
    assert len({tuple(row) for row in together}) == 4
    assert drawn(1) == together
    assert not set(map(tuple, drawn(1000))) & set(map(tuple, together))
    # whatever the micro-batch and the rank
    assert sorted(drawn(1, max_tokens=3)) == sorted(together)
    assert sorted([*drawn(1, rank=0, num_ranks=2), *drawn(1, rank=1, num_ranks=2)]) == sorted(together)


def test_numbers_of_an_update_are_evenly_spread_over_its_pairs_however_it_is_cut() -> None:
    pairs = [Pair([7, 8, 9], [9, 8])] * 60 + [Pair([9], [7])] * 40

    def drawn(update: int, max_tokens: int = 1000, rank: int = 0, num_ranks: int = 1) -> list[float]:
        batches = micro_batches(pairs, lambda s, t: t, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens, seed=4)
        return [number for batch in batches for number in evenly_spread(batch, seed=update).tolist()]

    together = sorted(drawn(5))
    for n, number in enumerate(together):
        assert abs(number - (n + 0.5) / 100) < 0.03  # of independent numbers it would be 0.1 somewhere
    assert sorted(drawn(5, max_tokens=9)) == together
    assert sorted([*drawn(5, rank=0, num_ranks=2), *drawn(5, rank=1, num_ranks=2)]) == together
    first = [drawn(update)[0] for update in range(200)]  # each of them is uniform
    assert abs(sum(first) / 200 - 0.5) < 0.08 and min(first) < 0.05 and max(first) > 0.95
    batch = make_batch(LENGTHS)  # pairs that nobody counts
    assert torch.equal(evenly_spread(batch, seed=3), RowRandom.of_pairs(batch, seed=3).uniform())
