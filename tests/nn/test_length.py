"""The length model: probabilities by hand, what is out of reach, and the lengths that decoding tries."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from builders import make_batch, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.data.batch import Batch
from nat.models.vanilla import Vanilla
from nat.nn.length import LengthPredictor, Summary

FEW = settings(deadline=None, max_examples=50)


def predictor(max_offset: int = 2, summary: Summary = Summary.MEAN) -> LengthPredictor:
    torch.manual_seed(0)
    return LengthPredictor(LengthPredictor.Config(summary=summary, max_offset=max_offset), dim=16)


def table(*rows: list[float]) -> torch.Tensor:
    """Log-probabilities of the differences -2 .. 2."""
    return torch.tensor(rows, dtype=torch.float64).log()


PROBABILITIES = [[0.1, 0.2, 0.4, 0.25, 0.05], [0.3, 0.1, 0.2, 0.15, 0.25]]


def test_probabilities_of_target_lengths() -> None:
    scores = predictor().log_prob(table(*PROBABILITIES), torch.tensor([4, 3]), torch.tensor([5, 1]))
    assert scores.exp().tolist() == pytest.approx([0.25, 0.3])


def test_lengths_out_of_reach_are_impossible_not_clamped() -> None:
    log_probs = table(*[PROBABILITIES[0]] * 4)
    sources, targets = torch.tensor([4, 4, 4, 4]), torch.tensor([1, 2, 6, 7])
    scores = predictor().log_prob(log_probs, sources, targets)
    assert scores.exp().tolist() == pytest.approx([0.0, 0.1, 0.05, 0.0])
    batch = make_batch([(4, 1), (4, 2), (4, 6), (4, 7)])
    assert predictor().learnable(batch).tolist() == [False, True, True, False]


def test_the_loss_is_a_sum_over_the_rows_within_reach() -> None:
    log_probs = table(*[PROBABILITIES[0]] * 3).requires_grad_()
    total, count = predictor().loss(log_probs, make_batch([(4, 1), (4, 3), (4, 6)]))
    assert total.item() == pytest.approx(-math.log(0.2) - math.log(0.05))
    assert count.item() == 2
    total.backward()
    wanted = torch.zeros(3, 5, dtype=torch.float64)
    wanted[1, 1] = wanted[2, 4] = -1
    assert torch.equal(log_probs.grad, wanted)


def test_pairs_with_an_empty_side_are_not_learnable() -> None:
    batch = make_batch([(3, 3), (5, 5), (4, 6), (6, 4), (2, 0), (0, 2)])
    assert predictor().learnable(batch).tolist() == [True, True, True, True, False, False]


@FEW
@given(st.lists(st.integers(1, 99), min_size=5, max_size=5, unique=True), st.integers(1, 6), st.integers(1, 8),
       st.one_of(st.none(), st.integers(1, 9)))  # fmt: skip
def test_the_best_lengths_are_those_of_a_sorted_list(
    weights: list[int], source: int, count: int, limit: int | None
) -> None:
    source = source if limit is None else min(source, limit)  # longer sources are refused before
    total = sum(weights)
    reachable = [(weight / total, source + d) for weight, d in zip(weights, range(-2, 3), strict=True)]
    ranked = sorted(((p, t) for p, t in reachable if 1 <= t <= (limit or 99)), reverse=True)[:count]
    lengths, scores = predictor().best(table([w / total for w in weights]), torch.tensor([source]), count, limit=limit)
    spare = count - len(ranked)
    assert lengths.tolist() == [[t for _, t in ranked] + [1] * spare]
    assert scores.exp().tolist() == [pytest.approx([p for p, _ in ranked] + [0.0] * spare)]


# --- the summary ------------------------------------------------------------------------------------


def model_with(summary: str) -> Vanilla:
    model = make_model("vanilla", dtype=torch.float64, length={"summary": summary, "max_offset": 4})
    assert isinstance(model, Vanilla)
    return model


@torch.no_grad()
def test_the_mean_is_over_the_tokens_of_the_source() -> None:
    model, source = model_with("mean"), make_batch([(5, 1), (2, 1)]).source
    memory, log_probs = model.length.encode(model.net, source)
    plain = model.net.encode(source)
    assert torch.equal(memory.states, plain.states)
    for row, length in enumerate([5, 2]):
        wanted = model.length.classify(plain.states[row, :length].mean(dim=0)).log_softmax(dim=0)
        assert torch.allclose(log_probs[row], wanted, rtol=0, atol=1e-7)  # 1 / 5 is of float32


@torch.no_grad()
def test_the_length_token_is_read_and_leaves_the_memory() -> None:
    model, source = model_with("token"), make_batch([(5, 1), (2, 1)]).source
    memory, log_probs = model.length.encode(model.net, source)
    whole = model.net.encode(source, first=model.length.token)
    assert memory.states.shape[:2] == memory.valid.shape == (2, 5)
    assert torch.equal(memory.valid, source.valid)
    assert torch.equal(memory.states, whole.states[:, 1:])
    assert torch.equal(log_probs, model.length.classify(whole.states[:, 0]).log_softmax(dim=-1))
    model.length.token.mul_(5)  # type: ignore[union-attr]
    other, changed = model.length.encode(model.net, source)
    assert not torch.allclose(changed, log_probs)
    assert not torch.allclose(other.states, memory.states)  # the source attends to it


@torch.no_grad()
def test_lengths_sum_to_one() -> None:
    model = model_with("mean")
    batch = make_batch([(6, t) for t in range(2, 11)])
    same = Batch(batch.source.select(torch.zeros(9, dtype=torch.long)), batch.target)
    _, log_probs = model.length.encode(model.net, same.source)
    scores = model.length.log_prob(log_probs, same.source.lengths, same.target.lengths)
    assert scores.exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "beam"), itertools.product(["vanilla", "mask_predict", "refinement"], [5]))
def test_a_beam_wider_than_the_classifier_decodes(name: str, beam: int) -> None:
    """Three differences, of which a source of one token can have two: the rest is never chosen."""
    model = make_model(name, length={"max_offset": 1})
    source = make_batch([(1, 1), (4, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=type(model).Decoding(length_beam=beam, num_candidates=beam))
    assert (found.scores > -torch.inf).sum(dim=1).tolist() == [2, 3]
    assert found.valid.sum(dim=2)[1, :3].sort().values.tolist() == [3, 4, 5]


@pytest.mark.parametrize("name", ["vanilla", "mask_predict", "refinement"])
def test_no_length_beyond_the_positions_is_tried(name: str) -> None:
    model = make_model(name, positions={"kind": "learned", "max_length": 6})
    source = make_batch([(6, 1), (4, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=type(model).Decoding(length_beam=9, num_candidates=9))
    assert found.valid.sum(dim=2).amax(dim=1).tolist() == [6, 6]
    assert (found.scores > -torch.inf).sum(dim=1).tolist() == [6, 6]
