"""Partial sequences, spans, weights and losses of insertion against loops over slots and spans."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import factored_log_probs, joint_log_probs
from torch import Tensor

from nat.nn.rng import RowRandom
from nat.ops.editing import gaps
from nat.ops.insertion import (
    Partial,
    SlotScores,
    insertion_losses,
    kept_at_random,
    sequence_ends,
    shortened,
    slot_ends,
    slot_log_probs,
    tree_weights,
    uniform_weights,
)

VOCABULARY, END, FORBIDDEN = 6, 5, [0, 2]
KEPT = st.lists(st.lists(st.booleans(), max_size=7), min_size=1, max_size=4)  # of each row, whether a position is kept
MANY = settings(deadline=None, max_examples=60)
TEMPERATURES = st.sampled_from([0.001, 0.5, 1.0, 2.0, 1e6])


def padded(rows: list[list[bool]]) -> tuple[Tensor, Tensor]:
    """kept, with junk in the padding, and valid."""
    width = max(1, *map(len, rows), 1)
    kept = torch.tensor([row + [True] * (width - len(row)) for row in rows])
    return kept, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def spans_of(row: list[bool]) -> list[list[int]]:
    """The missing positions of every slot of a row."""
    spans: list[list[int]] = [[]]
    for position, is_kept in enumerate(row):
        if is_kept:
            spans.append([])
        else:
            spans[-1].append(position)
    return spans


def weight_of(position: int, span: list[int], temperature: float | None) -> float:
    """Of a position of a span; None: uniform."""
    if temperature is None:
        return 1 / len(span)
    centre = (span[0] + span[-1]) / 2
    nearest = min(abs(i - centre) for i in span)
    heights = {i: math.exp((nearest - abs(i - centre)) / temperature) for i in span}
    return heights[position] / sum(heights.values())


# --- what is shown ----------------------------------------------------------------------------------


@given(KEPT)
def test_every_missing_position_belongs_to_the_slot_between_its_kept_neighbours(rows: list[list[bool]]) -> None:
    kept, valid = padded(rows)
    partial = shortened(kept, valid)
    for i, row in enumerate(rows):
        spans = spans_of(row)
        assert partial.origin[i][partial.valid[i]].tolist() == [p for p, is_kept in enumerate(row) if is_kept]
        assert partial.slots[i].sum() == len(spans)
        for g in range(partial.first.size(1)):
            span = spans[g] if g < len(spans) else []
            assert list(range(int(partial.first[i, g]), int(partial.last[i, g]) + 1)) == span
            assert partial.filled[i, g] == bool(span)
            assert all(partial.slot[i, p] == g for p in span)
        assert partial.missing[i].nonzero().flatten().tolist() == [p for span in spans for p in span]
    assert partial.slot.max() < partial.first.size(1)  # also on padding: it is used as an index


def test_the_number_kept_is_uniform_and_every_subset_of_it_as_probable() -> None:
    count, length = 6000, 3
    random = RowRandom(torch.arange(count)).fork(0)
    valid = torch.ones(count, length, dtype=torch.bool)
    kept = kept_at_random(valid, random.uniform(), random.fork(1).uniform(length))
    found = Counter(tuple(row) for row in kept.tolist())
    assert len(found) == 2**length
    for subset, number in found.items():
        expected = count / (length + 1) / math.comb(length, sum(subset))
        assert abs(number - expected) < 5 * math.sqrt(expected)


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=4), st.integers(0, 1000))
def test_only_removable_positions_are_removed(rows: list[list[bool]], seed: int) -> None:
    removable, valid = padded(rows)
    random = RowRandom(torch.arange(len(rows)) + 100 * seed).fork(0)
    share, noise = random.uniform(), random.fork(1).uniform(valid.size(1))
    kept = kept_at_random(valid, share, noise, removable=removable)
    assert (kept | removable)[valid].all()
    assert not kept[~valid].any()
    sizes = (removable & valid).sum(dim=1)
    for extreme, expected in ((0.0, 0 * sizes), (1.0, sizes)):  # k = 0 and k = n
        kept = kept_at_random(valid, torch.full_like(share, extreme), noise, removable=removable)
        assert (kept & removable).sum(dim=1).equal(expected)
    wide = torch.nn.functional.pad(valid, (0, 2))
    again = kept_at_random(wide, share, random.fork(1).uniform(wide.size(1)))
    assert again[:, : valid.size(1)].equal(kept_at_random(valid, share, noise))


# --- weights ----------------------------------------------------------------------------------------


@MANY
@given(KEPT, st.one_of(st.none(), TEMPERATURES))
def test_weights_are_the_softmax_over_each_span(rows: list[list[bool]], temperature: float | None) -> None:
    partial = shortened(*padded(rows))
    if temperature is None:
        weights = uniform_weights(partial, dtype=torch.float64)
    else:
        weights = tree_weights(partial, temperature=temperature, dtype=torch.float64)
    expected = torch.zeros_like(weights)
    for i, row in enumerate(rows):
        for span in spans_of(row):
            for position in span:
                expected[i, position] = weight_of(position, span, temperature)
    assert weights.dtype == torch.float64
    assert torch.allclose(weights, expected, rtol=0, atol=1e-12)


def test_the_temperature_leads_from_the_centre_to_uniform() -> None:
    partial = shortened(*padded([[False] * 5, [False] * 4]))
    sharp = tree_weights(partial, temperature=1e-6)
    assert sharp.tolist() == [[0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0]]
    assert torch.allclose(tree_weights(partial, temperature=1e6), uniform_weights(partial), atol=1e-5)
    soft = tree_weights(partial, temperature=1.0)[0]
    assert soft[2] / soft[1] == pytest.approx(math.e, rel=1e-5)
    assert soft[2] / soft[0] == pytest.approx(math.e**2, rel=1e-5)


# --- losses -----------------------------------------------------------------------------------------


def loss_by_loops(
    logits: Tensor,
    slot_logits: Tensor | None,
    tokens: Tensor,
    rows: list[list[bool]],
    *,
    temperature: float | None,
    whole_sequence: bool,
    label_smoothing: float,
) -> Tensor:
    """The loss of each row, slot by slot and token by token; slot_logits: factored, else joint."""
    losses = []
    for i, row in enumerate(rows):
        spans = spans_of(row)
        scores = logits[i, : len(spans)]
        if slot_logits is None:
            p = torch.softmax(scores.flatten(), dim=0).view_as(scores)
        else:
            p = torch.softmax(scores, dim=1) * torch.softmax(slot_logits[i, : len(spans)], dim=0)[:, None]
        terms = []
        for g, span in enumerate(spans):
            if span:
                target = sum(-p[g, tokens[i, t]].log() * weight_of(t, span, temperature) for t in span)
            elif not whole_sequence or all(row):
                target = -p[g, END].log()
            else:
                continue
            allowed = [c for c in range(VOCABULARY) if c not in FORBIDDEN]
            spread = sum(-p[g, c].log() for c in allowed) / len(allowed)
            terms.append((1 - label_smoothing) * target + label_smoothing * spread)
        losses.append(sum(terms) / len(terms))
    return torch.stack([torch.as_tensor(loss) for loss in losses])


def loss_by_tensors(
    logits: Tensor,
    slot_logits: Tensor | None,
    tokens: Tensor,
    partial: Partial,
    *,
    temperature: float | None,
    whole_sequence: bool,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    slots = partial.slots
    weights = (
        uniform_weights(partial, dtype=logits.dtype)
        if temperature is None
        else tree_weights(partial, temperature=temperature, dtype=logits.dtype)
    )
    given = SlotScores.of(logits, tokens, partial, end=END, with_mean=label_smoothing > 0, forbidden=FORBIDDEN)
    scores = given.located(given.normaliser if slot_logits is None else slot_logits, partial, slots)
    ends = (sequence_ends if whole_sequence else slot_ends)(partial, slots)
    return insertion_losses(scores, weights, partial, ends, label_smoothing=label_smoothing)


def problem(rows: list[list[bool]], seed: int) -> tuple[Tensor, Tensor, Tensor, Partial]:
    """logits (B, G, V), -inf at forbidden contents, slot logits (B, G), tokens with 0 on padding, partial."""
    generator = torch.Generator().manual_seed(seed)
    kept, valid = padded(rows)
    partial = shortened(kept, valid)
    logits = torch.randn((*partial.first.shape, VOCABULARY), generator=generator, dtype=torch.float64)
    logits[:, :, FORBIDDEN] = -torch.inf
    slot_logits = torch.randn(partial.first.shape, generator=generator, dtype=torch.float64)
    ordinary = torch.tensor([1, 3, 4])
    tokens = ordinary[torch.randint(3, valid.shape, generator=generator)].where(valid, 0)
    return logits.requires_grad_(), slot_logits.requires_grad_(), tokens, partial


@MANY
@given(
    KEPT,
    st.integers(0, 1000),
    st.booleans(),
    st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0])),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
)
def test_the_loss_and_its_gradient_are_those_of_loops(
    rows: list[list[bool]], seed: int, joint: bool, temperature: float | None, whole: bool, smoothing: float
) -> None:
    logits, slot_logits, tokens, partial = problem(rows, seed)
    options: dict[str, Any] = {"temperature": temperature, "whole_sequence": whole, "label_smoothing": smoothing}
    given_slots = None if joint else slot_logits
    inputs = [logits] if joint else [logits, slot_logits]
    found, plain = loss_by_tensors(logits, given_slots, tokens, partial, **options)
    expected = loss_by_loops(logits, given_slots, tokens, rows, **options)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    factors = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)  # rows must not mix
    gradients = [torch.autograd.grad((loss * factors).sum(), inputs) for loss in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
    without = loss_by_loops(logits, given_slots, tokens, rows, **options | {"label_smoothing": 0.0})
    assert torch.allclose(plain, without, rtol=0, atol=1e-10)
    assert not plain.requires_grad


def test_the_gradient_agrees_with_differences() -> None:
    rows = [[False, True, False, False], [True, True], [False]]
    logits, slot_logits, tokens, partial = problem(rows, 3)
    allowed = [c for c in range(VOCABULARY) if c not in FORBIDDEN]

    def losses(finite: Tensor, where: Tensor) -> Tensor:
        whole = torch.full_like(logits, -torch.inf).index_copy(2, torch.tensor(allowed), finite)
        total = torch.zeros(len(rows), dtype=torch.float64)
        for slots in (None, where):
            options: dict[str, Any] = {"temperature": 1.0, "whole_sequence": False, "label_smoothing": 0.1}
            total = total + loss_by_tensors(whole, slots, tokens, partial, **options)[0]
        return total

    finite = logits.detach()[:, :, allowed].requires_grad_()
    assert torch.autograd.gradcheck(losses, (finite, slot_logits))


def test_probabilities_of_slots_make_one_softmax_of_all_contents() -> None:
    logits, slot_logits, _, partial = problem([[True, False, True], [True], []], 1)
    given_slot, only_first = logits.log_softmax(dim=2), gaps(torch.zeros_like(partial.valid))
    for slots in (partial.slots, only_first):  # a caller may close slots
        joint = given_slot + slot_log_probs(logits.logsumexp(dim=2), slots)[:, :, None]
        factored = given_slot + slot_log_probs(slot_logits, slots)[:, :, None]
        for found, expected in (
            (joint, joint_log_probs(logits, slots)),
            (factored, factored_log_probs(logits, slot_logits, slots)),
        ):
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)
            assert found.exp().sum(dim=(1, 2)).tolist() == pytest.approx([1.0] * 3)


def test_closed_slots_neither_end_nor_count() -> None:
    """As in a sequence of which one side is given whole: its slots have no target."""
    kept, valid = padded([[True, True, False, True]])
    partial = shortened(kept, valid)
    slots = torch.tensor([[False, False, True, True]])
    assert slot_ends(partial, slots).tolist() == [[False, False, False, True]]
    assert not sequence_ends(partial, slots).any()
    logits = torch.randn(1, 4, VOCABULARY, dtype=torch.float64)
    log_probs = joint_log_probs(logits, slots)
    tokens, weights = torch.full_like(kept, 4, dtype=torch.long), uniform_weights(partial, dtype=torch.float64)
    given = SlotScores.of(logits, tokens, partial, end=END)
    scores = given.located(given.normaliser, partial, slots)
    loss, _ = insertion_losses(scores, weights, partial, slot_ends(partial, slots))
    assert loss.item() == pytest.approx(-(log_probs[0, 2, 4] + log_probs[0, 3, END]).item() / 2)


# --- the balanced tree ------------------------------------------------------------------------------


def test_inserting_centres_takes_floor_log2_of_n_plus_1_passes_up_to_1023() -> None:
    lengths = torch.arange(1, 1024)
    valid = torch.arange(1023) < lengths[:, None]
    kept, passes = torch.zeros_like(valid), torch.zeros_like(lengths)
    while bool((kept != valid).any()):
        partial = shortened(kept, valid)
        sharp = tree_weights(partial, temperature=1e-3)
        centre = (partial.first + partial.last) // 2
        rows, slots = partial.filled.nonzero(as_tuple=True)
        assert (sharp[rows, centre[rows, slots]] >= 0.5).all()  # the tree's weights point there
        passes += partial.missing.any(dim=1)
        kept[rows, centre[rows, slots]] = True
    assert passes.tolist() == [int(math.log2(n)) + 1 for n in range(1, 1024)]
    assert passes[-1] == 10
