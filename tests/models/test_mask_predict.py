"""Mask-Predict against the paper by hand, and with oracles that know the translation."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import VOCABULARIES, make_batch, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CANVAS_TARGETS, canvas_oracle, probability_of, right
from torch import Tensor

from nat.data.batch import Batch, Phrases, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.decoding.requests import Wanted, attach
from nat.models.contract import Translation
from nat.models.mask_predict import MaskPredict
from nat.nn.transformer import Memory
from nat.search.canvas import Canvas, Fate
from nat.search.editing import held_out
from nat.search.masks import first_canvas, masked_canvas, with_phrases

MASK = int(Symbol.MASK)
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6)])


def mask_predict(**options: Any) -> MaskPredict:
    model = make_model("mask_predict", **({"dtype": torch.float64} | options))
    assert isinstance(model, MaskPredict)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(3)  # sharper than at initialisation
    return model


# --- training ---------------------------------------------------------------------------------------


def test_the_number_of_masks_is_uniform_and_they_are_anywhere() -> None:
    model, number = mask_predict(), 4000
    tokens = torch.arange(number)[:, None] % 13 + NUM_SYMBOLS
    rest = torch.randint(NUM_SYMBOLS, NUM_SYMBOLS + 13, (number, 5), generator=torch.Generator().manual_seed(0))
    valid = torch.ones(number, 6, dtype=torch.bool)
    valid[:, 5] = False
    batch = Batch(Source(tokens, tokens > 0), Target(torch.cat((tokens, rest), dim=1).masked_fill(~valid, 0), valid))
    hidden = model.hidden(batch, 3)
    assert not (hidden & ~valid).any()
    share = hidden.sum(dim=1).bincount(minlength=6) / number
    assert torch.allclose(share, torch.tensor([0.0] + [0.2] * 5), atol=0.03)
    assert torch.allclose(hidden[:, :5].float().mean(dim=0), torch.tensor(0.6), atol=0.03)
    one = hidden[hidden.sum(dim=1) == 1][:, :5].float().mean(dim=0)
    assert torch.allclose(one, torch.tensor(0.2), atol=0.06)
    assert not torch.equal(model.hidden(batch, 4), hidden)


def test_masked_positions_alone_are_hidden_and_receive_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mask_predict(label_smoothing=0.1)
    seen: list[tuple[Tensor, Tensor]] = []
    original = model.states

    def spy(tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        states = original(tokens, valid, memory)
        states.retain_grad()
        seen.append((tokens, states))
        return states

    monkeypatch.setattr(model, "states", spy)
    terms, hidden = model.loss(BATCH, update=2), model.hidden(BATCH, 2)
    ((tokens, states),) = seen
    log_probs = model.net.head_for(None).full(states)
    assert torch.equal(tokens, BATCH.target.tokens.masked_fill(hidden, MASK))
    assert terms["cross_entropy"].count == hidden.sum()
    terms["cross_entropy"].total.backward()
    assert states.grad is not None
    assert torch.equal((states.grad != 0).any(dim=2), hidden)
    assert 0 < hidden.sum() < BATCH.num_target_tokens
    nll = -log_probs.gather(2, BATCH.target.tokens[:, :, None]).squeeze(2)[hidden].sum()
    assert terms["nll"].total.item() == pytest.approx(nll.item())


# --- decoding, by hand ------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(
    model: MaskPredict, source: list[int], length: int, passes: int
) -> tuple[list[int], list[float], list[int]]:
    """All passes, over lists: tokens, their log-probabilities, and the number of masks after each pass."""
    memory, _ = model.length.encode(model.net, Source.from_lists([source]))
    tokens, scores, masked, numbers = [MASK] * length, [0.0] * length, list(range(length)), []
    valid = torch.ones(1, length, dtype=torch.bool)
    for t in range(1, passes + 1):
        seen = [MASK if i in masked else token for i, token in enumerate(tokens)]
        best = model.log_probs(torch.tensor([seen]), valid, memory)[0].max(dim=1)
        for i in masked:
            tokens[i], scores[i] = best.indices[i].item(), best.values[i].item()
        count = length * (passes - t) // passes
        masked = sorted(range(length), key=lambda i: scores[i])[:count]
        numbers.append(count)
    return tokens, scores, numbers


def decode(model: MaskPredict, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=MaskPredict.Decoding(**options))


@pytest.mark.parametrize("passes", [1, 2, 3, 4, 10])
def test_decoding_is_the_papers_loop(passes: int) -> None:
    """Each row alone, every pass made: so a row that finishes early loses nothing."""
    model = mask_predict(length={"max_offset": 5}, seed=1)
    source = make_batch([(5, 1), (1, 1), (7, 1), (12, 1)]).source
    found = decode(model, source, max_passes=passes, length_beam=3, num_candidates=3, history=True)
    masks = [(history.fate == Fate.MASKED).sum(dim=2) for history in found.history]  # (B, P) of each candidate
    for row, ids in enumerate(source.to_lists()):
        needed = []
        for k in range(3):
            length = int(found.valid[row, k].sum())
            tokens, scores, numbers = by_hand(model, ids, length, passes)
            assert found.tokens[row, k, :length].tolist() == tokens
            assert found.history[k].tokens[row, :, :length][numbers.index(0)].tolist() == tokens
            confidence = found.history[k].confidence[row, numbers.index(0), :length]
            assert confidence.tolist() == pytest.approx(scores, abs=1e-5)
            assert masks[k][row].tolist() == numbers[: masks[k].size(1)]
            needed.append(numbers.index(0) + 1)
        assert found.passes[row] == max(needed)


@pytest.mark.parametrize("passes", [3, 10])
def test_later_passes_change_only_what_was_masked(passes: int) -> None:
    model = mask_predict(seed=1)
    source = make_batch([(9, 1), (12, 1), (4, 1)]).source
    (history,) = decode(model, source, max_passes=passes, length_beam=1, history=True).history
    changed = 0
    for t in range(1, history.fate.size(1)):
        masked = history.fate[:, t - 1] == Fate.MASKED
        going = (history.fate[:, t] != Fate.NONE).any(dim=1)
        still = ~masked & going[:, None]
        assert torch.equal(history.tokens[:, t][still], history.tokens[:, t - 1][still])
        assert torch.equal(history.confidence[:, t][still], history.confidence[:, t - 1][still])
        written = history.fate[:, t] == Fate.WRITTEN
        assert not (written & ~masked).any()
        changed += int((history.confidence[:, t] != history.confidence[:, t - 1])[masked].sum())
    assert changed > 0


def test_one_pass_is_the_arg_max_of_nothing_but_masks() -> None:
    model, source = mask_predict(), make_batch([(6, 1), (3, 1)]).source
    found = decode(model, source, max_passes=1, length_beam=1)
    assert found.passes.tolist() == [1, 1]
    for row, ids in enumerate(source.to_lists()):
        length = int(found.valid[row, 0].sum())
        assert found.tokens[row, 0, :length].tolist() == by_hand(model, ids, length, 1)[0]


def test_the_choice_of_the_length_beam_has_the_highest_mean_log_probability() -> None:
    model = mask_predict(length={"max_offset": 5}, seed=4)
    source = make_batch([(9, 1), (6, 1), (7, 1)]).source
    found = decode(model, source, max_passes=3, length_beam=5, num_candidates=5)
    alone = decode(model, source, max_passes=3, length_beam=5)
    for row, ids in enumerate(source.to_lists()):
        lengths = found.valid[row].sum(dim=1).tolist()
        assert len(set(lengths)) == 5
        means = [sum(by_hand(model, ids, length, 3)[1]) / length for length in lengths]
        assert means == sorted(means, reverse=True)
        assert torch.equal(alone.tokens[row, 0][alone.valid[row, 0]], found.tokens[row, 0][found.valid[row, 0]])


def test_samples_are_of_every_pass() -> None:
    model, source = mask_predict(), make_batch([(9, 1), (6, 1)]).source
    several = {"temperature": 1.0, "length_beam": 1, "history": True}
    three = decode(model, source, num_candidates=3, **several)
    two = decode(model, source, num_candidates=2, **several)
    assert torch.equal(two.tokens, three.tokens[:, :2])
    assert not torch.equal(three.tokens[:, 0], three.tokens[:, 1])
    other = decode(model, source, num_candidates=2, seed=9, **several)
    assert not torch.equal(other.tokens, two.tokens)
    random = MaskPredict.Decoding(num_candidates=3, temperature=1.0, length_beam=1).random(source)
    assert random is not None
    with torch.no_grad():
        memory, _ = model.length.encode(model.net, source)
    for k, history in enumerate(three.history):
        own = random.select(torch.arange(2) * 3 + k)
        valid = history.fate[:, 0] != Fate.NONE
        before, hidden = torch.zeros_like(history.tokens[:, 0]), valid
        for p in range(history.tokens.size(1)):
            with torch.no_grad():
                log_probs = model.log_probs(before.masked_fill(hidden, MASK), valid, memory)
            drawn = own.fork(p + 1).sample(log_probs)
            assert torch.equal(history.tokens[:, p][hidden], drawn[hidden])
            before, hidden = history.tokens[:, p], history.fate[:, p] == Fate.MASKED
        assert p == 3


# --- oracles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2, 4, 7, 10])
@pytest.mark.parametrize(("beam", "rank"), [(1, 1), (3, 1), (3, 3)])
def test_an_oracle_gives_its_translation_at_any_number_of_passes(
    passes: int, beam: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        wanted, lengths = right(tokens, memory)
        sure = torch.where(lengths == valid.sum(dim=1), 0.9, 0.4)[:, None]  # of the right length it is surer
        spread = 0.005 * (torch.arange(tokens.size(1)) * 5 % 7)
        return probability_of(wanted, (sure + spread).double())

    model = mask_predict()
    source = canvas_oracle(model, monkeypatch, oracle, rank=rank)
    _, length_log_probs = model.length.encode(model.net, source)
    lengths, _ = model.length.best(length_log_probs, source.lengths, 3, limit=None)
    assert lengths[2, rank - 1] == 7
    found = decode(model, source, max_passes=passes, length_beam=beam)
    assert [t[0][keep[0]].tolist() for t, keep in zip(found.tokens, found.valid, strict=True)] == CANVAS_TARGETS


@pytest.mark.parametrize(("passes", "correct"), [(1, [1]), (3, [1, 3]), (7, [0, 1, 2, 3])])
def test_an_oracle_that_reads_from_the_left_needs_as_many_passes_as_tokens(
    passes: int, correct: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows a token, and is sure, where it sees the one before."""

    def oracle(tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        wanted, _ = right(tokens, memory)
        seen = torch.nn.functional.pad(tokens[:, :-1] == wanted[:, :-1], (1, 0), value=True)
        return probability_of(torch.where(seen, wanted, NUM_SYMBOLS + 12), torch.where(seen, 0.9, 0.5).double())

    model = mask_predict()
    source = canvas_oracle(model, monkeypatch, oracle, rank=1)
    found = decode(model, source, max_passes=passes, length_beam=1)
    outputs = [t[0][keep[0]].tolist() for t, keep in zip(found.tokens, found.valid, strict=True)]
    assert [i for i, target in enumerate(CANVAS_TARGETS) if outputs[i] == target] == correct
    assert [len(output) for output in outputs] == [len(target) for target in CANVAS_TARGETS]


# --- drafts and phrases -----------------------------------------------------------------------------


def asking(
    rows: list[list[int]], drafts: list[list[int]] | None = None, phrases: list[list[list[int]]] | None = None
) -> Source:
    wanted = [
        Wanted(draft, False, [False] * (len(draft) + 1), own)
        for draft, own in zip(drafts or [[] for _ in rows], phrases or [[] for _ in rows], strict=True)
    ]
    return attach(Source.from_lists(rows), wanted)


def contains(tokens: list[int], phrase: list[int]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens)))


def outputs(model: MaskPredict, source: Source, **options: Any) -> list[list[int]]:
    with torch.no_grad():
        found = model.decode(source, decoding=MaskPredict.Decoding(**options))
    return [row[keep].tolist() for row, keep in zip(found.tokens[:, 0], found.valid[:, 0], strict=True)]


ASKED = mask_predict()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_phrases_stand_whole_in_every_translation(seed: int) -> None:
    chooser = random.Random(seed)

    def words(low: int, high: int) -> list[int]:
        return [chooser.randrange(NUM_SYMBOLS, VOCABULARIES.target_size) for _ in range(chooser.randint(low, high))]

    rows = [words(1, 6) for _ in range(5)]
    drafts = [words(1, 7) if chooser.random() < 0.5 else [] for _ in rows]
    phrases = [[words(1, 3) for _ in range(chooser.randint(0, 3))] for _ in rows]
    for found, own in zip(outputs(ASKED, asking(rows, drafts, phrases), length_beam=2), phrases, strict=True):
        assert all(contains(found, phrase) for phrase in own), (found, own)
        assert int(Symbol.MASK) not in found


def test_a_row_does_not_see_what_is_asked_of_others() -> None:
    model = mask_predict()
    rows, drafts = [[9, 10, 11], [12, 13], [9]], [[], [10, 11, 12, 13], []]
    phrases: list[list[list[int]]] = [[], [], [[12, 13], [9]]]
    together = outputs(model, asking(rows, drafts, phrases))
    alone = [outputs(model, asking([r], [d], [p]))[0] for r, d, p in zip(rows, drafts, phrases, strict=True)]
    assert together == alone
    assert together[0] == outputs(model, Source.from_lists(rows))[0]


def every_other_hidden(model: MaskPredict, canvas: Canvas, memory: Memory) -> Tensor:
    return held_out(lambda tokens: model.log_probs(tokens, canvas.valid, memory), canvas, canvas.valid, symbol=MASK)


def test_a_draft_is_changed_where_it_is_least_probable_and_keeps_its_length() -> None:
    model = mask_predict()
    source = asking([[9, 10, 11]], [[12, 13, 14, 15, 16, 17]])
    assert outputs(model, source, remask=0.0) == [[12, 13, 14, 15, 16, 17]]
    (half,) = outputs(model, source, remask=0.5, max_passes=1)
    memory, _ = model.length.encode(model.net, source)
    canvas, _ = first_canvas(source, torch.tensor([2]))
    with torch.no_grad():
        scores = every_other_hidden(model, canvas, memory)[0].gather(1, canvas.tokens[0][:, None]).squeeze(1)
    surest = scores.argsort(descending=True)[:3].tolist()
    assert [half[i] for i in surest] == [12 + i for i in surest]
    assert len(half) == 6


def test_held_out_probabilities_are_those_of_hidden_positions() -> None:
    model = mask_predict()
    source = Source.from_lists([[9, 10, 11]])
    canvas, _ = first_canvas(asking([[9, 10, 11]], [[12, 13, 14]]), torch.tensor([1]))
    with torch.no_grad():
        memory, _ = model.length.encode(model.net, source)
        found = every_other_hidden(model, canvas, memory)
        even = model.log_probs(torch.tensor([[MASK, 13, MASK]]), canvas.valid, memory)
        odd = model.log_probs(torch.tensor([[12, MASK, 14]]), canvas.valid, memory)
    assert torch.allclose(found[0, [0, 2]], even[0, [0, 2]])
    assert torch.allclose(found[0, 1], odd[0, 1])


def test_a_phrase_goes_where_it_costs_least_and_stays_where_a_draft_has_it() -> None:
    canvas = masked_canvas(torch.tensor([4]))
    log_probs = torch.full((1, 4, VOCABULARIES.target_size), -10.0)
    log_probs[0, :, 8] = -1.0  # what the model would write
    log_probs[0, 2, 9] = -1.5
    log_probs[0, 1, 10] = -2.0
    phrases = Phrases(torch.tensor([[[9], [10]]]), torch.ones(1, 2, 1, dtype=torch.bool))
    placed = with_phrases(canvas, phrases, log_probs, orders=2)
    assert placed.tokens.tolist() == [[MASK, 10, 9, MASK]]
    assert placed.fixed.tolist() == [[False, True, True, False]]
    in_order = with_phrases(canvas, phrases, log_probs, orders=1)
    assert in_order.tokens.tolist() == [[MASK, MASK, 9, 10]]
    drafted = replace(canvas, tokens=torch.tensor([[9, 8, 8, 8]]))
    assert with_phrases(drafted, phrases, log_probs, orders=2).tokens.tolist() == [[9, 10, 8, 8]]


@pytest.mark.parametrize("asked", [{"drafts": [[12, 13, 14], []]}, {"phrases": [[[12]], []]}])
def test_the_calls_that_look_at_what_is_asked_are_counted(asked: dict[str, Any]) -> None:
    model = mask_predict()
    source = asking([[9, 10, 11], [9, 10, 11]], **asked)
    with torch.no_grad():
        found = model.decode(source, decoding=MaskPredict.Decoding(max_passes=1))
    assert found.passes.tolist() == [3, 1]


def test_a_draft_has_one_candidate_scored_with_its_own_length() -> None:
    model = mask_predict(length={"max_offset": 5})
    rows, drafts = [[9, 10, 11], [9, 10, 11], [9]], [[12, 13, 14, 15, 16], [], [8, 9, 10, 11, 12, 13, 14, 15]]
    options: dict[str, Any] = {"length_beam": 4, "num_candidates": 4, "remask": 0.0, "max_passes": 2}
    found = decode(model, asking(rows, drafts), **options)
    assert (found.scores > -torch.inf).tolist() == [
        [True] + [False] * 3,
        [True] * 4,
        [False] * 4,
    ]  # one is out of reach
    canvas, _ = first_canvas(asking(rows[:1], drafts[:1]), torch.tensor([1]))
    with torch.no_grad():
        memory, lengths = model.length.encode(model.net, Source.from_lists(rows[:1]))
        tokens = every_other_hidden(model, canvas, memory)[0].gather(1, canvas.tokens[0][:, None]).sum()
    assert found.scores[0, 0].item() == pytest.approx(tokens.item() + lengths[0, 5 + 2].item())
    for row in range(3):
        alone = decode(model, asking(rows[row : row + 1], drafts[row : row + 1]), **options)
        assert alone.passes[0] == found.passes[row]
        assert alone.scores[0].tolist() == pytest.approx(found.scores[row].tolist())
        assert alone.tokens[0, 0][alone.valid[0, 0]].tolist() == found.tokens[row, 0][found.valid[row, 0]].tolist()
    samples = decode(model, asking(rows[:1], drafts[:1]), temperature=1.0, num_candidates=3, length_beam=1, remask=1.0)
    assert torch.isfinite(samples.scores).all()
    assert len({tuple(ids) for ids in samples.tokens[0].tolist()}) > 1


def test_lengths_that_phrases_stretch_to_one_and_the_same_are_one_candidate() -> None:
    model = mask_predict(length={"max_offset": 5})
    source = asking([[9, 10]], phrases=[[[12, 13, 14, 15, 16]]])
    found = decode(model, source, length_beam=4, num_candidates=4)
    lengths = found.valid[0].sum(dim=1)[found.scores[0] > -torch.inf].tolist()
    assert len(lengths) == len(set(lengths)) < 4
    assert min(lengths) == 5
