"""Masked diffusion against enumeration: its bound, its samplers, and what they share with Mask-Predict."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import make_batch, make_model, pair_batch
from oracles import CANVAS_TARGETS, canvas_oracle, probability_of, right
from torch import Tensor

from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.decoding.requests import Wanted, attach
from nat.errors import ConfigError
from nat.models import diffusion
from nat.models.contract import Translation
from nat.models.diffusion import Diffusion
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.search.canvas import Fate
from nat.search.unmasking import MaskSchedule

MASK, UNK = int(Symbol.MASK), int(Symbol.UNK)
TINY = Vocabularies(NUM_SYMBOLS + 2, NUM_SYMBOLS + 2, shared=True)
WORDS = (UNK, NUM_SYMBOLS, NUM_SYMBOLS + 1)  # all that a tiny model can write
PAIR = pair_batch([[7, 8, 7]], [[8, 7, UNK, 8]])
SOURCE = [7, 8, 7]
SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "confidence", "length_beam": 2},
    {"sampler": "remasking", "length_beam": 2},
    {"sampler": "confidence", "schedule": "cosine"},
    {"sampler": "remasking", "schedule": "cosine"},
    {"sampler": "ancestral", "temperature": 1.0},
    {"sampler": "ancestral", "temperature": 0.5, "schedule": "cosine"},
]
EACH_SAMPLER = pytest.mark.parametrize("options", SAMPLERS, ids=lambda options: "-".join(map(str, options.values())))


def model_of(scale: float = 4.0, **options: Any) -> Diffusion:
    """scale: of the target's embeddings; above 1 it is surer than at initialisation."""
    model = make_model("diffusion", **({"dtype": torch.float64, "label_smoothing": 0.0} | options))
    assert isinstance(model, Diffusion)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(scale)
    return model


def decoding_of(sampler: str = "confidence", schedule: str = "linear", **options: Any) -> Diffusion.Decoding:
    return Diffusion.Decoding(
        sampler=diffusion.Sampler(sampler), schedule=MaskSchedule(schedule), **({"max_passes": 4} | options)
    )


def decode(model: Diffusion, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=decoding_of(**options))


def outputs(found: Translation) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(found.tokens[:, 0], found.valid[:, 0], strict=True)]


# --- the bound --------------------------------------------------------------------------------------


def subsets(length: int) -> list[tuple[int, ...]]:
    """All but the empty one."""
    return [s for size in range(1, length + 1) for s in itertools.combinations(range(length), size)]


def masked_nll(model: Diffusion, batch: Batch, places: tuple[int, ...]) -> Tensor:
    """Of the tokens at these places of one target, while they are masked."""
    memory, _ = model.length.encode(model.net, batch.source)
    tokens = batch.target.tokens.clone()
    tokens[0, list(places)] = MASK
    log_probs = model.log_probs(tokens, batch.target.valid, memory)[0]
    return -sum(log_probs[i, batch.target.tokens[0, i]] for i in places)  # type: ignore[return-value]


def enumerated_bound(model: Diffusion, batch: Batch) -> Tensor:
    """The integral over t of (1 / t) E sum of masked -log p, each token masked by itself with probability t: of t^(k-1)
    (1-t)^(T-k) over all masks, it is a beta function."""
    length = batch.target.tokens.size(1)
    total = torch.zeros((), dtype=torch.float64)
    for places in subsets(length):
        k = len(places)
        weight = math.gamma(k) * math.gamma(length - k + 1) / math.gamma(length + 1)
        total = total + weight * masked_nll(model, batch, places)
    return total


@pytest.mark.parametrize("target", [[8], [7, 7], [8, 7, UNK, 8]])
def test_the_expected_loss_is_the_enumerated_bound(target: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(vocabularies=TINY), pair_batch([SOURCE], [target])
    expected: dict[str, Tensor] = {}
    for places in subsets(len(target)):
        masks = torch.zeros(1, len(target), dtype=torch.bool)
        masks[0, list(places)] = True
        monkeypatch.setattr(model, "masks", lambda batch, update, masks=masks: masks)
        probability = 1 / len(target) / math.comb(len(target), len(places))  # as the next test has it
        for name, term in model.loss(batch, update=1).items():
            expected[name] = expected.get(name, 0) + probability * term.total
            assert name not in ("cross_entropy", "bound") or term.count == len(target)
    wanted = enumerated_bound(model, batch)
    assert expected["bound"].item() == pytest.approx(wanted.item(), rel=1e-9)
    assert expected["cross_entropy"].item() == pytest.approx(wanted.item(), rel=1e-9)
    weights = list(model.net.parameters())
    found, exact = (torch.autograd.grad(part, weights) for part in (expected["cross_entropy"], wanted))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_the_number_of_masks_is_evenly_spread_over_the_pairs_of_an_update_and_they_are_anywhere() -> None:
    number = 5000
    rows = [[7 + i % 5, 8 + i % 7, 9, 7 + i % 11] for i in range(number)]
    batch = replace(pair_batch(rows, rows), keys=torch.arange(number) + 3)
    masks = model_of().masks(batch, 3)
    assert torch.allclose(masks.sum(dim=1).bincount(minlength=5) / number, torch.tensor([0, *[0.25] * 4]), atol=1e-3)
    assert torch.allclose(masks.float().mean(dim=0), torch.tensor(0.625), atol=0.02)
    one = masks[masks.sum(dim=1) == 1].float().mean(dim=0)
    assert torch.allclose(one, torch.tensor(0.25), atol=0.04)
    assert not torch.equal(model_of().masks(batch, 4), masks)


@pytest.mark.parametrize(("weight", "factors"), [("linear", [1.0, 0.75, 0.5, 0.25]), ("uniform", [1.0] * 4)])
def test_other_weights_are_trained_with_and_the_bound_is_still_reported(
    weight: str, factors: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(vocabularies=TINY, weight=weight, label_smoothing=0.1)
    twin = make_model("mask_predict", vocabularies=TINY, dtype=torch.float64, label_smoothing=0.1)
    twin.load_state_dict(model.state_dict())
    for k, factor in enumerate(factors, start=1):
        masks = torch.arange(4)[None] < k
        monkeypatch.setattr(model, "masks", lambda batch, update, masks=masks: masks)
        monkeypatch.setattr(twin, "hidden", lambda batch, update, masks=masks: masks)
        terms, others = model.loss(PAIR, update=1), twin.loss(PAIR, update=1)
        assert terms["cross_entropy"].total.item() == pytest.approx(factor * others["cross_entropy"].total.item())
        assert terms["nll"].total.item() == pytest.approx(others["nll"].total.item())
        assert terms["bound"].total.item() == pytest.approx(4 / k * others["nll"].total.item())
        assert terms["nll"].count == others["nll"].count == k


def any_order(model: Diffusion, source: list[int], length: int, steps: int | None) -> dict[tuple[int, ...], float]:
    """Of every target of this length its probability: written one token at a time, in an order of which all are equally
    likely; or in so many steps, each token in any of them."""
    memory, _ = model.length.encode(model.net, Source.from_lists([source]))
    valid, known = torch.ones(1, length, dtype=torch.bool), {}

    def probabilities(tokens: tuple[int, ...]) -> Tensor:
        if tokens not in known:
            known[tokens] = model.log_probs(torch.tensor([tokens]), valid, memory)[0].exp()
        return known[tokens]

    found: dict[tuple[int, ...], float] = {}
    turns = list(itertools.permutations(range(length)))
    if steps is not None:
        turns = list(itertools.product(range(steps), repeat=length))  # type: ignore[arg-type]
    for target in itertools.product(WORDS, repeat=length):
        total = 0.0
        for turn in turns:
            probability = 1.0
            for now in sorted(set(turn)):
                seen = tuple(w if t < now else MASK for w, t in zip(target, turn, strict=True))
                table = probabilities(seen)
                for i, t in enumerate(turn):
                    probability *= table[i, target[i]].item() if t == now else 1.0
            total += probability
        found[target] = total / len(turns)
    return found


def distance(one: dict[tuple[int, ...], float], other: dict[tuple[int, ...], float]) -> float:
    return sum(abs(one[key] - other.get(key, 0.0)) for key in one) / 2


@torch.no_grad()
def test_the_score_is_a_bound_of_which_it_is_an_unbiased_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    model, number = model_of(vocabularies=TINY, seed=1), 600
    target = PAIR.target.tokens[0].tolist()
    _, length_log_probs = model.length.encode(model.net, PAIR.source)
    of_length = model.length.log_prob(length_log_probs, PAIR.source.lengths, PAIR.target.lengths).item()
    wanted = of_length - enumerated_bound(model, PAIR).item()
    many = pair_batch([SOURCE] * number, [target] * number)
    assert model.score(many).unique().numel() == 1  # of equal pairs
    monkeypatch.setattr(RowRandom, "of", lambda *parts, seed: RowRandom(torch.arange(number) * 7919 + 1))
    scores = model.score(many)
    spread = scores.std().item()
    assert scores.mean().item() == pytest.approx(wanted, abs=4 * spread / math.sqrt(number))
    assert spread < 0.1 * abs(wanted)
    assert wanted < of_length + math.log(any_order(model, SOURCE, 4, None)[tuple(target)])


@torch.no_grad()
def test_a_score_does_not_depend_on_its_batch() -> None:
    model, batch = model_of(), make_batch([(5, 4), (1, 1), (7, 9), (3, 3)])
    alone = [model.score(batch.select(torch.tensor([i]))) for i in range(4)]
    torch.testing.assert_close(model.score(batch), torch.cat(alone))


# --- ancestral sampling -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Diffusion:
    """A model whose tokens depend on one another, and whose targets are as long as their sources."""
    model = model_of(vocabularies=TINY, seed=3, length={"max_offset": 2})
    with torch.no_grad():
        model.length.classify.bias[2] = 50.0
        model.net.embeddings.target.weight.mul_(2)
    return model


def frequencies(model: Diffusion, max_passes: int, **options: Any) -> dict[tuple[int, ...], float]:
    number = 6000
    given = {"sampler": "ancestral", "temperature": 1.0, "num_candidates": number} | options
    found = decode(model, Source.from_lists([SOURCE]), max_passes=max_passes, **given)
    counts = Counter(tuple(row) for row in found.tokens[0].tolist())
    return {target: count / number for target, count in counts.items()}


@torch.no_grad()
def test_ancestral_samples_approach_the_any_order_distribution_as_steps_grow(tiny: Diffusion) -> None:
    exact = any_order(tiny, SOURCE, 3, None)
    assert sum(exact.values()) == pytest.approx(1.0)
    few = {steps: any_order(tiny, SOURCE, 3, steps) for steps in (1, 2, 4, 8)}
    gaps = [distance(few[steps], exact) for steps in few]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.15
    assert gaps[-1] < 0.2 * gaps[0]
    for steps in (1, 2, 4):
        assert distance(few[steps], frequencies(tiny, steps)) < 0.03
    assert distance(exact, frequencies(tiny, 100_000)) < 0.03
    assert distance(exact, frequencies(tiny, 100_000, schedule="cosine")) < 0.03


@pytest.mark.parametrize("schedule", MaskSchedule)
def test_a_mask_is_left_with_the_probability_of_the_schedule(schedule: MaskSchedule) -> None:
    drawn = ((torch.arange(100_000) + 0.5) / 100_000).view(10, -1)
    turns = schedule.turns(drawn, 5)
    for n in range(1, 6):
        share = 1 - n / 5 if schedule is MaskSchedule.LINEAR else math.cos(math.pi / 2 * n / 5)
        assert (turns > n).float().mean().item() == pytest.approx(share, abs=1e-4)


def test_ancestral_passes_are_those_that_write_something() -> None:
    model, source = model_of(), make_batch([(9, 1), (3, 1), (12, 1)]).source
    for passes in (1, 3, 8, 100_000):
        found = decode(
            model, source, sampler="ancestral", temperature=1.0, max_passes=passes, num_candidates=3, history=True
        )
        lengths = found.valid.sum(dim=2)
        assert (found.passes <= lengths.amax(dim=1).clamp(max=passes)).all()
        assert passes < 1000 or torch.equal(found.passes, lengths.amax(dim=1))
        for history in found.history:
            there = (history.fate != Fate.NONE).any(dim=2)
            assert (history.fate == Fate.WRITTEN).any(dim=2)[there].all()


# --- the surest first -------------------------------------------------------------------------------

UNSURE: dict[str, Any] = {
    "seed": 3,
    "scale": 1.0,
    "length": {"max_offset": 5},
}  # later passes change its mind


@torch.no_grad()
def by_hand(model: Diffusion, source: list[int], length: int, passes: int, schedule: str) -> list[list[int]]:
    """All passes over lists; what stands after each."""
    memory, _ = model.length.encode(model.net, Source.from_lists([source]))
    tokens, states = [MASK] * length, []
    for n in range(1, passes + 1):
        share = (passes - n) / passes if schedule == "linear" else math.cos(math.pi / 2 * n / passes)
        left = min(int(length * share + 1e-9), length - n)
        best = model.log_probs(torch.tensor([tokens]), torch.ones(1, length, dtype=torch.bool), memory)[0].max(dim=1)
        masked = sorted((i for i in range(length) if tokens[i] == MASK), key=lambda i: -best.values[i].item())
        for i in masked[: len(masked) - left]:
            tokens[i] = int(best.indices[i])
        states.append(list(tokens))
        if left <= 0:
            break
    return states


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("passes", [1, 3, 10])
def test_the_surest_are_written_first_and_stay(passes: int, schedule: str) -> None:
    model = model_of(**UNSURE)
    source = make_batch([(5, 1), (1, 1), (8, 1), (12, 1)]).source
    found = decode(model, source, schedule=schedule, max_passes=passes, length_beam=1, history=True)
    (history,) = found.history
    for row, ids in enumerate(source.to_lists()):
        length = int(found.valid[row, 0].sum())
        states = by_hand(model, ids, length, passes, schedule)
        assert found.passes[row] == len(states) == min(passes, length)
        for n, state in enumerate(states):
            fate, tokens = history.fate[row, n, :length], history.tokens[row, n, :length]
            assert tokens.masked_fill(fate == Fate.MASKED, MASK).tolist() == state
        assert outputs(found)[row] == states[-1]


@pytest.mark.parametrize("passes", [1, 4, 10])
def test_remasking_is_the_loop_of_mask_predict(passes: int) -> None:
    model = model_of(**UNSURE)
    twin = make_model("mask_predict", dtype=torch.float64, length=UNSURE["length"])
    twin.load_state_dict(model.state_dict())
    source = make_batch([(5, 1), (1, 1), (8, 1), (12, 1)]).source
    found = decode(model, source, sampler="remasking", max_passes=passes, num_candidates=2)
    with torch.no_grad():
        wanted = twin.decode(source, decoding=type(twin).Decoding(max_passes=passes, num_candidates=2))  # type: ignore[call-arg]
    for name in ("tokens", "valid", "scores", "passes"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))


# --- all of them ------------------------------------------------------------------------------------


@EACH_SAMPLER
@pytest.mark.parametrize("passes", [1, 2, 5, 20])
def test_an_oracle_gives_its_translation_by_every_sampler(
    options: dict[str, Any], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        wanted, lengths = right(tokens, memory)
        sure = torch.where(lengths == valid.sum(dim=1), 1 - 1e-9, 0.4)[:, None]
        return probability_of(wanted, sure.double().expand(wanted.shape))

    model = model_of()
    source = canvas_oracle(model, monkeypatch, oracle, rank=1)
    assert outputs(decode(model, source, max_passes=passes, **options)) == CANVAS_TARGETS


@EACH_SAMPLER
def test_phrases_stand_whole_and_a_draft_keeps_its_length(options: dict[str, Any]) -> None:
    model, rows = model_of(), [[9, 10, 11], [12, 13], [9, 8, 7, 10]]
    drafts: list[list[int]] = [[], [12, 13, 14, 15, 16, 17], [9, 9, 9]]
    phrases: list[list[list[int]]] = [[[15, 16], [9]], [], [[7, 8]]]
    wanted = [Wanted(draft, False, [False] * (len(draft) + 1), own) for draft, own in zip(drafts, phrases, strict=True)]
    source = attach(Source.from_lists(rows), wanted)
    found = decode(model, source, **options)
    for text, own in zip(outputs(found), phrases, strict=True):
        assert MASK not in text
        assert all(any(text[i : i + len(p)] == p for i in range(len(text))) for p in own), (text, own)
    assert [len(text) for text in outputs(found)][1:] == [6, 3]
    assert (found.passes > 2).all()  # two calls told how likely the draft is
    kept = outputs(decode(model, source, **options, remask=0.0))
    assert kept[1] == drafts[1]
    alone = [outputs(decode(model, source.select(torch.tensor([i])), **options))[0] for i in range(3)]
    assert alone == outputs(found)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler=ancestral: draws its tokens and needs temperature"):
        decoding_of("ancestral")
