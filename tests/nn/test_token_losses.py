"""Losses that do not insist on every token's place: how a model's predictions become their sums."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.models.mask_predict import MaskPredict
from nat.ops.axe import aligned_loss
from nat.ops.lattice import TargetScores, target_ids

BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 3)])
BLANK = int(Symbol.BLANK)
EACH = pytest.mark.parametrize("name", ["vanilla", "mask_predict"])


def model_of(name: str, **options: Any) -> Any:
    model = make_model(name, dtype=torch.float64, **options)
    with torch.no_grad():  # as if it had learnt something
        model.get_submodule("net.embeddings.target").weight.mul_(3)
    return model


@torch.no_grad()
def predictions(model: Any, batch: Batch, update: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, V) of what the loss sees, and where tokens are hidden."""
    target = batch.target
    memory, _ = model.length.encode(model.net, batch.source)
    if isinstance(model, MaskPredict):
        hidden = model.hidden(batch, update)
        return model.log_probs(target.tokens.masked_fill(hidden, int(Symbol.MASK)), target.valid, memory), hidden
    x, valid = model.copied(batch.source, target.lengths)
    return model.net.log_probs(model.net.place(x), valid, memory), valid


@EACH
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_axe_is_the_aligned_loss_of_the_predictions(name: str, smoothing: float) -> None:
    model = model_of(name, loss="axe", skip_target=0.3, label_smoothing=smoothing)
    log_probs, hidden = predictions(model, BATCH, 3)
    ids = target_ids(BATCH.target.tokens, BATCH.target.lengths, blank=BLANK)
    columns = log_probs.gather(2, ids[:, None].expand(-1, log_probs.size(1), -1))
    scored = TargetScores.of(columns, ids, BATCH.target.lengths, BATCH.target.lengths)
    wanted = (1 - smoothing) * aligned_loss(scored, hidden, skip_target=0.3).sum()
    wanted -= smoothing * log_probs[hidden][:, log_probs[0, 0] > -torch.inf].mean(dim=1).sum()
    terms = model.loss(BATCH, update=3)
    assert terms["axe"].total.item() == pytest.approx(wanted.item())
    assert (terms["axe"].weight, terms["cross_entropy"].weight) == (1.0, 0.0)
    assert terms["axe"].count == terms["nll"].count == hidden.sum()
    own = log_probs.gather(2, BATCH.target.tokens[:, :, None]).squeeze(2)
    assert terms["nll"].total.item() == pytest.approx(-own[hidden].sum().item())
    assert terms["axe"].total.item() < terms["nll"].total.item() or smoothing > 0


@EACH
@pytest.mark.parametrize("truncation", [0.0, 0.15])
def test_oaxe_is_the_best_of_all_permutations_without_what_is_improbable(name: str, truncation: float) -> None:
    model = model_of(name, loss="oaxe", truncation=truncation, label_smoothing=0.0)
    log_probs, hidden = predictions(model, BATCH, 3)
    wanted, left_out, shuffled = 0.0, 0, 0
    for row in range(len(BATCH)):
        places = hidden[row].nonzero().squeeze(1).tolist()
        orders = [
            [log_probs[row, place, token].item() for place, token in zip(places, order, strict=True)]
            for order in itertools.permutations(BATCH.target.tokens[row, places].tolist())
        ]
        best = max(orders, key=sum)
        shuffled += best != orders[0]
        used = [value for value in best if truncation == 0 or value > math.log(truncation)]
        wanted, left_out = wanted - sum(used), left_out + len(best) - len(used)
    assert shuffled
    assert (left_out > 0) == (truncation > 0)
    terms = model.loss(BATCH, update=3)
    assert terms["oaxe"].total.item() == pytest.approx(wanted)
    assert terms["oaxe"].count == hidden.sum() - left_out
    assert (terms["truncated"].total, terms["truncated"].count) == (left_out, hidden.sum())


def test_oaxe_smooths_what_it_uses() -> None:
    model = model_of("vanilla", loss="oaxe", label_smoothing=0.2)
    log_probs, hidden = predictions(model, BATCH, 1)
    log_probs, possible = log_probs.masked_fill(~hidden[:, :, None], -torch.inf), log_probs[0, 0] > -torch.inf
    wanted, count = 0.0, 0
    for row, tokens in zip(log_probs, BATCH.target.to_lists(), strict=True):
        orders = list(itertools.permutations(tokens))
        sums = [sum(row[place, token].item() for place, token in enumerate(order)) for order in orders]
        for place, token in enumerate(orders[sums.index(max(sums))]):
            if row[place, token] > math.log(0.15):
                wanted -= 0.8 * row[place, token].item() + 0.2 * row[place, possible].mean().item()
                count += 1
    assert 0 < count < hidden.sum()
    assert model.loss(BATCH, update=1)["oaxe"].total.item() == pytest.approx(wanted)


def test_cross_entropy_is_annealed_into_it() -> None:
    model = model_of("vanilla", loss="oaxe", annealing={"start": 0.8, "end": 0.2, "updates": 10})
    for update, share in ((0, 0.8), (5, 0.5), (10, 0.2), (99, 0.2)):
        terms = model.loss(BATCH, update=update)
        assert terms["cross_entropy"].weight == pytest.approx(share)
        assert terms["oaxe"].weight == pytest.approx(1 - share)
    plain = model_of("vanilla").loss(BATCH, update=1)
    assert terms["cross_entropy"].total.item() == pytest.approx(plain["cross_entropy"].total.item())


@EACH
def test_eps_is_written_in_training_alone(name: str) -> None:
    """A prediction that is skipped leaves no trace in the translation, and its probability in the score."""
    model = model_of(name, loss="axe", seed=3)
    with torch.no_grad():  # its logit is the sum of several others, so that it is likely
        weight = model.net.embeddings.target.weight
        weight[BLANK] = 2 * weight[NUM_SYMBOLS:].sum(dim=0)
    source = make_batch([(6, 1), (2, 1), (9, 1), (4, 1)]).source
    for options in ({}, {"length_beam": 4, "num_candidates": 3}, {"length_beam": 1, "temperature": 1.0}):
        with torch.no_grad():
            found = model.decode(source, decoding=type(model).Decoding(**options, history=True))
        assert not (found.tokens == BLANK).any()
        assert (found.tokens[~found.valid] == int(Symbol.PAD)).all()
        dropped = 0
        for n, history in enumerate(found.history):
            for row in range(len(source)):
                last = int((history.fate[row] != 0).any(dim=1).nonzero().max())
                written = history.tokens[row, last][history.fate[row, last] != 0]
                assert found.tokens[row, n][found.valid[row, n]].tolist() == written[written != BLANK].tolist()
                dropped += int((written == BLANK).sum())
        assert dropped
    alone = [model.decode(Source.from_lists([row]), decoding=type(model).Decoding()) for row in source.to_lists()]
    together = model.decode(source, decoding=type(model).Decoding())
    for row, one in enumerate(alone):
        assert together.tokens[row][together.valid[row]].tolist() == one.tokens[0][one.valid[0]].tolist()


def test_a_model_that_skips_cannot_score() -> None:
    with pytest.raises(ConfigError, match="Vanilla model of loss=axe cannot score given targets"):
        model_of("vanilla", loss="axe").score(BATCH)
    assert torch.isfinite(model_of("vanilla", loss="oaxe").score(BATCH)).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip_target": 2.0}, "skip_target: has no effect without loss=axe"),
        ({"loss": "oaxe", "skip_target": 2.0}, "skip_target: has no effect without loss=axe"),
        ({"loss": "axe", "truncation": 0.1}, "truncation: has no effect without loss=oaxe"),
        ({"annealing": {"end": 0.5}}, "annealing: has no effect without loss=oaxe"),
        ({"loss": "axe", "glancing": {"start": 0.5}}, "loss=axe: not with glancing"),
        ({"loss": "oaxe", "glancing": {"end": 0.5}}, "loss=oaxe: not with glancing"),
        ({"loss": "axe", "deep_supervision": {"enabled": True}}, "loss=axe: not with deep_supervision"),
        ({"loss": "dice"}, "loss=dice: allowed are cross_entropy, axe, oaxe"),
    ],
)
def test_what_has_no_effect_or_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_model("vanilla", **options)
