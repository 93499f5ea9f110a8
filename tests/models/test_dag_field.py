"""The random field over a DAG's path against the enumeration of every path and of all that a path can write."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.config import Component
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.errors import ConfigError
from nat.models.dag import DAG, Search
from nat.search.canvas import Fate
from nat.training.stages.ngram_tuning import NgramTuning

A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1
TINY = Vocabularies(NUM_SYMBOLS + 2, NUM_SYMBOLS + 2, True)  # UNK and two tokens
EACH_KIND = pytest.mark.parametrize("kind", ["static", "dynamic"])
ROWS = [([A, B, A], [B, A]), ([B], [A, B]), ([A, A, B], [A, A, 1]), ([B, A], []), ([A, B], [A, A, B])]
IMPOSSIBLE = ([A, B], [A, A, A, B, B])  # needs 5 vertices, has 4


def dag(kind: str = "static", seed: int = 3, **field: Any) -> DAG:
    """Two vertices a token, long paths, and transitions of several nats, as if it had learnt something."""
    crf = {"weight": 0.5, "transitions": {"kind": kind, "rank": 4}} | field
    model = make_model("dag", dtype=torch.float64, seed=seed, vocabularies=TINY, upsampling=2, crf=crf)
    assert isinstance(model, DAG) and model.crf is not None
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(2)
        model.transitions.query.weight.mul_(4)
        model.crf.transitions.before.mul_(6)
    return with_long_paths(model)


def without_field(model: DAG) -> DAG:
    """The same weights."""
    plain = make_model("dag", dtype=torch.float64, vocabularies=TINY, upsampling=2)
    assert isinstance(plain, DAG)
    plain.load_state_dict(model.state_dict(), strict=False)
    return with_long_paths(plain)


def with_long_paths(model: DAG) -> DAG:
    """Steps to the end are rare."""
    forward = model.transitions.forward

    def reluctant(states: Tensor, valid: Tensor) -> Tensor:
        scores = forward(states, valid)
        return torch.cat((scores[:, :, :-1], scores[:, :, -1:] - 4), dim=2).log_softmax(dim=2)

    model.transitions.forward = reluctant  # type: ignore[method-assign]
    return model


def pairs(*rows: tuple[list[int], list[int]]) -> Batch:
    return Batch(Source.from_lists([s for s, _ in rows]), Target.from_lists([t for _, t in rows]))


def graph_of(model: DAG, source: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """States (A, D), logits (A, V) and transitions of one source."""
    graph = model.read(Source.from_lists([source]))
    return graph.states[0], graph.head.scores(graph.states)[0], graph.transitions[0]


def steps_of(transitions: Tensor, path: tuple[int, ...]) -> float:
    nodes = zip((0, *(v + 1 for v in path)), (*path, len(transitions) - 1), strict=True)
    return sum(transitions[u, v].item() for u, v in nodes)


def log_probs_of(model: DAG, states: Tensor, logits: Tensor, path: tuple[int, ...]) -> dict[tuple[int, ...], Tensor]:
    """Of all that a path can write, by the formula of the field."""
    assert model.crf is not None
    part, scores = model.crf.transitions, {}
    for tokens in itertools.product([1, A, B], repeat=len(path)):
        total = sum((logits[v, w] for v, w in zip(path, tokens, strict=True)), start=logits.new_zeros(()))
        for (u, left), (v, right) in itertools.pairwise(zip(path, tokens, strict=True)):
            before = part.before[left]
            if part.mix is not None:
                before = before @ part.mix(torch.cat((states[u], states[v]))).view(4, 4)
            total = total + before @ part.after[right]
        scores[tokens] = total
    log_sum = torch.stack(list(scores.values())).logsumexp(dim=0)
    return {tokens: score - log_sum for tokens, score in scores.items()}


# --- training ---------------------------------------------------------------------------------------


@EACH_KIND
def test_the_loss_and_its_gradient_are_those_of_the_best_path(kind: str) -> None:
    model, expected = dag(kind), torch.zeros((), dtype=torch.float64)
    for source, target in ROWS:
        states, logits, transitions = graph_of(model, source)
        log_probs = logits.log_softmax(dim=1)
        best = max(
            itertools.combinations(range(len(logits)), len(target)),
            key=lambda path: (
                steps_of(transitions, path) + sum(log_probs[v, w].item() for v, w in zip(path, target, strict=True))
            ),
        )
        expected = expected - log_probs_of(model, states, logits, best)[tuple(target)]
    term = model.loss(pairs(*ROWS), update=1)["crf"]
    assert (term.total.item(), term.count.item(), term.weight) == (pytest.approx(expected.item()), 10, 0.5)
    parameters = list(model.parameters())
    found = torch.autograd.grad(term.total, parameters, allow_unused=True)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    for name, one, other in zip((name for name, _ in model.named_parameters()), found, wanted, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or torch.allclose(one, other, rtol=0, atol=1e-9), name
    assert model.crf is not None and found[-1] is not None and found[-1].abs().sum() > 0


def test_a_pair_without_a_path_adds_nothing() -> None:
    model = dag()
    terms = [model.loss(pairs(*rows), update=1)["crf"] for rows in (ROWS, [*ROWS, IMPOSSIBLE], [IMPOSSIBLE])]
    assert terms[1].total.item() == pytest.approx(terms[0].total.item())
    assert terms[1].count == terms[0].count
    assert terms[2].total.item() == 0
    terms[2].total.backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_the_reference_is_a_candidate_and_the_only_one_of_a_beam_of_one() -> None:
    assert dag(beam=1).loss(pairs(*ROWS), update=1)["crf"].total.item() == pytest.approx(0, abs=1e-9)
    two, all_of_them = (dag(beam=beam).loss(pairs(*ROWS), update=1)["crf"].total.item() for beam in (2, 64))
    assert 0 < two < all_of_them


@pytest.mark.parametrize("token", [1, A, B])
def test_a_narrow_beam_is_the_reference_and_the_best_of_the_others(token: int) -> None:
    model, source = dag(beam=2), [A, B]
    _, logits, transitions = graph_of(model, source)
    log_probs = logits.log_softmax(dim=1)
    (place,) = max(
        itertools.combinations(range(4), 1),
        key=lambda path: steps_of(transitions, path) + log_probs[path[0], token].item(),
    )
    own, others = logits[place, token], [logits[place, other] for other in {1, A, B} - {token}]
    expected = torch.stack((own, max(others))).logsumexp(dim=0) - own
    assert model.loss(pairs((source, [token])), update=1)["crf"].total.item() == pytest.approx(expected.item())


def test_the_field_changes_nothing_else() -> None:
    model = dag()
    found, expected = (model.loss(pairs(*ROWS), update=1) for model in (model, without_field(model)))
    assert found.keys() - expected.keys() == {"crf"}
    assert all(torch.equal(found[name].total, term.total) for name, term in expected.items())


# --- decoding ---------------------------------------------------------------------------------------


SOURCES = [[A, B, B], [A], [B, 1, A, A]]
SEARCHES: list[dict[str, Any]] = [{}, {"search": Search.GREEDY}, {"search": Search.VITERBI}]


@EACH_KIND
@pytest.mark.parametrize("options", SEARCHES)
def test_the_best_tokens_of_the_path_are_those_of_an_enumeration(kind: str, options: dict[str, Any]) -> None:
    """The path is the one that is found without a field."""
    changed = 0
    for seed in range(3):
        source, decoding = Source.from_lists(SOURCES), DAG.Decoding(history=True, **options)
        model, plain = dag(kind, seed), without_field(dag(kind, seed))
        with torch.no_grad():
            found, before = (each.decode(source, decoding=decoding) for each in (model, plain))
            for row, tokens in enumerate(SOURCES):
                path = tuple((before.history[0].fate[row, 0] == Fate.WRITTEN).nonzero().flatten().tolist())
                states, logits, transitions = graph_of(model, tokens)
                log_probs = log_probs_of(model, states, logits, path)
                best = max(log_probs, key=lambda written: log_probs[written].item())
                assert found.tokens[row, 0][found.valid[row, 0]].tolist() == list(best)
                score = steps_of(transitions, path) + log_probs[best].item()
                assert found.scores[row, 0].item() == pytest.approx(score)
                confidence = found.history[0].confidence[row, 0, list(path)]
                assert confidence.sum().item() == pytest.approx(log_probs[best].item(), abs=1e-9)
                changed += list(best) != before.tokens[row, 0][before.valid[row, 0]].tolist()
    assert changed > 2


def test_samples_are_distributed_as_paths_and_the_field_are() -> None:
    model, source, temperature, number = dag("dynamic"), [A], 1.3, 4000
    expected: Counter[tuple[int, ...]] = Counter()
    scores: dict[tuple[int, ...], list[float]] = {}
    with torch.no_grad():
        states, logits, transitions = graph_of(model, source)
        hot = (transitions / temperature).log_softmax(-1)
        for path in (path for length in range(3) for path in itertools.combinations(range(2), length)):
            log_probs = log_probs_of(model, states, logits, path)
            cooled = (torch.stack(list(log_probs.values())) / temperature).log_softmax(0).tolist()
            for (target, own), score in zip(log_probs.items(), cooled, strict=True):
                expected[target] += math.exp(steps_of(hot, path) + score)
                scores.setdefault(target, []).append(steps_of(transitions, path) + own.item())
        decoding = DAG.Decoding(temperature=temperature, num_candidates=number)
        found = model.decode(Source.from_lists([source]), decoding=decoding)
    assert sum(expected.values()) == pytest.approx(1.0)
    written = [tuple(ids[keep].tolist()) for ids, keep in zip(found.tokens[0], found.valid[0], strict=True)]
    counts = Counter(written)
    for target, probability in expected.items():
        deviation = math.sqrt(number * probability * (1 - probability))
        assert abs(counts[target] - number * probability) < 4 * deviation + 1, target
    for target, score in list(zip(written, found.scores[0].tolist(), strict=True))[:200]:
        assert min(abs(score - other) for other in scores[target]) < 1e-9


# --- what there is none of --------------------------------------------------------------------------


def test_what_sums_over_paths_is_refused() -> None:
    model, batch = dag(), make_batch([(3, 2)], vocabularies=TINY)
    with pytest.raises(ConfigError, match=r"beam_size=4: sums over paths, this model's crf is over one path"):
        model.decode(batch.source, decoding=DAG.Decoding(beam_size=4))
    with pytest.raises(ConfigError, match=r"DAG with crf\.weight cannot score given targets"):
        model.score(batch)
    assert model.static_pass(DAG.Decoding()) is None
    stage = NgramTuning.Config()
    with pytest.raises(ConfigError, match=r"stage: NgramTuning trains the paths of a DAG, not its field"):
        NgramTuning.check(stage, model=Component(DAG, model.config))
    NgramTuning.check(stage, model=Component(DAG, make_model("dag").config))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"beam": 8}, {"transitions": {"kind": "dynamic"}}])
def test_options_of_a_field_that_is_not_there_are_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"model\.crf\.{name}: has no effect with weight=0"):
        make_model("dag", crf=option)
