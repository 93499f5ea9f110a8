"""The DAG model against the enumeration of every path."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from builders import make_batch, make_model

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.decoding.batched import unpack
from nat.errors import ConfigError
from nat.models.dag import DAG, Search
from nat.ops import dag as ops
from nat.search.canvas import Fate
from nat.training.objective import objective

A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1
TINY = Vocabularies(NUM_SYMBOLS + 1, NUM_SYMBOLS + 1, True)  # UNK and one token
FORMS: list[dict[str, Any]] = [{}, {"decoder": {"cross_attention": False}}, {"size": {"num_heads": 4}}]
ROWS = [([A, B, A], [B, A]), ([B], [A, B]), ([A, A, B], [A, A]), ([B, A], []), ([A, B], [A, A, B])]
IMPOSSIBLE = ([A, B], [A, A, A, B, B])  # needs 5 vertices, has 4
Path = tuple[int, ...]


def dag(seed: int = 3, **options: Any) -> DAG:
    """Two vertices a token, and more decided than at initialisation."""
    model = make_model("dag", dtype=torch.float64, seed=seed, **{"upsampling": 2, **options})
    assert isinstance(model, DAG)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(3)
        model.transitions.query.weight.mul_(4)
    return model


def pairs(*rows: tuple[list[int], list[int]]) -> Batch:
    return Batch(Source.from_lists([s for s, _ in rows]), Target.from_lists([t for _, t in rows]))


@torch.no_grad()
def graph_of(model: DAG, source: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (A, V) and transitions of one source."""
    graph = model.read(Source.from_lists([source]))
    log_probs = graph.head.full(graph.states)
    assert log_probs.size(1) == model.config.upsampling * len(source)
    return log_probs[0], graph.transitions[0]


def every_path(num_vertices: int) -> list[Path]:
    numbers = range(num_vertices + 1)
    return [path for length in numbers for path in itertools.combinations(range(num_vertices), length)]


def steps_of(transitions: torch.Tensor, path: Path) -> float:
    nodes = zip((0, *(v + 1 for v in path)), (*path, len(transitions) - 1), strict=True)
    return sum(transitions[u, v].item() for u, v in nodes)


def log_likelihood(model: DAG, source: list[int], target: list[int]) -> float:
    log_probs, transitions = graph_of(model, source)
    scores = [
        steps_of(transitions, path) + sum(log_probs[v, token].item() for v, token in zip(path, target, strict=True))
        for path in itertools.combinations(range(len(log_probs)), len(target))
    ]
    return math.log(sum(map(math.exp, scores)))


@pytest.mark.parametrize("upsampling", [2, 3])
@pytest.mark.parametrize("options", FORMS)
def test_loss_and_score_are_brute_force_over_paths(upsampling: int, options: dict[str, Any]) -> None:
    model = dag(upsampling=upsampling, **options)
    expected = [log_likelihood(model, *row) for row in ROWS]
    with torch.no_grad():
        assert model.score(pairs(*ROWS)).tolist() == pytest.approx(expected, abs=1e-9)
        terms = model.loss(pairs(*ROWS), update=1)
    assert terms["dag"].total.item() == pytest.approx(-sum(expected), abs=1e-9)
    assert terms["dag"].count.item() == sum(len(target) for _, target in ROWS)
    assert terms["unalignable"].total.item() == 0


@pytest.mark.parametrize("options", FORMS)
def test_likelihoods_of_all_targets_sum_to_one(options: dict[str, Any]) -> None:
    model = dag(vocabularies=TINY, **options)
    targets = [list(t) for n in range(5) for t in itertools.product([1, A], repeat=n)]
    with torch.no_grad():
        scores = model.score(pairs(*(([A, 1], target) for target in targets)))
    assert scores.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pairs_without_a_path_are_counted_and_give_no_gradient(smoothing: float) -> None:
    model = dag(label_smoothing=smoothing)

    def gradients(*rows: tuple[list[int], list[int]]) -> tuple[dict[str, Any], list[torch.Tensor]]:
        model.zero_grad()
        terms = model.loss(pairs(*rows), update=1)
        objective(terms, 10).backward()
        return terms, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    alone, wanted = gradients(*ROWS)
    terms, found = gradients(*ROWS[:2], IMPOSSIBLE, *ROWS[2:], ([B], [A] * 9))
    assert (terms["unalignable"].total.item(), terms["unalignable"].count.item()) == (2, len(ROWS) + 2)
    assert terms["dag"].total.item() == pytest.approx(alone["dag"].total.item(), abs=1e-9)
    assert terms["dag"].count == alone["dag"].count
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)
    _, nothing = gradients(IMPOSSIBLE)
    assert all((gradient == 0).all() for gradient in nothing)
    with torch.no_grad():
        assert model.score(pairs(ROWS[0], IMPOSSIBLE))[1] == -torch.inf
    assert model.learnable(pairs(*ROWS[:2], IMPOSSIBLE)).tolist() == [True, True, False]
    assert dag(upsampling=3).learnable(pairs(IMPOSSIBLE)).all()


def test_label_smoothing_is_the_cross_entropy_of_the_uniform_distribution() -> None:
    plain, smooth = (dag(label_smoothing=x).loss(pairs(*ROWS), update=1) for x in (0.0, 0.25))
    allowed = [1, *range(NUM_SYMBOLS, dag().vocabularies.target_size)]
    uniform = -sum(graph_of(dag(), source)[0][:, allowed].mean(dim=1).sum().item() for source, _ in ROWS)
    expected = 0.75 * plain["dag"].total.item() + 0.25 * uniform
    assert smooth["dag"].total.item() == pytest.approx(expected, abs=1e-9)
    assert smooth["nll"].total.item() == pytest.approx(plain["dag"].total.item(), abs=1e-9)


# --- decoding -------------------------------------------------------------------------------------------


def decoded(model: DAG, source: list[int], **options: Any) -> list[tuple[list[int], float]]:
    with torch.no_grad():
        found = model.decode(Source.from_lists([source]), decoding=DAG.Decoding(**options))
    rows = zip(found.tokens[0], found.valid[0], found.scores[0].tolist(), strict=True)
    return [(ids[keep].tolist(), score) for ids, keep, score in rows]


def written(log_probs: torch.Tensor, path: Path) -> list[int]:
    return [int(log_probs[v].argmax()) for v in path]


def score_of(log_probs: torch.Tensor, transitions: torch.Tensor, path: Path) -> float:
    return steps_of(transitions, path) + sum(log_probs[v].max().item() for v in path)


SOURCES = [[A, B, B], [A], [B, A + 3, 1, A + 2]]


@pytest.mark.parametrize("beta", [None, 0.0, 0.3, 4.0])
def test_greedy_and_lookahead_take_the_best_step_one_by_one(beta: float | None) -> None:
    paths = set()
    for seed, source in itertools.product(range(5), SOURCES):
        model = dag(seed)
        log_probs, transitions = graph_of(model, source)
        best, end = log_probs.max(dim=1).values.tolist(), len(log_probs)
        for weight, options in (
            (1.0 if beta is None else beta, {"lookahead_beta": beta}),
            (0.0, {"search": Search.GREEDY}),
        ):
            node, path = 0, []
            while node <= end:
                steps = [x + weight * m for x, m in zip(transitions[node].tolist(), [*best, 0.0], strict=True)]
                node = max(range(end + 1), key=steps.__getitem__) + 1
                path += [node - 1] if node <= end else []
            (tokens, score), *_ = decoded(model, source, **options)
            assert tokens == written(log_probs, tuple(path))
            assert score == pytest.approx(score_of(log_probs, transitions, tuple(path)), abs=1e-9)
            paths.add(tuple(path))
    assert len(paths) > 5


@pytest.mark.parametrize("beta", [None, 0.0, 2.0])
def test_viterbi_finds_the_best_of_all_paths(beta: float | None) -> None:
    for seed, source in itertools.product(range(3), SOURCES[:2]):
        model = dag(seed)
        log_probs, transitions = graph_of(model, source)
        power = 1.0 if beta is None else beta
        scores = {path: score_of(log_probs, transitions, path) for path in every_path(len(log_probs))}
        best = max(scores, key=lambda path: scores[path] / max(1, len(path)) ** power)
        (tokens, score), *_ = decoded(model, source, search=Search.VITERBI, length_penalty=beta)
        assert tokens == written(log_probs, best)
        assert score == pytest.approx(scores[best], abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"search": Search.BEAM}])
def test_a_huge_beam_finds_the_best_of_all_targets_and_gives_their_scores(options: dict[str, Any]) -> None:
    for seed in range(3):
        model = dag(seed, vocabularies=TINY)
        targets = [list(t) for n in range(5) for t in itertools.product([1, A], repeat=n)]
        with torch.no_grad():
            scores = model.score(pairs(*(([A, 1], target) for target in targets)))
        best = scores.argsort(descending=True)[:4].tolist()
        found = decoded(model, [A, 1], beam_size=31, num_candidates=4, length_penalty=0.0, **options)
        assert [tokens for tokens, _ in found] == [targets[i] for i in best]
        assert [score for _, score in found] == pytest.approx(scores[best].tolist(), abs=1e-9)


def test_true_doubles_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal tokens of two vertices that a path visits are two tokens."""
    model = dag(vocabularies=TINY)
    monkeypatch.setattr(
        model.transitions, "forward", lambda states, valid: torch.eye(5, dtype=states.dtype).log()[None]
    )
    for options in ({"search": Search.GREEDY}, {"search": Search.VITERBI}, {"beam_size": 2}, {}):
        assert decoded(model, [A, 1], allow_unknown=False, **options)[0][0] == [A] * 4


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_samples_are_distributed_as_paths_and_tokens_are(temperature: float) -> None:
    """A sample's score is that of its path and tokens under the model itself."""
    model, source, number = dag(vocabularies=TINY), [NUM_SYMBOLS, 1], 4000
    log_probs, transitions = graph_of(model, source)
    hot, paths = (log_probs / temperature).log_softmax(-1), (transitions / temperature).log_softmax(-1)
    expected: Counter[Path] = Counter()
    scores: dict[Path, list[float]] = {}
    for path in every_path(4):
        for target in itertools.product([1, A], repeat=len(path)):
            tokens = list(zip(path, target, strict=True))
            expected[target] += math.exp(steps_of(paths, path) + sum(hot[v, w].item() for v, w in tokens))
            score = steps_of(transitions, path) + sum(log_probs[v, w].item() for v, w in tokens)
            scores.setdefault(target, []).append(score)
    assert sum(expected.values()) == pytest.approx(1.0)
    found = decoded(model, source, temperature=temperature, num_candidates=number)
    counts = Counter(tuple(tokens) for tokens, _ in found)
    for target, probability in expected.items():
        deviation = math.sqrt(number * probability * (1 - probability))
        assert abs(counts[target] - number * probability) < 4 * deviation + 1, target
    for tokens, score in found[:200]:
        assert min(abs(score - other) for other in scores[tuple(tokens)]) < 1e-9


@pytest.mark.parametrize("options", [{}, {"search": Search.VITERBI}, {"beam_size": 3}])
def test_the_history_shows_all_vertices_and_which_the_path_left_out(options: dict[str, Any]) -> None:
    model, source = dag(), make_batch([(4, 1), (2, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=DAG.Decoding(history=True, **options))
    (history,) = found.history
    for row, length in enumerate((8, 4)):
        fates = history.fate[row, 0]
        assert set(fates[:length].tolist()) <= {int(Fate.WRITTEN), int(Fate.DELETED)}
        assert (fates[length:] == Fate.NONE).all()
        assert (
            history.tokens[row, 0][fates == Fate.WRITTEN].tolist() == found.tokens[row, 0][found.valid[row, 0]].tolist()
        )
        _, transitions = graph_of(model, source.to_lists()[row])
        expected = {
            (u, v + 1): score.item()
            for u, scores in enumerate(transitions)
            for v, score in enumerate(scores)
            if score > math.log(0.02) and (scores > score).sum() < 3
        }
        ((one,),) = (item.history for item in unpack(found)[row : row + 1])
        assert {(u, v): score for u, v, score in one[0]["links"]} == pytest.approx(expected)
    assert (history.fate == Fate.DELETED).any()


def test_a_static_pass_is_the_decoding() -> None:
    model, source = dag(), make_batch([(4, 1), (2, 1), (7, 1)]).source
    for options in ({}, {"search": Search.GREEDY, "history": True}, {"search": Search.VITERBI}):
        decoding = DAG.Decoding(**options)
        static = model.static_pass(decoding)
        assert static is not None
        with torch.no_grad():
            found, expected = static.finish(static.compute(source)), model.decode(source, decoding=decoding)
        assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.scores, expected.scores)
    assert model.static_pass(DAG.Decoding(beam_size=2)) is None
    assert model.static_pass(DAG.Decoding(temperature=1.0)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": Search.BEAM}, "search=beam: give beam_size, more than 1"),
        ({"search": Search.GREEDY, "beam_size": 3}, "beam_size=3: has no effect with search=greedy"),
        ({"search": Search.GREEDY, "temperature": 1.0}, "search=greedy: has no effect with temperature"),
        (
            {"search": Search.GREEDY, "lookahead_beta": 2.0},
            "lookahead_beta=2.0: has no effect without search=lookahead",
        ),
        ({"temperature": 1.0, "lookahead_beta": 2.0}, "lookahead_beta=2.0: has no effect without search=lookahead"),
        ({"length_penalty": 2.0}, "length_penalty=2.0: has no effect without search=viterbi or beam"),
        ({"token_beam": 5}, "token_beam=5: has no effect with beam_size=1"),
        ({"num_candidates": 2}, "num_candidates=2: must be at most beam_size=1"),
    ],
)
def test_decoding_refuses_options_without_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DAG.Decoding(**options)


# --- glancing -------------------------------------------------------------------------------------------


def test_glancing_reveals_part_of_the_best_path(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dag(glancing={"start": 0.5, "end": 0.5}).train()
    rows = [*ROWS, IMPOSSIBLE, ([A, B, A], [B + 3, A + 4, B + 5]), ([B, 1, A], [A + 9, A + 8, A + 2, A + 7])]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = model.net.states

    def spy(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        states = original(x, *rest)
        seen.append((x, states))
        return states

    monkeypatch.setattr(model.net, "states", spy)
    terms = model.loss(pairs(*rows), update=1)
    (before, first), (x, second) = seen
    assert not first.requires_grad
    changed, revealed = (x != before).any(dim=2), 0
    for row, (source, target) in enumerate(rows):
        log_probs, transitions = graph_of(model, source)
        places = list(itertools.combinations(range(len(log_probs)), len(target)))
        if not places:
            assert not changed[row].any()
            continue
        best = max(
            places,
            key=lambda path: (
                steps_of(transitions, path) + sum(log_probs[v, w].item() for v, w in zip(path, target, strict=True))
            ),
        )
        mistakes = sum(int(log_probs[v].argmax()) != token for v, token in zip(best, target, strict=True))
        where = changed[row].nonzero().flatten().tolist()
        assert set(where) <= set(best)
        assert len(where) == int(0.5 * mistakes + 0.5)
        whole = model.net.embed(
            torch.tensor([[dict(zip(best, target, strict=True)).get(v, 0) for v in range(x.size(1))]])
        )
        assert torch.allclose(x[row, where], model.net.place(whole)[0, where])
        revealed += len(where)
    assert revealed > 3
    batch = pairs(*rows)
    valid = torch.arange(6) < 2 * batch.source.lengths[:, None]
    emissions, _ = model.net.head_for(None).columns(second, batch.target.tokens)
    nll, _ = ops.marginal_loss(emissions, model.transitions(second, valid), batch.target.lengths)
    assert terms["dag"].total.item() == pytest.approx(nll.sum().item())  # of all vertices, the revealed ones too


def test_no_glancing_is_exactly_the_plain_model_and_empty_targets_are_learnt() -> None:
    batch = make_batch([(4, 3), (6, 5)])
    plain, ended = dag().train(), dag(glancing={"start": 0.5, "end": 0.0, "updates": 10}).train()
    total = [m.loss(batch, update=u)["dag"].total.item() for m in (plain, ended) for u in (10, 99)]
    assert len(set(total)) == 1
    assert ended.loss(batch, update=1)["dag"].total.item() != total[0]
    assert ended.eval().loss(batch, update=1)["dag"].total.item() == total[0]
    empty = pairs(([A], []), ([B, A], []))
    expected = -sum(log_likelihood(plain, source, []) for source in ([A], [B, A]))
    assert ended.train().loss(empty, update=1)["dag"].total.item() == pytest.approx(expected)


def test_no_tensor_of_the_loss_is_larger_than_logits_or_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither (B, A, V) times tokens nor (B, A, A) times tokens."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            sizes.extend(
                x.numel() for x in (made if isinstance(made, tuple) else [made]) if isinstance(x, torch.Tensor)
            )
            return made

    model = dag(glancing={"start": 0.5, "end": 0.5}).train()
    batch = make_batch([(12, 20)] * 3)
    with Sizes():
        model.loss(batch, update=1)["dag"].total.backward()
    logits, steps = 3 * 24 * model.vocabularies.target_size, 3 * 2 * 25 * 25  # of two heads
    assert max(sizes) <= max(logits, steps, *(p.numel() for p in model.parameters()))
