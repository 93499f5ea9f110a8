"""Vanilla NAT: probabilities, samples, and what glancing and deep supervision do to its loss."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.errors import ConfigError
from nat.models.vanilla import Vanilla
from nat.ops.copying import soft_copy

A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1
TINY = Vocabularies(NUM_SYMBOLS + 2, NUM_SYMBOLS + 2, True)  # UNK and two tokens
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6)])
GLANCING = {"start": 0.5, "end": 0.5}


def vanilla(**options: Any) -> Vanilla:
    model = make_model("vanilla", dtype=torch.float64, **options)
    assert isinstance(model, Vanilla)
    return model


def sharper(model: Vanilla) -> Vanilla:
    """As if it had learnt something."""
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(3)
    return model


@torch.no_grad()
def log_probs_of(model: Vanilla, source: list[int], length: int) -> Tensor:
    """(T, V) of a target of this length."""
    tokens = Source.from_lists([source])
    memory, _ = model.length.encode(model.net, tokens)
    x, valid = model.copied(tokens, torch.tensor([length]))
    return model.net.log_probs(model.net.place(x), valid, memory)[0]


def full(model: Vanilla, states: Tensor) -> Tensor:
    """Log-probabilities of states, of a model without copies."""
    return model.net.head_for(None).full(states)


def total(model: Vanilla, batch: Batch = BATCH, update: int = 1) -> float:
    return model.loss(batch, update=update)["cross_entropy"].total.item()


# --- probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", ["uniform", "soft"])
def test_scores_of_all_targets_of_a_length_sum_to_its_probability(copy: str) -> None:
    model = sharper(vanilla(vocabularies=TINY, copy=copy))
    targets = [list(t) for t in itertools.product([1, A, B], repeat=3)]
    batch = Batch(Source.from_lists([[A, B]] * 27), Target.from_lists(targets))
    with torch.no_grad():
        scores = model.score(batch)
        _, lengths = model.length.encode(model.net, batch.source)
    wanted = log_probs_of(model, [A, B], 3)
    for target, score in zip(targets, scores.tolist(), strict=True):
        by_hand = sum(wanted[t, token].item() for t, token in enumerate(target))
        assert score == pytest.approx(by_hand + lengths[0, 256 + 1].item())
    assert scores.exp().sum().item() == pytest.approx(lengths[0, 256 + 1].exp().item())


def test_soft_copies_look_as_far_as_tau_says() -> None:
    source, lengths = BATCH.source, BATCH.target.lengths
    for tau in (0.2, 2.0):
        model = vanilla(copy="soft", copy_tau=tau)
        weights, _ = soft_copy(source.lengths, lengths, source_width=source.tokens.size(1), tau=tau)
        x, _ = model.copied(source, lengths)
        assert torch.allclose(x, weights @ model.net.embeddings.source(source.tokens))


def test_the_score_of_a_length_out_of_reach_is_minus_infinity() -> None:
    model = vanilla(length={"max_offset": 2})
    batch = make_batch([(5, 2), (5, 3)])
    with torch.no_grad():
        assert torch.isfinite(model.score(batch)).tolist() == [False, True]
    assert model.learnable(batch).tolist() == [False, True]


def test_the_length_beam_keeps_the_highest_mean_log_probability() -> None:
    model, beam = sharper(vanilla(seed=2)), 6
    source = make_batch([(5, 1), (1, 1), (8, 1)]).source
    with torch.no_grad():
        _, length_log_probs = model.length.encode(model.net, source)
        decoding = Vanilla.Decoding(length_beam=beam, num_candidates=beam)
        found = model.decode(source, decoding=decoding)
        only = model.decode(source, decoding=Vanilla.Decoding(length_beam=beam))
    for row, ids in enumerate(source.to_lists()):
        lengths, scores = model.length.best(
            length_log_probs[row : row + 1], source.lengths[row : row + 1], beam, limit=None
        )
        ranked = []
        for length, length_score in zip(lengths[0].tolist(), scores[0].tolist(), strict=True):
            best = log_probs_of(model, ids, length).max(dim=1)
            ranked.append((best.values.mean().item(), best.indices.tolist(), best.values.sum().item() + length_score))
        ranked.sort(key=lambda item: -item[0])
        outputs = [t[keep].tolist() for t, keep in zip(found.tokens[row], found.valid[row], strict=True)]
        assert outputs == [tokens for _, tokens, _ in ranked]
        assert found.scores[row].tolist() == pytest.approx([score for *_, score in ranked])
        assert only.tokens[row, 0][only.valid[row, 0]].tolist() == ranked[0][1]


def test_samples_follow_the_distribution_at_the_temperature() -> None:
    model, number, temperature = sharper(vanilla(vocabularies=TINY, length={"max_offset": 1})), 4000, 8.0
    source = [A, B]
    with torch.no_grad():
        decoding = Vanilla.Decoding(temperature=temperature, num_candidates=number, seed=3)
        found = model.decode(Source.from_lists([source]), decoding=decoding)
        _, lengths = model.length.encode(model.net, Source.from_lists([source]))
    log_probs = log_probs_of(model, source, int(lengths[0].argmax()) + 1)
    heights = (log_probs / temperature).softmax(dim=1)
    drawn = [tuple(row) for row in found.tokens[0].tolist()]

    def chance(shares: Tensor, target: tuple[int, ...]) -> float:
        return math.prod(shares[t, token].item() for t, token in enumerate(target))

    targets = list(itertools.product([1, A, B], repeat=len(heights)))
    for target in targets:
        assert drawn.count(target) / number == pytest.approx(chance(heights, target), abs=0.03)
    changes = [abs(chance(heights, target) - chance(log_probs.exp(), target)) for target in targets]
    assert max(changes) > 0.1  # so that samples at another temperature would be seen
    own = log_probs.gather(1, found.tokens[0].T).sum(dim=0) + lengths.max()  # at temperature 1
    assert torch.allclose(found.scores[0], own)


def test_samples_are_nested_and_change_with_the_seed() -> None:
    model, source = vanilla(), make_batch([(5, 1), (7, 1)]).source

    def samples(number: int, seed: int = 1) -> Tensor:
        decoding = Vanilla.Decoding(temperature=1.0, num_candidates=number, seed=seed)
        with torch.no_grad():
            return model.decode(source, decoding=decoding).tokens

    many = samples(5)
    assert torch.equal(samples(2), many[:, :2])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(many.unbind(dim=1), 2))
    assert not torch.equal(samples(5, seed=2), many)


# --- glancing ---------------------------------------------------------------------------------------


def test_no_glancing_is_exactly_the_plain_model() -> None:
    plain, ended = vanilla().train(), vanilla(glancing={"start": 0.5, "end": 0.0, "updates": 10}).train()
    assert total(ended, update=10) == total(ended, update=99) == total(plain, update=10) == total(plain, update=99)
    assert total(ended, update=5) != total(plain, update=5)
    assert total(ended.eval(), update=5) == total(plain.eval(), update=5)


def test_the_paper_is_followed_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """First pass without gradient; a share of its mistakes is put into the input and taken out of the loss."""
    model = sharper(vanilla(glancing=GLANCING, label_smoothing=0.0, size={"dropout": 0.0})).train()
    seen: list[tuple[Tensor, Tensor]] = []
    original = model.net.layers

    def spy(x: Tensor, valid: Tensor, memory: Any, **options: Any) -> list[Tensor]:
        layers = original(x, valid, memory, **options)
        seen.append((x, layers[-1]))
        if layers[-1].requires_grad:
            layers[-1].retain_grad()
        return layers

    monkeypatch.setattr(model.net, "layers", spy)
    terms = model.loss(BATCH, update=1)
    (plain_x, glanced), (x, states) = seen
    assert not glanced.requires_grad
    first, second = (full(model, given.detach()) for given in (glanced, states))
    target = BATCH.target
    changed = (x != plain_x).any(dim=2)
    assert not (changed & ~target.valid).any()
    mistakes = ((first.argmax(dim=-1) != target.tokens) & target.valid).sum(dim=1)
    assert changed.sum(dim=1).tolist() == [math.floor(0.5 * n + 0.5) for n in mistakes.tolist()]
    assert mistakes.sum() > 5
    wanted = model.net.place(model.net.embed(target.tokens))
    assert torch.allclose(x[changed], wanted[changed])
    hidden = target.valid & ~changed
    nll = -second.gather(2, target.tokens[:, :, None]).squeeze(2)
    assert terms["cross_entropy"].total.item() == pytest.approx(nll[hidden].sum().item())
    assert terms["cross_entropy"].count.item() == terms["nll"].count.item() == hidden.sum().item()
    terms["cross_entropy"].total.backward()
    assert states.grad is not None
    assert torch.equal((states.grad != 0).any(dim=2), hidden)


# --- deep supervision -------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_layers_where_no_gold_was_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vanilla(deep_supervision={"enabled": True, "gold": 0.4}, decoder={"num_layers": 3}, label_smoothing=0.0)
    embed, original = model.net.embed, model.net.layers
    target, fed, layers = BATCH.target, [], []
    gold = target.valid & (torch.arange(target.tokens.size(1)) % 3 == 1)

    def spy_embed(tokens: Tensor) -> Tensor:
        fed.append(tokens)
        return embed(tokens)

    def spy(*args: Any, **options: Any) -> list[Tensor]:
        states = original(*args, **options)
        layers.extend(full(model, state.detach()) for state in states)
        return states

    monkeypatch.setattr("nat.nn.glancing.gold_positions", lambda *_, share: gold if share == 0.4 else None)
    monkeypatch.setattr(model.net, "embed", spy_embed)
    monkeypatch.setattr(model.net, "layers", spy)
    terms = model.train().loss(BATCH, update=1)
    assert (len(layers), len(fed)) == (3, 2)
    for tokens, log_probs in zip(fed, layers[:2], strict=True):
        assert torch.equal(tokens, torch.where(gold, target.tokens, log_probs.argmax(dim=-1)))
    hidden = target.valid & ~gold
    nlls = [-log_probs.gather(2, target.tokens[:, :, None]).squeeze(2)[hidden].sum().item() for log_probs in layers]
    assert terms["cross_entropy"].total.item() == pytest.approx(sum(nlls) / 3)
    assert terms["nll"].total.item() == pytest.approx(nlls[-1])
    assert terms["cross_entropy"].count.item() == terms["nll"].count.item() == hidden.sum().item()


@pytest.mark.parametrize("training", [False, True])
def test_without_gold_all_positions_count(training: bool) -> None:
    model = vanilla(deep_supervision={"enabled": True, "gold": 0.0}).train(training)
    assert model.loss(BATCH, update=1)["cross_entropy"].count == BATCH.num_target_tokens


def test_gold_is_for_training_alone() -> None:
    loss = {gold: total(vanilla(deep_supervision={"enabled": True, "gold": gold})) for gold in (0.0, 0.9)}
    assert loss[0.0] == loss[0.9]


def test_the_width_of_a_soft_copy_is_refused_without_one() -> None:
    with pytest.raises(ConfigError, match=r"copy_tau=0.5: has no effect without copy=soft"):
        vanilla(copy_tau=0.5)
    near, far = (vanilla(copy="soft", copy_tau=tau) for tau in (0.1, 3.0))
    batch = make_batch([(6, 5)])
    assert near.loss(batch, update=1)["nll"].total != far.loss(batch, update=1)["nll"].total
