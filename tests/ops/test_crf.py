"""Chains of candidates against an enumeration of all their sequences."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nat.ops.crf import FLOOR, Chain, suffix_sums

SIZE, WIDTH, LENGTHS = 3, 4, [4, 1, 3, 2]


def random_chain(lengths: list[int] = LENGTHS, *, width: int = WIDTH, size: int = SIZE, seed: int = 0) -> Chain:
    generator = torch.Generator().manual_seed(seed)
    emissions = torch.randn(len(lengths), width, size, generator=generator, dtype=torch.float64)
    transitions = torch.randn(len(lengths), width - 1, size, size, generator=generator, dtype=torch.float64)
    return Chain(emissions, transitions, torch.tensor(lengths))


def every_score(chain: Chain, row: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """All sequences of a row, and their scores by hand."""
    length = int(chain.lengths[row])
    sequences = list(itertools.product(range(chain.emissions.size(2)), repeat=length))
    scores = [
        sum(
            [chain.emissions[row, i, k] for i, k in enumerate(sequence)]
            + [chain.transitions[row, i, k, m] for i, (k, m) in enumerate(itertools.pairwise(sequence))]
        )
        for sequence in sequences
    ]
    return sequences, torch.stack(scores)  # type: ignore[arg-type]


def padded(sequence: tuple[int, ...]) -> list[int]:
    return [*sequence, *[0] * (WIDTH - len(sequence))]


def test_scores_and_the_normaliser_are_those_of_all_sequences() -> None:
    chain = random_chain()
    for row in range(len(LENGTHS)):
        sequences, scores = every_score(chain, row)
        rows = Chain(*(part[row : row + 1].repeat_interleave(len(sequences), dim=0) for part in parts(chain)))
        assert torch.allclose(rows.scores(torch.tensor([padded(s) for s in sequences])), scores)
        assert chain.log_normaliser()[row].item() == pytest.approx(scores.logsumexp(0).item())


def parts(chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
    return chain.emissions, chain.transitions, chain.lengths


def test_the_gradient_of_the_normaliser_is_that_of_the_enumeration() -> None:
    chain = random_chain()
    emissions, transitions = chain.emissions.requires_grad_(), chain.transitions.requires_grad_()
    weights = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    by_hand = torch.stack([every_score(chain, row)[1].logsumexp(0) for row in range(len(LENGTHS))])
    wanted = torch.autograd.grad((weights * by_hand).sum(), (emissions, transitions))
    found = torch.autograd.grad((weights * chain.log_normaliser()).sum(), (emissions, transitions))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(
        lambda e, t: Chain(e, t, chain.lengths).log_normaliser(), (emissions, transitions), atol=1e-8
    )


def test_the_best_sequence_is_the_best_of_all() -> None:
    for seed in range(10):
        chain = random_chain(seed=seed)
        best = chain.best()
        for row, length in enumerate(LENGTHS):
            sequences, scores = every_score(chain, row)
            assert tuple(best[row, :length].tolist()) == sequences[int(scores.argmax())]


def test_conditionals_multiply_to_the_probability_of_every_sequence() -> None:
    chain = random_chain()
    for row, length in enumerate(LENGTHS):
        sequences, scores = every_score(chain, row)
        rows = Chain(*(part[row : row + 1].repeat_interleave(len(sequences), dim=0) for part in parts(chain)))
        found = rows.conditionals(torch.tensor([padded(s) for s in sequences]))
        assert (found <= 1e-12).all()
        assert not found[:, length:].any()
        assert torch.allclose(found.sum(dim=1), scores.log_softmax(0))
        heads = torch.tensor([s[0] for s in sequences])
        for head in range(SIZE):  # the first is the marginal of the first position
            marginal = scores[heads == head].logsumexp(0) - scores.logsumexp(0)
            assert torch.allclose(found[heads == head, 0], marginal)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_samples_follow_the_distribution_at_the_temperature(temperature: float) -> None:
    number = 20_000
    chain = random_chain([3], width=3)
    many = Chain(*(part.repeat_interleave(number, dim=0) for part in parts(chain)))
    drawn = torch.rand(number, 3, generator=torch.Generator().manual_seed(2))
    found = [tuple(row) for row in many.cooled(temperature).sampled(drawn).tolist()]
    sequences, scores = every_score(chain, 0)
    for sequence, chance in zip(sequences, (scores / temperature).softmax(0).tolist(), strict=True):
        assert found.count(sequence) / number == pytest.approx(chance, abs=0.015)


def test_padding_and_other_rows_change_nothing() -> None:
    chain = random_chain()
    drawn = torch.rand(len(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(2))
    for row, length in enumerate(LENGTHS):
        alone = Chain(
            chain.emissions[row : row + 1, :length],
            chain.transitions[row : row + 1, : length - 1],
            chain.lengths[row : row + 1],
        )
        assert torch.equal(alone.best()[0], chain.best()[row, :length])
        assert torch.equal(alone.sampled(drawn[row : row + 1, :length])[0], chain.sampled(drawn)[row, :length])
        assert torch.allclose(alone.log_normaliser()[0], chain.log_normaliser()[row])
        assert torch.allclose(suffix_sums(*parts(alone))[0], suffix_sums(*parts(chain))[row, :length])


def test_an_impossible_candidate_has_no_share_and_no_gradient() -> None:
    chain = random_chain([4, 3])
    emissions = chain.emissions.float().clone()
    emissions[:, 1, 0] = FLOOR
    emissions.requires_grad_()
    floored = Chain(emissions, chain.transitions.float(), chain.lengths)
    fewer = [
        torch.stack([score for s, score in zip(*every_score(floored, row), strict=True) if s[1] != 0]).logsumexp(0)
        for row in range(2)
    ]
    found = floored.log_normaliser()
    assert torch.allclose(found, torch.stack(fewer))
    found.sum().backward()
    assert emissions.grad is not None
    assert not emissions.grad[:, 1, 0].any()
    assert torch.isfinite(emissions.grad).all()
    assert (floored.best()[:, 1] != 0).all()
