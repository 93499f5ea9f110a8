"""Searches for paths and targets against the enumeration of all of them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.dag import marginal_loss
from nat.search.dag import beam_search, best_of_length, follow, joint_viterbi, suffixes_by_length

PAD = -7  # no id at all: nothing may index with it
SEEDS = st.integers(0, 2**31 - 1)
MANY = settings(deadline=None, max_examples=60)  # a deadline would measure the machine


def graph(seed: int, vertices: list[int], num_tokens: int = 1, *, forbidden: float = 0.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens (B, A, V) and transitions, both normalised, of right-padded rows."""
    generator, width = torch.Generator().manual_seed(seed), max(vertices) + 1
    transitions = 2 * torch.randn(len(vertices), width, width, generator=generator, dtype=torch.double)
    impossible = torch.rand(transitions.shape, generator=generator) < forbidden
    impossible |= ~torch.ones(width, width, dtype=torch.bool).triu()
    for row, length in enumerate(vertices):
        impossible[row, :, length:-1] = True
    impossible[:, :, -1] = False
    logits = 2 * torch.randn(len(vertices), width - 1, num_tokens, generator=generator, dtype=torch.double)
    return logits.log_softmax(2), transitions.masked_fill(impossible, -torch.inf).log_softmax(2)


def paths(transitions: Tensor, log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Every path of a row (vertices from 0), with the log-probability of its steps and of one token each."""
    num_vertices, found = len(log_probs), {}
    for length in range(num_vertices + 1):
        for path in itertools.combinations(range(num_vertices), length):
            steps = zip((0, *(v + 1 for v in path)), (*path, num_vertices), strict=True)
            score = sum(transitions[u, v].item() for u, v in steps)
            found[path] = score + sum(log_probs[v].item() for v in path)
    return found


def visited(steps: Tensor) -> list[tuple[int, ...]]:
    nodes = follow(steps)
    assert nodes[:, 0].all()
    return [tuple(row.nonzero().flatten().tolist()) for row in nodes[:, 1:]]


@MANY
@given(seed=SEEDS, num_vertices=st.integers(0, 20), num_rows=st.integers(1, 3))
def test_followed_steps_are_those_taken_one_by_one(seed: int, num_vertices: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    farther = torch.rand(num_rows, num_vertices + 1, generator=generator)
    nodes = torch.arange(num_vertices + 1)
    steps = nodes + (farther * (num_vertices + 1 - nodes)).long()  # a vertex later, or the end
    for row, found in zip(steps.tolist(), visited(steps), strict=True):
        node, expected = 0, []
        while row[node] < num_vertices:
            expected.append(row[node])
            node = row[node] + 1
        assert found == tuple(expected)


@MANY
@given(
    seed=SEEDS,
    vertices=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    beta=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    forbidden=st.sampled_from([0.0, 0.4]),
)
def test_joint_viterbi_finds_the_best_of_all_paths(
    seed: int, vertices: list[int], beta: float, forbidden: float
) -> None:
    log_probs, transitions = graph(seed, vertices, 3, forbidden=forbidden)
    best = log_probs.amax(dim=2)
    found = visited(joint_viterbi(transitions, best, length_penalty=beta))
    for row, path in enumerate(found):
        every = paths(transitions[row], best[row])
        scores = {path: score / max(1, len(path)) ** beta for path, score in every.items()}
        assert scores[path] == pytest.approx(max(scores.values()))


def test_the_best_path_of_each_length_is_that_of_the_enumeration() -> None:
    log_probs, transitions = graph(2, [5, 5], 3)
    best = log_probs.amax(dim=2)
    after = suffixes_by_length(transitions, best)
    for number in range(6):
        for row, path in enumerate(visited(best_of_length(transitions, after, torch.tensor([number, number])))):
            every = paths(transitions[row], best[row])
            assert path == max((p for p in every if len(p) == number), key=lambda p: every[p])
            scores = transitions[row, 0, :-1] + after[row, number - 1]
            assert number == 0 or scores.max().item() == pytest.approx(every[path])


def test_a_larger_beta_writes_longer_translations() -> None:
    log_probs, transitions = graph(5, [8] * 40, 3)
    lengths = []
    for beta in (0.0, 1.0, 2.0):
        found = visited(joint_viterbi(transitions, log_probs.amax(dim=2), length_penalty=beta))
        lengths.append(sum(map(len, found)))
    assert lengths[0] < lengths[1] < lengths[2]


def targets(transitions: Tensor, log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Every target of a row with its probability, over all its paths."""
    num_vertices, num_tokens = log_probs.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in paths(transitions, log_probs.new_zeros(num_vertices)).items():
        for tokens in itertools.product(range(num_tokens), repeat=len(path[0])):
            written = sum(log_probs[v, token].item() for v, token in zip(path[0], tokens, strict=True))
            found[tokens] += math.exp(path[1] + written)
    return found


class Bigrams:
    """A prior of a table (V + 1, V): row 0 for the first token; the last token alone decides the end."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.most = table, max(0.0, table.max().item()) + 1

    def rows(self, prefixes: Tensor, lengths: Tensor) -> Tensor:
        last = prefixes.gather(2, (lengths - 1).clamp(min=0)[:, :, None]).squeeze(2)
        return self.table[torch.where(lengths > 0, last + 1, 0)]

    def extension(self, prefixes: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        return self.rows(prefixes, lengths).gather(2, tokens)

    def ending(self, prefixes: Tensor, lengths: Tensor) -> Tensor:
        return self.rows(prefixes, lengths)[:, :, 0].sigmoid().log()

    def of(self, target: tuple[int, ...]) -> float:
        steps = sum(self.table[1 + a, b].item() for a, b in itertools.pairwise((-1, *target)))
        return steps + self.table[1 + target[-1] if target else 0, 0].sigmoid().log().item()


@MANY
@given(
    seed=SEEDS,
    vertices=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    with_prior=st.booleans(),
    number=st.integers(1, 5),
    penalty=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
)
def test_a_wide_beam_finds_the_best_of_all_targets(
    seed: int, vertices: list[int], with_prior: bool, number: int, penalty: float
) -> None:
    log_probs, transitions = graph(seed, vertices, 2)
    table = 2 * torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    prior = Bigrams(table) if with_prior else None
    tokens, lengths, scores = beam_search(
        log_probs, transitions, pad=PAD, beam_size=40, num_candidates=number, length_penalty=penalty, prior=prior
    )
    for row in range(len(vertices)):
        every = targets(transitions[row], log_probs[row])
        fused = {y: math.log(p) + (prior.of(y) if prior else 0.0) for y, p in every.items() if p > 0}
        best = sorted(fused, key=lambda y: -fused[y] / max(1, len(y)) ** penalty)[:number]
        found = [tuple(ids[:n].tolist()) for ids, n in zip(tokens[row], lengths[row].tolist(), strict=True)]
        assert found[: len(best)] == best
        assert scores[row, : len(best)].tolist() == pytest.approx([fused[y] for y in best])
        assert scores[row, len(best) :].tolist() == [-math.inf] * (number - len(best))
        for ids, n in zip(tokens[row].tolist(), lengths[row].tolist(), strict=True):
            assert set(ids[n:]) <= {PAD}


def test_a_narrow_beam_gives_the_exact_log_probability_of_what_it_finds() -> None:
    """Paths of equal tokens are one hypothesis, whichever vertices they visit; doubles are written."""
    log_probs, transitions = graph(3, [9, 6], 4)
    tokens, lengths, scores = beam_search(log_probs, transitions, pad=0, beam_size=3, num_candidates=3)
    for n in range(3):
        emissions = log_probs.gather(2, tokens[:, n, None].expand(-1, 9, -1))
        nll, possible = marginal_loss(emissions, transitions, lengths[:, n])
        assert possible.all()
        assert scores[:, n].tolist() == pytest.approx((-nll).tolist())
    assert (scores.diff(dim=1) < 0).all()
    certain = torch.tensor([[0.0, -torch.inf]], dtype=torch.double).expand(1, 3, 2)
    chain = torch.eye(4, dtype=torch.double).log()[None]
    assert beam_search(certain, chain, pad=PAD, beam_size=2)[0].tolist() == [[[0, 0, 0]]]


def test_a_prior_that_pays_late_is_waited_for() -> None:
    """The first token costs 10, each one after it gains 6: all four are written, though nothing is better at first."""
    _, transitions = graph(1, [4], 1)
    log_probs = torch.tensor([-60.0, 0.0], dtype=torch.double).expand(1, 4, 2)
    prior = Bigrams(torch.tensor([[0.0, -10.0], [0.0, 0.0], [0.0, 6.0]], dtype=torch.double))
    assert beam_search(log_probs, transitions, pad=PAD, beam_size=2)[1].item() < 4
    assert beam_search(log_probs, transitions, pad=PAD, beam_size=2, prior=prior)[1].item() == 4


def test_tokens_beyond_the_token_beam_are_not_tried() -> None:
    log_probs, transitions = graph(1, [4], 5)
    log_probs[0, :, :2] -= 20
    prior = Bigrams(torch.tensor([[50.0, 50, 0, 0, 0]] * 6, dtype=torch.double))
    options = {"pad": 9, "beam_size": 6, "num_candidates": 1, "prior": prior}
    assert set(beam_search(log_probs, transitions, **options)[0].flatten().tolist()) <= {0, 1}
    assert set(beam_search(log_probs, transitions, token_beam=3, **options)[0].flatten().tolist()) <= {2, 3, 4, 9}
