"""Edit Flows by hand, with oracles that know the edit, and with the true rates of a tiny process."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import Literal, draft_of, make_batch, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.data.batch import Phrases, Source, Target, Tokens
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.edit_flow import EditFlow
from nat.nn.edit_rates import log_softplus
from nat.nn.rng import RowRandom
from nat.nn.roll_in import kept
from nat.ops.alignment import align
from nat.ops.edit_flow import OnTheWay, share_done, time_of
from nat.search.canvas import Fate

SIZE = NUM_SYMBOLS + 13
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6), (5, 9), (6, 8), (4, 7)])
Counts = dict[tuple[str, int, int], float]  # (kind, place, token) -> edits that are left


def edit_flow(**options: Any) -> EditFlow:
    model = make_model("edit_flow", **({"dtype": torch.float64} | options))
    assert isinstance(model, EditFlow)
    return model


def decode(model: EditFlow, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=EditFlow.Decoding(**options))


def outputs(found: Translation, candidate: int = 0) -> list[list[int]]:
    return [ids[keep].tolist() for ids, keep in zip(found.tokens[:, candidate], found.valid[:, candidate], strict=True)]


# --- training ---------------------------------------------------------------------------------------------


def states_of(model: EditFlow, monkeypatch: pytest.MonkeyPatch, update: int) -> tuple[OnTheWay, Tensor, Any]:
    """What `loss` is of, which share is done, and its terms."""
    seen: list[tuple[OnTheWay, Tensor]] = []
    original = model.on_the_way

    def spy(batch: Any, share: Tensor, random: RowRandom) -> OnTheWay:
        seen.append((original(batch, share, random), share))
        return seen[-1][0]

    with monkeypatch.context() as patch:
        patch.setattr(model, "on_the_way", spy)
        terms = model.loss(BATCH, update=update)
    return *seen[0], terms


@pytest.mark.parametrize("update", [1, 2])
def test_the_loss_is_that_of_the_paper_but_for_what_no_parameter_changes(
    update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a time of density kappa', kappa' / (1 - kappa) is the density times the weight."""
    model = edit_flow(label_smoothing=0.0, max_weight=3.0, drafts=0.4, sources=0.6, states=1)
    way, shares, terms = states_of(model, monkeypatch, update)
    times = time_of(shares)
    expected = constant = 0.0
    for row, source in enumerate(BATCH.source.to_lists()):
        weight, density = min(3.0, (1 / (1 - shares[row])).item()), 3 * times[row].item() ** 2
        sequence = way.tokens[row][way.present[row]].tolist()
        marked = torch.tensor([[int(Symbol.BOS), *sequence, int(Symbol.EOS)]])
        x = model.net.embed(marked) + model.rates.time(times[row : row + 1])[:, None]
        h = model.net.decoder(model.net.place(x), None, model.net.encode(Source.from_lists([source])))[0]
        hazard = density * weight
        rates = hazard * torch.nn.functional.softplus(model.rates.counts(h))  # insertion, substitution, deletion
        behind, own = (model.net.head_for(None).full(s[None])[0] for s in (model.rates.behind(h), h))
        total = rates[: len(sequence) + 1, 0].sum() + rates[1 : len(sequence) + 1, 1:].sum()
        expected += total.item() / density
        for column in range(way.tokens.size(1)):
            place, token = int(way.place[row, column]), int(way.wanted[row, column])
            if way.inserted[row, column]:
                expected -= weight * (rates[place, 0].log() + behind[place, token]).item()
            elif way.substituted[row, column]:
                expected -= weight * (rates[place, 1].log() + own[place, token]).item()
            elif way.deleted[row, column]:
                expected -= weight * rates[place, 2].log().item()
            else:
                continue
            constant += weight * math.log(hazard) - weight
    assert all(kind.any() for kind in (way.inserted, way.substituted, way.deleted))
    assert terms["rates"].total.item() + terms["token"].total.item() == pytest.approx(expected + constant, abs=1e-8)
    assert terms["nll"].total.item() == pytest.approx(terms["token"].total.item())
    assert {name: term.weight for name, term in terms.items()} == {"rates": 1.0, "token": 1.0, "nll": 0.0}
    assert {term.count.item() for term in terms.values()} == {BATCH.num_target_tokens.item()}


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = edit_flow(drafts=0.8, copying={"enabled": True})
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        terms = model.loss(BATCH, update=4)
        return terms["rates"].total + terms["token"].total

    loss().backward()
    for parameter in (model.rates.counts.weight, model.rates.behind.weight, model.rates.time.widen.weight):
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        assert parameter.grad is not None
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                sides.append(loss().item())
                parameter -= step * direction
        assert (parameter.grad * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_the_canvases_of_a_pair_are_spread_over_time_and_weigh_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, four = edit_flow(states=1), edit_flow(states=4)
    _, shares, terms = states_of(four, monkeypatch, 1)
    shares = shares.view(8, 4)
    assert ((shares * 4).long() == torch.arange(4)).all()
    assert torch.allclose(shares.diff(dim=1), torch.tensor(0.25))
    assert terms["token"].count == BATCH.num_target_tokens
    means = [
        torch.stack([model.loss(BATCH, update=update)["token"].total for update in range(number)]).mean().item()
        for model, number in ((one, 160), (four, 40))
    ]
    assert means[1] == pytest.approx(means[0], rel=0.2)


@pytest.mark.parametrize(("drafts", "sources"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.5), (0.0, 1.0)])
def test_the_shares_of_what_is_edited(drafts: float, sources: float) -> None:
    model = edit_flow(drafts=drafts, sources=sources)
    batch = make_batch([(3, 4)] * 600)
    way = model.on_the_way(batch, torch.zeros(600), RowRandom.of_pairs(batch, seed=1))
    first = kept(Tokens(way.tokens, way.present), way.present)
    copied = [row == source for row, source in zip(first.to_lists(), batch.source.to_lists(), strict=True)]
    assert sum(copied) / 600 == pytest.approx(sources, abs=0.06)
    assert (first.lengths == 0).double().mean().item() == pytest.approx(1 - drafts - sources, abs=0.06)


def test_the_logarithm_of_a_rate_is_finite() -> None:
    x = torch.tensor([-1e4, -200.0, -15.001, -14.999, -1.0, 0.0, 3.0, 1e4], requires_grad=True)
    found = log_softplus(x)
    expected = torch.nn.functional.softplus(x.detach().double()).log()
    assert torch.allclose(found[2:].double(), expected[2:], atol=1e-6)
    assert found[:2].tolist() == [-1e4, -200.0]
    found.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and (x.grad[:6] > 0).all()


# --- decoding with given rates --------------------------------------------------------------------------------


def with_counts(
    model: EditFlow, counts: Callable[[int, tuple[int, ...], float], Counts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model says these numbers of edits; given the first token of the source, the canvas and the time."""

    def states(net: Any, tokens: Tensor, valid: Tensor, time: Tensor, memory: Any) -> Tensor:
        wide = memory if memory.copies == 1 else memory.select(torch.arange(len(memory)))
        firsts, times = wide.tokens[:, 0].tolist(), time.tolist()
        known: dict[Any, int] = {}
        blocks: list[Tensor] = []
        places: list[int] = []
        for row, (ids, length) in enumerate(zip(tokens.tolist(), valid.sum(dim=1).tolist(), strict=True)):
            key = (firsts[row], tuple(ids[:length]), round(times[row], 6))
            if key not in known:
                known[key] = len(blocks)
                blocks.append(block(counts(*key), tokens.size(1) + 1))
            places.append(known[key])
        return torch.stack(blocks)[places]

    def block(left: Counts, width: int) -> Tensor:
        found = torch.zeros(width, 3 + 2 * SIZE, dtype=torch.float64)
        for (kind, place, token), number in left.items():
            column = ("insert", "substitute", "delete").index(kind)
            found[place, column] += number
            if column < 2:
                found[place, 3 + column * SIZE + token] += number
        return found

    def token_states(both: Tensor, behind: Tensor) -> Tensor:
        numbers = both[:, :, 3 : 3 + SIZE].where(behind[:, :, None], both[:, :, 3 + SIZE :])
        numbers = numbers.where(numbers.sum(dim=2, keepdim=True) > 0, 1.0)  # what nobody asks for
        return (numbers / numbers.sum(dim=2, keepdim=True)).log()

    monkeypatch.setattr(model.rates, "states", states)
    monkeypatch.setattr(model.rates, "logits", lambda states: torch.expm1(states[:, :, :3]).log())
    monkeypatch.setattr(model.rates, "token_states", token_states)
    monkeypatch.setattr(model.net, "head", lambda memory: Literal())


def aligned(one: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[int | None, int | None]]:
    """Columns of the alignment."""
    a, b = Target.from_lists([list(one)]), Target.from_lists([list(other)])
    found = align(a.tokens, a.valid, b.tokens, b.valid)
    return [
        (None if i < 0 else one[i], None if j < 0 else other[j])
        for i, j in zip(found.old[0].tolist(), found.new[0].tolist(), strict=True)
        if i >= 0 or j >= 0
    ]


def left_to_do(columns: list[tuple[int | None, int | None]], done: tuple[bool, ...]) -> tuple[tuple[int, ...], Counts]:
    """What stands there, and the edits that are left."""
    sequence: list[int] = []
    edits: Counts = {}
    for (old, new), is_done in zip(columns, done, strict=True):
        here = new if is_done else old
        if here is not None:
            sequence.append(here)
        if is_done or old == new:
            continue
        kind = "insert" if old is None else "delete" if new is None else "substitute"
        key = (kind, len(sequence), 0 if new is None else new)
        edits[key] = edits.get(key, 0.0) + 1.0
    return tuple(sequence), edits


Lists = st.lists(st.integers(NUM_SYMBOLS, NUM_SYMBOLS + 3), max_size=5)


@pytest.mark.parametrize("temperature", [None, 1.0])
@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(Lists, Lists.filter(bool)), min_size=1, max_size=4))
def test_an_oracle_gives_the_target(temperature: float | None, pairs: list[tuple[list[int], list[int]]]) -> None:
    """What it says is so sure that each step does all that it can; a gap that misses n tokens needs n of them."""
    model, factor = MODEL, 1.0 if temperature is None else 1e4

    def counts(number: int, canvas: tuple[int, ...], time: float) -> Counts:
        columns = aligned(canvas, tuple(pairs[number - NUM_SYMBOLS][1]))
        _, edits = left_to_do(columns, (False,) * len(columns))
        first = {key: number for key, number in edits.items() if key == min(k for k in edits if k[:2] == key[:2])}
        return {key: number * factor for key, number in first.items()}

    source = Source.from_lists([[NUM_SYMBOLS + i] for i in range(len(pairs))])
    source = replace(source, draft=draft_of([draft for draft, _ in pairs]))
    with pytest.MonkeyPatch.context() as patch:
        with_counts(model, counts, patch)
        patch.setattr(model, "score_given", lambda canvas, memory: (canvas, torch.zeros(len(canvas)).long()))
        found = decode(model, source, temperature=temperature, max_passes=12)
    assert outputs(found) == [target for _, target in pairs]
    assert not found.truncated.any()


MODEL = edit_flow()

A, B, C = NUM_SYMBOLS, NUM_SYMBOLS + 1, NUM_SYMBOLS + 2
TARGETS = {(A,): 0.2, (A, B): 0.3, (B, A): 0.15, (C, B, B): 0.25, (): 0.1}


def true_counts(start: tuple[int, ...]) -> Callable[[int, tuple[int, ...], float], Counts]:
    """The posterior number of edits that are left, by enumeration of targets and of what is done: the rates of the
    process that leads from `start` to TARGETS are these times the hazard."""
    states = [
        (probability, done, *left_to_do(columns, done))
        for target, probability in TARGETS.items()
        for columns in [aligned(start, target)]
        for done in itertools.product((False, True), repeat=len(columns))
    ]

    def counts(number: int, canvas: tuple[int, ...], time: float) -> Counts:
        share, total = share_done(time), 0.0
        found: Counts = {}
        for probability, done, sequence, edits in states:
            if sequence == canvas:
                weight = probability * share ** sum(done) * (1 - share) ** (len(done) - sum(done))
                total += weight
                for key, left in edits.items():
                    found[key] = found.get(key, 0.0) + weight * left
        return {key: left / total for key, left in found.items()} if total > 0 else {}

    return counts


@pytest.mark.parametrize("start", [(), (A, A, C), (B,)])
def test_with_the_true_rates_samples_follow_the_distribution(
    start: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the steps grow smaller: of 100, the last of which leaves about 1 % of the edits undone."""
    model, number = edit_flow(), 1500
    with_counts(model, true_counts(start), monkeypatch)
    monkeypatch.setattr(model, "score_given", lambda canvas, memory: (canvas, torch.zeros(len(canvas)).long()))
    source = Source.from_lists([[A]])
    if start:
        source = replace(source, draft=draft_of([list(start)]))
    found = decode(model, source, temperature=1.0, num_candidates=number, max_passes=100)
    seen = Counter(tuple(ids[keep].tolist()) for ids, keep in zip(found.tokens[0], found.valid[0], strict=True))
    assert found.passes.tolist() == [100]
    distance = sum(abs(seen[target] / number - share) for target, share in TARGETS.items()) / 2
    assert distance < 0.06
    assert sum(seen[target] for target in TARGETS) / number > 0.94


def test_greedy_ends_where_nothing_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    model = edit_flow()
    with_counts(model, lambda number, canvas, time: {("insert", 0, A): 3.0} if len(canvas) < 3 else {}, monkeypatch)
    found = decode(model, Source.from_lists([[A]]))
    assert outputs(found) == [[A, A, A]] and found.passes.tolist() == [4]
    assert outputs(decode(model, Source.from_lists([[A]]), threshold=3.5)) == [[A]]  # a translation has words
    cut = decode(model, Source.from_lists([[A]]), max_length_factor=0.0, max_length_offset=2)
    assert outputs(cut) == [[A, A]] and cut.truncated.tolist() == [True]


# --- starts and constraints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_fixed_words_stay_and_nothing_is_put_between_them(temperature: float | None) -> None:
    """Of a model that edits everywhere."""
    model = edit_flow(seed=1)
    with torch.no_grad():
        model.rates.counts.bias.fill_(3.0)
    ids = torch.tensor([[[8, 9, 10], [11, 0, 0]], [[12, 12, 0], [0, 0, 0]]])
    source = replace(Source.from_lists([[9, 7], [8]]), phrases=Phrases(ids, ids > 0))
    found = outputs(decode(model, source, temperature=temperature))
    for row, wanted in zip(found, [[8, 9, 10], [12, 12]], strict=True):
        assert any(row[i : i + len(wanted)] == wanted for i in range(len(row)))
        assert len(row) > len(wanted) + 1
    draft = draft_of([[7, 8, 9], [7, 8]])
    draft.fixed[:] = draft.valid
    draft.closed[:] = True
    draft.closed[0, 1] = False
    one, other = outputs(decode(model, replace(source, phrases=None, draft=draft), temperature=temperature))
    assert one[0] == 7 and one[-2:] == [8, 9] and len(one) > 3
    assert other == [7, 8]


def test_the_source_is_a_start() -> None:
    model, source = edit_flow(), make_batch([(4, 1), (2, 1)]).source
    draft = replace(source, draft=draft_of(source.to_lists()))
    copied, drafted = decode(model, source, from_source=True), decode(model, draft)
    assert outputs(copied) == outputs(drafted) != outputs(decode(model, source))
    assert torch.equal(copied.scores, drafted.scores)
    again = decode(model, replace(source, draft=draft_of([[7], [8, 9]])), from_source=True)
    assert outputs(again) == outputs(decode(model, replace(source, draft=draft_of([[7], [8, 9]]))))
    apart = edit_flow(vocabularies=Vocabularies(SIZE, SIZE, shared=False))
    with pytest.raises(ConfigError, match=r"^from_source=true: needs a model with one vocabulary"):
        decode(apart, source, from_source=True)


def test_given_tokens_are_scored_as_insertions_into_the_others() -> None:
    model = edit_flow(seed=2)
    source = make_batch([(4, 1), (3, 1)]).source
    draft = draft_of([[8, 9, 10], [12]])
    draft.fixed[:] = draft.valid
    draft.closed[:] = True
    found = decode(model, replace(source, draft=draft))
    assert outputs(found) == [[8, 9, 10], [12]]
    assert found.passes.tolist() == [3, 3]  # one that changes nothing, and two for the scores
    for row, (ids, hidden) in enumerate([([8, 9, 10], [(0, 2), (1,)]), ([12], [(0,), ()])]):
        memory = model.net.encode(Source.from_lists([source.to_lists()[row]]))
        score = 0.0
        for places in hidden:
            seen = [token for i, token in enumerate(ids) if i not in places]
            shown = Target.from_lists([seen])
            time = torch.tensor([(len(seen) / len(ids)) ** (1 / 3)])
            with torch.no_grad():
                states = model.rates.states(model.net, shown.tokens, shown.valid, time, memory)
                log_probs = model.net.head(memory).full(model.rates.behind(states))[0]
            for i in places:
                before = sum(1 for j in range(i) if j not in places)
                score += log_probs[before, ids[i]].item()
        assert found.scores[row, 0].item() == pytest.approx(score, abs=1e-5)


def test_the_history_says_what_was_inserted_substituted_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(number: int, canvas: tuple[int, ...], time: float) -> Counts:
        if canvas != (A, B, A):
            return {}
        return {("substitute", 1, C): 1.0, ("delete", 2, 0): 1.0, ("insert", 3, B): 1.0}

    model = edit_flow()
    with_counts(model, counts, monkeypatch)
    monkeypatch.setattr(model, "score_given", lambda canvas, memory: (canvas, torch.zeros(len(canvas)).long()))
    source = replace(Source.from_lists([[A]]), draft=draft_of([[A, B, A]]))
    found = decode(model, source, history=True, max_passes=1)
    assert outputs(found) == [[C, A, B]]
    (history,) = found.history
    fates = [Fate.DELETED, Fate.WRITTEN, Fate.DELETED, Fate.KEPT, Fate.INSERTED]
    assert history.tokens[0, 0].tolist() == [A, C, B, A, B]
    assert history.fate[0, 0].tolist() == [int(fate) for fate in fates]


# --- refusals and limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafts": 0.0, "draft_noise": 0.2}, r"^model\.draft_noise=0\.2: has no effect with drafts=0"),
        ({"drafts": 0.6, "sources": 0.5}, r"^model\.drafts=0\.6, sources=0\.5: must be at most 1 together"),
        (
            {"sources": 0.5, "vocabularies": Vocabularies(SIZE, SIZE, shared=False)},
            "^sources=0.5: needs one vocabulary for source and target, data.tokenizer.joint=true",
        ),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edit_flow(**options)


def test_a_threshold_is_refused_where_samples_are_drawn() -> None:
    with pytest.raises(ConfigError, match=r"^threshold=0.4: has no effect with temperature"):
        EditFlow.Decoding(threshold=0.4, temperature=1.0)


def test_it_does_not_score() -> None:
    with pytest.raises(ConfigError, match="EditFlow cannot score given targets"):
        MODEL.score(BATCH)


def test_learned_positions_hold_all_of_both_sides() -> None:
    positions: dict[str, Any] = {"positions": {"kind": "learned", "max_length": 8}}
    batch = make_batch([(8, 3), (8, 4), (3, 3), (2, 6), (2, 7)])
    assert edit_flow(**positions).learnable(batch).tolist() == [True, False, True, False, False]
    assert edit_flow(drafts=0.0, **positions).learnable(batch).tolist() == [True, True, True, True, False]
    assert edit_flow(drafts=0.0, sources=0.5, **positions).learnable(batch).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
