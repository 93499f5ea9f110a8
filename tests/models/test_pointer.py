"""Both pointer networks: the head's equation, permutations, what is masked, how polygons are read and scored."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from builders import POINTS, VOCABULARIES, make_batch, make_model
from torch import Tensor

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.models.pointer import Pointer
from nat.models.pointer_parallel import PointerParallel
from nat.nn.pointing import PointerHead, Score, pointer_cross_entropy, visited
from nat.nn.transformer import Initial

LENGTHS = [(6, 4), (3, 3), (9, 5), (5, 2)]
EACH = pytest.mark.parametrize("name", ["pointer", "pointer_parallel"])


def make(name: str = "pointer", **options: Any) -> Any:
    return make_model(name, dtype=torch.float64, seed=3, **options)


def batch_of(lengths: list[tuple[int, int]] = LENGTHS, seed: int = 0) -> Batch:
    return make_batch(lengths, vocabularies=POINTS, seed=seed)


def indices(model: TranslationModel, source: Source, **options: Any) -> list[list[list[int]]]:
    """The points of each candidate of each row."""
    with torch.no_grad():
        found = model.decode(source, decoding=type(model).Decoding(**options))
    return [
        [(ids[keep] - NUM_SYMBOLS).tolist() for ids, keep in zip(row, valid, strict=True)]
        for row, valid in zip(found.tokens, found.valid, strict=True)
    ]


def canonical(polygon: list[int]) -> list[int]:
    start = polygon.index(min(polygon)) if polygon else 0
    return polygon[start:] + polygon[:start]


# --- the head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", list(Score))
@torch.no_grad()
def test_scores_are_those_of_the_equation(score: Score) -> None:
    head = PointerHead(score, dim=4, initial=Initial.XAVIER).double()
    states, queries = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    allowed = torch.rand(2, 5, 4) > 0.3
    found = head(queries, head.memorise(states), allowed)
    for b, i in itertools.product(range(2), range(5)):
        asked = head.queries.weight @ queries[b, i] + head.queries.bias
        keys = [head.end, *(head.keys.weight @ state + head.keys.bias for state in states[b])]
        for j, key in enumerate(keys):
            if head.summary is not None:
                expected = (head.summary.weight[0] * torch.tanh(key + asked)).sum()
            else:
                expected = key @ asked / 2
            assert found[b, i, j].item() == pytest.approx(expected.item() if allowed[b, i, j] else -math.inf)


def test_a_point_is_visited_from_the_place_after_it_on() -> None:
    seen = visited(torch.tensor([[2, 0, -1, 1]]), count=3)
    assert seen.tolist() == [[[False] * 3, [False, False, True], [True, False, True], [True, False, True]]]


def test_smoothing_is_spread_over_what_is_possible() -> None:
    log_probs = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]]).log()
    labels, valid = torch.tensor([[1]]), torch.tensor([[True]])
    total, nll, count = pointer_cross_entropy(log_probs, labels, valid, label_smoothing=0.3)
    spread = -(math.log(0.5) + 2 * math.log(0.25)) / 3
    assert total.item() == pytest.approx(0.7 * math.log(4) + 0.3 * spread)
    assert (nll.item(), count.item()) == (pytest.approx(math.log(4)), 1)


# --- permutations -----------------------------------------------------------------------------------


@EACH
def test_a_permutation_of_the_points_permutes_the_output(name: str) -> None:
    model, generator = make(name), torch.Generator().manual_seed(1)
    for seed in range(5):
        points = batch_of([(9, 1)], seed=seed).source.tokens
        order = torch.randperm(9, generator=generator)  # place i of the permuted source holds point order[i]
        ((found,),) = indices(model, Source(points, torch.ones_like(points, dtype=torch.bool)))
        ((moved,),) = indices(model, Source(points[:, order], torch.ones_like(points, dtype=torch.bool)))
        assert canonical([order.tolist()[i] for i in moved]) == found
        assert moved == canonical(moved)


@EACH
def test_a_permutation_of_the_points_with_their_target_changes_no_score(name: str) -> None:
    model, batch = make(name), batch_of([(9, 5)])
    order = torch.randperm(9)
    places = order.argsort()[batch.target.tokens - NUM_SYMBOLS] + NUM_SYMBOLS
    moved = Batch(Source(batch.source.tokens[:, order], batch.source.valid), Target(places, batch.target.valid))
    turned = Batch(batch.source, Target(batch.target.tokens.roll(2, dims=1), batch.target.valid))
    with torch.no_grad():
        scores = [model.score(each).item() for each in (batch, moved, turned)]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-9)


def test_with_positions_the_order_of_the_points_means_something() -> None:
    model = make(positions={"kind": "sinusoidal"}, cyclic=False)
    source = batch_of([(9, 1)]).source
    with torch.no_grad():
        states = [
            model.encoder(Source(source.tokens[:, order], source.valid)).states
            for order in (range(9), [1, 0, *range(2, 9)])
        ]
    assert not torch.allclose(states[0][:, 2:], states[1][:, 2:])


# --- the decoder ------------------------------------------------------------------------------------


def every_sequence(model: Pointer, source: Source) -> dict[tuple[int, ...], float]:
    """log p of every sequence of distinct points of one source, teacher-forced, each rotation by itself."""
    count = source.tokens.size(1)
    orders = [order for n in range(count + 1) for order in itertools.permutations(range(count), n)]
    targets = Target.from_lists([[NUM_SYMBOLS + i for i in order] for order in orders])
    memory = model.encoder(source.repeat_rows(len(orders)))
    with torch.no_grad():
        return dict(zip(orders, model._forced(memory, targets.tokens, targets.valid).tolist(), strict=True))


@pytest.mark.parametrize("score", ["additive", "dot"])
def test_all_sequences_of_distinct_points_share_one_probability(score: str) -> None:
    source = batch_of([(4, 1)]).source
    assert sum(map(math.exp, every_sequence(make(score=score), source).values())) == pytest.approx(1)


@torch.no_grad()
def test_the_score_of_a_polygon_is_that_of_all_its_rotations() -> None:
    model, source = make(), batch_of([(4, 1)]).source
    table = every_sequence(model, source)
    for polygon in ([], [2], [0, 3], [3, 1, 2], [1, 3, 0, 2]):
        rotations = {tuple(polygon[i:] + polygon[:i]) for i in range(max(1, len(polygon)))}
        expected = math.log(sum(math.exp(table[rotation]) for rotation in rotations))
        target = Target.from_lists([[NUM_SYMBOLS + i for i in polygon]])
        assert model.score(Batch(source, target)).item() == pytest.approx(expected)


@torch.no_grad()
def test_cached_steps_give_the_forced_scores_and_the_beam_finds_the_best() -> None:
    model = make(cyclic=False)
    for seed in range(3):
        source = batch_of([(4, 1)], seed=seed).source
        table = every_sequence(model, source)
        best = sorted(table, key=lambda order: -table[order])[:5]
        wide = model.decode(source, decoding=Pointer.Decoding(beam_size=100, num_candidates=5))
        found = indices(model, source, beam_size=100, num_candidates=5)[0]
        assert found == [list(order) for order in best]
        assert wide.scores[0].tolist() == pytest.approx([table[order] for order in best])
        assert model.decode(source, decoding=Pointer.Decoding()).scores.item() == pytest.approx(
            table[tuple(indices(model, source)[0][0])]
        )


@EACH
def test_no_point_is_met_twice_and_what_is_no_point_never(name: str) -> None:
    model, source = make(name), batch_of([(12, 1), (7, 1), (1, 1)]).source
    for options in ({}, {"temperature": 2.0, "num_candidates": 5}):
        for count, row in zip((12, 7, 1), indices(model, source, **options), strict=True):
            for polygon in row:
                assert len(set(polygon)) == len(polygon)
                assert set(polygon) <= set(range(count))


def test_without_the_mask_points_may_come_again_up_to_the_limit() -> None:
    model, source = make(mask_used=False, cyclic=False), batch_of([(3, 1)]).source
    step = model.step

    def endless(tokens: Tensor, position: int, state: Any) -> tuple[Tensor, Any]:
        log_probs, state = step(tokens, position, state)
        return log_probs.index_fill(2, torch.tensor(int(Symbol.EOS)), -99.0), state

    model.step = endless
    with torch.no_grad():
        found = model.decode(source, decoding=Pointer.Decoding(max_length_factor=3.0, max_length_offset=1))
    assert found.valid.sum().item() == 10
    assert found.truncated.tolist() == [True]


def test_few_points_have_fewer_sequences_than_candidates_the_last_is_repeated() -> None:
    model, source = make(), batch_of([(1, 1), (5, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=Pointer.Decoding(beam_size=4, num_candidates=4))
    assert torch.isfinite(found.scores).all()
    few = indices(model, source, beam_size=4, num_candidates=4)[0]
    assert sorted(few[:2]) == [[], [0]]
    assert few[1] == few[2] == few[3]


@EACH
def test_a_polygon_with_a_point_twice_cannot_be_learnt_from(name: str) -> None:
    batch = Batch(batch_of([(4, 1)] * 3).source, Target.from_lists([[7, 8, 9], [7, 8, 7], []]))
    assert make(name).learnable(batch).tolist() == [True, False, True]


def test_without_the_mask_it_can() -> None:
    batch = Batch(batch_of([(4, 1)]).source, Target.from_lists([[7, 8, 7]]))
    model = make(mask_used=False, cyclic=False)
    assert model.learnable(batch).tolist() == [True]
    assert torch.isfinite(model.loss(batch, update=1)["nll"].total)


def test_when_all_points_are_used_the_end_alone_is_left() -> None:
    model, source = make(), batch_of([(2, 1)]).source
    state = model.start(model.encoder(source))
    tokens = torch.tensor([[int(Symbol.BOS)]])
    seen: list[Tensor] = []
    for position, following in enumerate([7, 8, None]):
        log_probs, state = model.step(tokens, position, state)
        seen.append(log_probs[0, 0])
        tokens = torch.tensor([[following or 0]])
    possible = [[i for i, value in enumerate(row.tolist()) if value > -math.inf] for row in seen]
    assert possible == [[3, 7, 8], [3, 8], [3]]


# --- in a single pass -------------------------------------------------------------------------------


@torch.no_grad()
def test_the_parallel_score_is_the_sum_over_all_points() -> None:
    model, batch = make("pointer_parallel"), batch_of([(5, 3)])
    table = model.log_probs(model.encoder(batch.source))[0]
    polygon = (batch.target.tokens[0] - NUM_SYMBOLS).tolist()
    after = dict(zip(polygon, polygon[1:] + polygon[:1], strict=True))
    expected = sum(table[i, after[i] + 1 if i in after else 0].item() for i in range(5))
    assert model.score(batch).item() == pytest.approx(expected)
    terms = model.loss(batch, update=1)
    assert terms["nll"].total.item() == pytest.approx(-expected)
    assert terms["nll"].count.item() == 5


@torch.no_grad()
def test_the_parallel_model_takes_one_pass_and_tells_the_score_of_what_it_wrote() -> None:
    model, source = make("pointer_parallel"), batch_of().source
    found = model.decode(source, decoding=PointerParallel.Decoding())
    assert found.passes.tolist() == [1] * 4
    assert not found.truncated.any()
    target = Target(found.tokens[:, 0], found.valid[:, 0])
    assert torch.allclose(found.scores[:, 0], model.score(Batch(source, target)), rtol=0, atol=1e-9)


# --- refusals ---------------------------------------------------------------------------------------


@EACH
def test_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data.tokenizer.kind=points is needed, as in data=convex_hull"):
        make_model(name, vocabularies=VOCABULARIES)


def test_a_polygon_has_each_point_once() -> None:
    with pytest.raises(ConfigError, match=r"mask_used=false: a polygon \(cyclic=true\) has each point once"):
        make(mask_used=False)


def test_one_stack_over_both_sides_refuses_points() -> None:
    with pytest.raises(ConfigError, match=r"data.tokenizer.kind=points: one stack over both sides needs text on both"):
        make_model("kermit", vocabularies=POINTS)


@pytest.mark.parametrize("name", ["autoregressive", "ctc", "vanilla"])
def test_other_methods_learn_from_points_with_a_fixed_vocabulary(name: str) -> None:
    model, batch = make_model(name, vocabularies=POINTS), batch_of([(6, 4), (3, 3)])
    assert model.max_points == POINTS.target_size - NUM_SYMBOLS
    assert all(torch.isfinite(term.total) for term in model.loss(batch, update=1).values())
    with torch.no_grad():
        model.decode(batch.source, decoding=type(model).Decoding())
    assert make("pointer").max_points is make("pointer_parallel").max_points is None
    assert make_model(name).max_points is None


# --- histories and limits ---------------------------------------------------------------------------


@EACH
@torch.no_grad()
def test_the_history_has_the_log_probability_of_each_point(name: str) -> None:
    """pointer: of the point after those before it, as it was written; pointer_parallel: of the point after it."""
    model, source = make_model(name, dtype=torch.float64, seed=2), batch_of().source
    found = model.decode(source, decoding=type(model).Decoding(history=True))
    valid, memory, (history,), lengths = found.valid[:, 0], model.encoder(source), found.history, []
    tokens = history.tokens[:, 0]
    for b, seen in enumerate(valid):
        assert canonical(tokens[b, seen].tolist()) == found.tokens[b, 0, seen].tolist()
        points = (tokens[b, seen] - NUM_SYMBOLS).tolist()
        if name == "pointer":
            log_probs = model.log_probs(memory, tokens, valid)[0][b]
            expected = [log_probs[i, 1 + point] for i, point in enumerate(points)]
        else:
            log_probs = model.log_probs(memory)[b]
            expected = [
                log_probs[point, 1 + after] for point, after in zip(points, points[1:] + points[:1], strict=True)
            ]
        lengths.append(len(points))
        torch.testing.assert_close(history.confidence[b, 0, seen], log_probs.new_tensor(expected))
    assert max(lengths) > 1


@EACH
def test_the_most_points_are_taken_and_no_more(name: str) -> None:
    model = make(name, positions={"kind": "learned", "max_length": 6})
    assert model.encoder.takes(batch_of([(5, 3), (6, 3), (7, 3)]).source).tolist() == [True, True, False]
