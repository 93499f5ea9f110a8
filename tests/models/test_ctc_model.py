"""The CTC model against the enumeration of every alignment."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import make_batch, make_model
from oracles import collapse_path, ctc_log_likelihood

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.ctc import CTC
from nat.ops import ctc as ctc_ops
from nat.training.objective import objective

BLANK = int(Symbol.BLANK)
A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1


def ctc(**options: Any) -> CTC:
    model = make_model("ctc", dtype=torch.float64, **options)
    assert isinstance(model, CTC)
    return model


def pairs(*rows: tuple[list[int], list[int]]) -> Batch:
    return Batch(Source.from_lists([s for s, _ in rows]), Target.from_lists([t for _, t in rows]))


@torch.no_grad()
def canvas(model: CTC, source: list[int]) -> torch.Tensor:
    head, states, slots = model.states(Source.from_lists([source]))
    log_probs = head.full(states)
    assert log_probs.size(1) == int(slots.lengths[0]) == model.config.upsampling * len(source)
    return log_probs[0]


FORMS: list[dict[str, Any]] = [{}, {"factored_blank": True}, {"decoder": {"cross_attention": False}}]
ROWS = [([A, B, A], [B, A]), ([B], [A, B]), ([A, A, B], [A, A]), ([B, A], []), ([A, B], [A, A, B])]


@pytest.mark.parametrize("upsampling", [2, 3])
@pytest.mark.parametrize("options", FORMS)
def test_loss_and_score_are_brute_force_over_alignments(upsampling: int, options: dict[str, Any]) -> None:
    model = ctc(upsampling=upsampling, **options)
    expected = [ctc_log_likelihood(canvas(model, source), target, BLANK) for source, target in ROWS]
    batch = pairs(*ROWS)
    with torch.no_grad():
        assert model.score(batch).tolist() == pytest.approx(expected, abs=1e-9)
        terms = model.loss(batch, update=1)
    assert terms["ctc"].total.item() == pytest.approx(-sum(expected), abs=1e-9)
    assert terms["ctc"].count.item() == sum(len(target) for _, target in ROWS)
    assert terms["unalignable"].total.item() == 0


def test_loss_agrees_with_torch() -> None:
    model, batch = ctc(), make_batch([(4, 3), (6, 5), (3, 2)])
    head, states, slots = model.states(batch.source)
    log_probs = head.full(states)
    target, source = batch.target, slots.lengths
    reference = F.ctc_loss(log_probs.transpose(0, 1), target.tokens, source, target.lengths, BLANK, reduction="sum")
    assert model.loss(batch, update=1)["ctc"].total.item() == pytest.approx(reference.item(), abs=1e-9)


@pytest.mark.parametrize("options", FORMS)
def test_likelihoods_of_all_targets_sum_to_one(options: dict[str, Any]) -> None:
    model = ctc(vocabularies=Vocabularies(NUM_SYMBOLS + 1, NUM_SYMBOLS + 1, True), **options)  # UNK and one token
    targets = [list(t) for n in range(5) for t in itertools.product([1, A], repeat=n)]
    with torch.no_grad():
        scores = model.score(pairs(*(([A, 1], target) for target in targets)))
    assert scores.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


IMPOSSIBLE = ([A, B], [A, A, A])  # needs 5 slots, has 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unalignable_pairs_are_counted_and_give_no_gradient(smoothing: float) -> None:
    model = ctc(label_smoothing=smoothing)

    def gradients(*rows: tuple[list[int], list[int]]) -> tuple[dict[str, Any], list[torch.Tensor]]:
        model.zero_grad()
        terms = model.loss(pairs(*rows), update=1)
        objective(terms, 10).backward()
        return terms, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    alone, wanted = gradients(*ROWS)
    terms, found = gradients(*ROWS[:2], IMPOSSIBLE, *ROWS[2:], ([B], [A] * 9))
    assert terms["unalignable"].total.item() == 2
    assert terms["unalignable"].count.item() == len(ROWS) + 2
    assert terms["ctc"].total.item() == pytest.approx(alone["ctc"].total.item(), abs=1e-9)
    assert terms["ctc"].count == alone["ctc"].count
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)
    _, nothing = gradients(IMPOSSIBLE)
    assert all((gradient == 0).all() for gradient in nothing)


def test_unalignable_pairs_score_minus_infinity_and_are_not_learnable() -> None:
    model, batch = ctc(), pairs(*ROWS[:2], IMPOSSIBLE)
    with torch.no_grad():
        scores = model.score(batch)
    assert scores[2] == -torch.inf
    assert torch.isfinite(scores[:2]).all()
    assert model.learnable(batch).tolist() == [True, True, False]
    assert ctc(upsampling=3).learnable(batch).tolist() == [True, True, True]


@pytest.mark.parametrize("options", FORMS)
def test_best_path_is_the_collapsed_arg_max(options: dict[str, Any]) -> None:
    for seed in range(5):
        model, source = ctc(seed=seed, **options), make_batch([(4, 1), (1, 1), (7, 1)], seed=seed).source
        with torch.no_grad():
            if model.net.blank_gate is not None:
                torch.nn.init.normal_(model.net.blank_gate.weight)  # slots of both kinds
            found = model.decode(source, decoding=CTC.Decoding())
        for row, ids in enumerate(source.to_lists()):
            best = canvas(model, ids).max(dim=1)
            assert found.tokens[row, 0][found.valid[row, 0]].tolist() == collapse_path(best.indices.tolist(), BLANK)
            assert found.scores[row, 0].item() == pytest.approx(best.values.sum().item(), abs=1e-9)
        assert found.passes.tolist() == [1, 1, 1]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_samples_are_distributed_as_the_paths_are(temperature: float) -> None:
    """Against every path of four slots; a sample's score is its path's under the model itself."""
    tiny = Vocabularies(NUM_SYMBOLS + 1, NUM_SYMBOLS + 1, True)  # UNK, BLANK and one token
    model = ctc(vocabularies=tiny, upsampling=2)
    source, number = [NUM_SYMBOLS, 1], 4000
    log_probs = canvas(model, source)
    heated = (log_probs / temperature).log_softmax(-1)
    expected: Counter[tuple[int, ...]] = Counter()
    path_scores: dict[tuple[int, ...], list[float]] = {}
    for path in itertools.product([1, BLANK, NUM_SYMBOLS], repeat=4):
        target = tuple(collapse_path(path, BLANK))
        expected[target] += math.exp(sum(heated[slot, token].item() for slot, token in enumerate(path)))
        path_scores.setdefault(target, []).append(sum(log_probs[slot, token].item() for slot, token in enumerate(path)))
    options = CTC.Decoding(temperature=temperature, num_candidates=number)
    with torch.no_grad():
        found = model.decode(Source.from_lists([source]), decoding=options)
    drawn = [tuple(ids[keep].tolist()) for ids, keep in zip(found.tokens[0], found.valid[0], strict=True)]
    counts = Counter(drawn)
    assert sum(expected.values()) == pytest.approx(1.0)
    for target, probability in expected.items():
        deviation = math.sqrt(number * probability * (1 - probability))
        assert abs(counts[target] - number * probability) < 4 * deviation + 1, target
    for target, score in zip(drawn[:200], found.scores[0, :200].tolist(), strict=True):
        assert min(abs(score - other) for other in path_scores[target]) < 1e-9


def test_a_huge_beam_finds_the_best_of_all_targets() -> None:
    tiny = Vocabularies(NUM_SYMBOLS + 1, NUM_SYMBOLS + 1, True)
    for seed in range(3):
        model = ctc(vocabularies=tiny, seed=seed)
        with torch.no_grad():  # sharper than at initialisation
            model.net.embeddings.target.weight.mul_(3)
        source, log_probs = [A, 1], canvas(model, [A, 1])
        targets = [t for n in range(5) for t in itertools.product([1, A], repeat=n)]
        ranked = sorted(((ctc_log_likelihood(log_probs, t, BLANK), t) for t in targets), reverse=True)[:4]
        with torch.no_grad():
            found = model.decode(Source.from_lists([source]), decoding=CTC.Decoding(beam_size=31, num_candidates=4))
        for index, (score, target) in enumerate(ranked):
            assert tuple(found.tokens[0, index][found.valid[0, index]].tolist()) == target
            assert found.scores[0, index].item() == pytest.approx(score, abs=1e-9)


def test_label_smoothing_is_the_cross_entropy_of_the_uniform_distribution() -> None:
    batch = make_batch([(4, 3), (2, 1)])
    plain, smooth = ctc().loss(batch, update=1), ctc(label_smoothing=0.25).loss(batch, update=1)
    model = ctc()
    uniform = 0.0
    allowed = [i for i in range(model.vocabularies.target_size) if i >= NUM_SYMBOLS or i in (1, BLANK)]
    for ids in batch.source.to_lists():
        uniform -= canvas(model, ids)[:, allowed].mean(dim=1).sum().item()
    expected = 0.75 * plain["ctc"].total.item() + 0.25 * uniform
    assert smooth["ctc"].total.item() == pytest.approx(expected, abs=1e-9)
    assert smooth["nll"].total.item() == pytest.approx(plain["ctc"].total.item(), abs=1e-9)


def test_canvas_length_counts_upsampling() -> None:
    assert ctc(upsampling=3).canvas_length(np.array([2, 5]), np.array([9, 1])).tolist() == [6, 15]


def test_decoding_refuses_options_without_effect() -> None:
    with pytest.raises(ConfigError, match="num_candidates=2: must be at most beam_size=1"):
        CTC.Decoding(num_candidates=2)
    with pytest.raises(ConfigError, match="beam_size=2: has no effect with temperature"):
        CTC.Decoding(beam_size=2, temperature=0.5)
    with pytest.raises(ConfigError, match="token_beam=5: has no effect with beam_size=1"):
        CTC.Decoding(token_beam=5)


# --- glancing and deep supervision ------------------------------------------------------------------


def test_glancing_reveals_part_of_the_best_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ctc(glancing={"start": 0.5, "end": 0.5}).train()
    batch = pairs(*ROWS, IMPOSSIBLE)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = model.net.layers

    def spy(x: torch.Tensor, *rest: Any, **options: Any) -> list[torch.Tensor]:
        layers = original(x, *rest, **options)
        seen.append((x, model.net.head_for(None).full(layers[-1])))
        return layers

    monkeypatch.setattr(model.net, "layers", spy)
    terms = model.loss(batch, update=1)
    (before, first), (x, second) = seen
    assert not first.requires_grad
    changed = (x != before).any(dim=2)
    for row, (source, target) in enumerate([*ROWS, IMPOSSIBLE]):
        slots = 2 * len(source)
        assert not changed[row, slots:].any()
        if (source, target) == IMPOSSIBLE:
            assert not changed[row].any()
            continue
        symbols = sorted({BLANK, *target})
        paths = [p for p in itertools.product(symbols, repeat=slots) if collapse_path(p, BLANK) == target]
        best = max(paths, key=lambda path: sum(first[row, i, token].item() for i, token in enumerate(path)))
        mistakes = sum(int(first[row, i].argmax()) != token for i, token in enumerate(best))
        where = changed[row].nonzero().flatten()
        assert len(where) == int(0.5 * mistakes + 0.5)
        wanted = model.net.place(model.net.embed(torch.tensor([best])))[0]
        assert torch.allclose(x[row, where], wanted[where])
    assert changed.any()
    nll, _ = ctc_ops.ctc_loss(
        second, batch.target.tokens, 2 * batch.source.lengths, batch.target.lengths, blank=BLANK
    )  # of all slots, the revealed ones too
    assert terms["ctc"].total.item() == pytest.approx(nll.sum().item())


def test_no_glancing_is_exactly_the_plain_model() -> None:
    batch = make_batch([(4, 3), (6, 5)])
    plain, ended = ctc().train(), ctc(glancing={"start": 0.5, "end": 0.0, "updates": 10}).train()
    total = [m.loss(batch, update=u)["ctc"].total.item() for m in (plain, ended) for u in (10, 99)]
    assert len(set(total)) == 1
    assert ended.loss(batch, update=1)["ctc"].total.item() != total[0]
    assert ended.eval().loss(batch, update=1)["ctc"].total.item() == total[0]


@pytest.mark.parametrize("gold", [0.0, 1.0])
def test_layers_feed_on_their_best_path_or_on_the_best_alignment(gold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ctc(deep_supervision={"enabled": True, "gold": gold}, decoder={"num_layers": 3}).train()
    batch = pairs(*ROWS)
    fed: list[torch.Tensor] = []
    layers: list[torch.Tensor] = []
    embed, original = model.net.embed, model.net.layers

    def spy_embed(tokens: torch.Tensor) -> torch.Tensor:
        fed.append(tokens)
        return embed(tokens)

    def spy(*args: Any, **options: Any) -> list[torch.Tensor]:
        states = original(*args, **options)
        layers.extend(model.net.head_for(None).full(state) for state in states)
        return states

    monkeypatch.setattr(model.net, "embed", spy_embed)
    monkeypatch.setattr(model.net, "layers", spy)
    terms = model.loss(batch, update=1)
    lengths = 2 * batch.source.lengths
    assert (len(fed), len(layers)) == (2, 3)
    for tokens, log_probs in zip(fed, layers[:2], strict=True):
        best = ctc_ops.best_alignment(log_probs, batch.target.tokens, lengths, batch.target.lengths, blank=BLANK)
        inside = torch.arange(tokens.size(1)) < lengths[:, None]
        assert torch.equal(tokens[inside], (best if gold else log_probs.argmax(dim=-1))[inside])
    nlls = [
        ctc_ops.ctc_loss(log_probs, batch.target.tokens, lengths, batch.target.lengths, blank=BLANK)[0].sum().item()
        for log_probs in layers
    ]
    assert terms["ctc"].total.item() == pytest.approx(sum(nlls) / 3)
    assert terms["nll"].total.item() == pytest.approx(nlls[-1])
