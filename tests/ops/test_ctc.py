"""CTC against the enumeration of every canvas, against PyTorch, and against beam search on a dictionary."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops.ctc import (
    alignable,
    best_alignment,
    collapse,
    ctc_loss,
    ctc_loss_reference,
    min_canvas,
    prefix_beam_search,
)

LOSSES = pytest.mark.parametrize("loss", [ctc_loss, ctc_loss_reference])
PAD = -7  # no id at all: nothing may index with it
SEEDS = st.integers(0, 2**31 - 1)
MANY = settings(deadline=None, max_examples=120)  # a deadline would measure the machine


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


@lru_cache
def canvases(num_slots: int, num_ids: int, blank: int) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Every canvas of num_slots slots, under the target that it collapses to."""
    groups = defaultdict(list)
    for path in itertools.product(range(num_ids), repeat=num_slots):
        groups[collapsed(path, blank)].append(path)
    return dict(groups)


def path_probs(log_probs: Tensor, paths: list[tuple[int, ...]]) -> Tensor:
    """Probability of each path on a canvas (A, V) of its length; differentiable, also at -inf."""
    index = torch.tensor(paths, dtype=torch.long).view(len(paths), len(log_probs))
    return log_probs.exp()[torch.arange(len(log_probs)), index].prod(1)


def padded(rows: list[tuple[int, ...]], width: int) -> tuple[Tensor, Tensor]:
    tokens = [list(row) + [PAD] * (width - len(row)) for row in rows]
    return torch.tensor(tokens, dtype=torch.long).view(len(rows), width), torch.tensor([len(row) for row in rows])


def random_log_probs(seed: int, *shape: int, forbidden: float = 0.0) -> Tensor:
    """Not normalised, so that the gradient in log_probs itself is seen; some entries -inf."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(shape, generator=generator, dtype=torch.double) - 1.5
    return log_probs.masked_fill(torch.rand(shape, generator=generator) < forbidden, -torch.inf)


@st.composite
def problems(draw):
    """(log_probs, targets, canvas_lengths, target_lengths), blank, target tuples; some cannot be aligned."""
    num_ids, num_slots, num_rows = draw(st.integers(2, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    blank = draw(st.integers(0, num_ids - 1))
    token = st.sampled_from([i for i in range(num_ids) if i != blank])
    rows = [tuple(draw(st.lists(token, max_size=4))) for _ in range(num_rows)]
    lengths = torch.tensor([draw(st.integers(0, num_slots)) for _ in rows])
    forbidden = draw(st.sampled_from([0.0, 0.3]))
    log_probs = random_log_probs(draw(SEEDS), num_rows, num_slots, num_ids, forbidden=forbidden)
    targets, target_lengths = padded(rows, max(map(len, rows)) + draw(st.integers(0, 1)))
    return (log_probs, targets, lengths, target_lengths), blank, rows


@MANY
@given(problem=problems())
def test_min_canvas_and_alignable_match_enumeration(problem):
    (_, targets, canvas_lengths, lengths), blank, rows = problem
    fits = [row in canvases(int(slots), 4, blank) for row, slots in zip(rows, canvas_lengths, strict=True)]
    assert alignable(targets, lengths, canvas_lengths).tolist() == fits
    for row, shortest in zip(rows, min_canvas(targets, lengths).tolist(), strict=True):
        assert shortest == 0 or row not in canvases(shortest - 1, 4, blank)
        assert shortest > 5 or row in canvases(shortest, 4, blank)


@LOSSES
@MANY
@given(problem=problems())
def test_loss_and_gradient_match_the_enumeration_of_all_alignments(loss, problem):
    (log_probs, *rest), blank, rows = problem
    log_probs.requires_grad_()
    nll, possible = loss(log_probs, *rest, blank=blank)
    weights = torch.linspace(0.5, 2.0, len(rows), dtype=torch.double)  # rows must not share a gradient
    gradient = torch.autograd.grad((nll * weights).sum(), log_probs)[0]
    expected = torch.zeros_like(nll)
    for b, (row, length) in enumerate(zip(rows, rest[1].tolist(), strict=True)):
        prob = path_probs(log_probs[b, :length], canvases(length, log_probs.size(2), blank).get(row, [])).sum()
        assert possible[b] == (prob > 0)
        if prob > 0:
            expected[b] = -prob.log()
    torch.testing.assert_close(nll, expected, rtol=1e-9, atol=1e-9)
    wanted = (
        torch.autograd.grad((expected * weights).sum(), log_probs, allow_unused=True)[0]
        if expected.requires_grad
        else None
    )
    torch.testing.assert_close(gradient, torch.zeros_like(gradient) if wanted is None else wanted)


@LOSSES
def test_gradcheck(loss):
    log_probs = random_log_probs(3, 3, 5, 4).requires_grad_()
    targets, lengths = padded([(1, 1, 3), (), (3,)], 3)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, targets, torch.tensor([5, 4, 3]), lengths, blank=2)[0], (log_probs,)
    )


def bigger_problem(dtype: torch.dtype = torch.double) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(9, 24, 30, generator=generator, dtype=torch.double).to(dtype).requires_grad_()
    targets = torch.randint(6, 11, (9, 8), generator=generator)  # few ids: adjacent and distant repeats
    return logits, (targets, torch.arange(16, 25), torch.arange(0, 9))


@LOSSES
def test_equals_torch_in_value_and_gradient(loss):
    logits, (targets, canvas_lengths, target_lengths) = bigger_problem()
    log_probs = logits.log_softmax(-1)
    nll, possible = loss(log_probs, targets, canvas_lengths, target_lengths, blank=5)
    twin = F.ctc_loss(log_probs.transpose(0, 1), targets, canvas_lengths, target_lengths, blank=5, reduction="none")
    assert possible.all()
    torch.testing.assert_close(nll, twin)
    gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (nll, twin)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_returns_float32_close_to_double(dtype):
    logits, rest = bigger_problem(dtype)
    log_probs = logits.log_softmax(-1)
    nll, _ = ctc_loss(log_probs, *rest, blank=5)
    exact, _ = ctc_loss_reference(log_probs.double(), *rest, blank=5)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, exact.float())
    gradients = [torch.autograd.grad(value.sum(), log_probs, retain_graph=True)[0] for value in (nll, exact)]
    torch.testing.assert_close(*gradients)


@LOSSES
@pytest.mark.parametrize("forbid", [False, True])
def test_rows_without_an_alignment_are_told_and_touch_nothing(loss, forbid):
    targets, lengths = padded([(1, 1, 1), (1, 2)], 3)
    canvas_lengths = torch.tensor([5 if forbid else 4, 4])
    logits = random_log_probs(1, 2, 1500, 4).requires_grad_()
    log_probs = logits.log_softmax(-1)
    if forbid:  # long enough, but the only token that it may use has probability zero
        log_probs = log_probs.masked_fill(torch.tensor([[True], [False]])[:, :, None], -torch.inf)
        canvas_lengths[0] = 1500
    nll, possible = loss(log_probs, targets, canvas_lengths, lengths, blank=0)
    (gradient,) = torch.autograd.grad(nll.sum(), logits)
    assert possible.tolist() == [False, True]
    assert nll[0] == 0 and nll[1] > 0
    assert gradient.isfinite().all() and not gradient[0].any() and gradient[1].any()


@LOSSES
def test_forbidden_ids_and_garbage_in_padding_leave_finite_gradients(loss):
    logits, rest = bigger_problem()
    forbidden = torch.tensor([0, 1, 2, 3, 4])
    plain = loss(logits[:, :, 5:].log_softmax(-1), rest[0] - 5, *rest[1:], blank=0)[0]
    masked = logits.index_fill(2, forbidden, -torch.inf).log_softmax(-1)
    outside = torch.arange(24) >= rest[1][:, None]
    nll, possible = loss(masked.masked_fill(outside[:, :, None], torch.nan), *rest, blank=5)
    assert possible.all()
    torch.testing.assert_close(nll, plain)
    gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (nll, plain)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][:, :, forbidden].any() and not gradients[0][outside].any()


@LOSSES
def test_nan_is_not_hidden(loss):
    log_probs = random_log_probs(1, 1, 3, 4).index_fill(1, torch.tensor(1), torch.nan)
    nll, _ = loss(log_probs, torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]), blank=0)
    assert nll.isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("deterministic", [False, True])
def test_gpu_equals_cpu(deterministic):
    logits, rest = bigger_problem()
    expected = torch.autograd.grad(ctc_loss(logits.log_softmax(-1), *rest, blank=5)[0].sum(), logits)[0]
    torch.use_deterministic_algorithms(deterministic)
    try:
        nll = ctc_loss(logits.cuda().log_softmax(-1), *(x.cuda() for x in rest), blank=5)[0]
        torch.testing.assert_close(torch.autograd.grad(nll.sum(), logits)[0], expected)
    finally:
        torch.use_deterministic_algorithms(False)


@MANY
@given(problem=problems())
def test_best_alignment_is_the_best_of_all(problem):
    (log_probs, targets, canvas_lengths, target_lengths), blank, rows = problem
    result = best_alignment(log_probs, targets, canvas_lengths, target_lengths, blank=blank)
    assert result.shape == log_probs.shape[:2] and result.dtype == torch.long
    for b, (row, length) in enumerate(zip(rows, canvas_lengths.tolist(), strict=True)):
        path = tuple(result[b, :length].tolist())
        probs = path_probs(log_probs[b, :length], canvases(length, log_probs.size(2), blank).get(row, []))
        assert (result[b, length:] == blank).all()
        if probs.sum() == 0:
            assert set(path) <= {blank}
        else:
            assert collapsed(path, blank) == row
            torch.testing.assert_close(path_probs(log_probs[b, :length], [path])[0], probs.max())


@MANY
@given(
    rows=st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=4),
    extra=st.integers(0, 2),
    left=st.booleans(),
)
def test_collapse_equals_a_loop(rows, extra, left):
    width = max(map(len, rows)) + extra
    expected = []
    for row in rows:
        kept = []
        for i, token in enumerate(row):
            if token != 2 and (i == 0 or row[i - 1] != token):
                kept.append(token)
        expected.append(kept)
    tokens, lengths = padded([tuple(row) for row in rows], width)
    valid = torch.arange(width) < lengths[:, None]
    if left:  # and ids in the padding that look like tokens
        tokens, valid = tokens.flip(1).where(valid.flip(1), 3), valid.flip(1)
        expected = [row[::-1] for row in expected]
    packed, kept_valid = collapse(tokens, valid, blank=2, pad=PAD)
    assert packed.shape == tokens.shape
    assert [row[keep].tolist() for row, keep in zip(packed, kept_valid, strict=True)] == expected
    assert torch.equal(kept_valid, kept_valid.sort(1, descending=True).values)
    assert (packed[~kept_valid] == PAD).all()


def beam_on_a_dictionary(
    log_probs: Tensor, blank: int, width: int, token_beam: int | None, prior: BigramPrior | None = None
) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search as it is written in the paper: prefix -> [ends in blank, ends in token]."""

    def weight(prefix: tuple[int, ...], *, ended: bool = False) -> float:
        return 1.0 if prior is None else math.exp(prior.of(prefix, ended=ended))

    beam = {(): [1.0, 0.0]}
    for probs in log_probs.exp().tolist():
        tokens = sorted((i for i in range(len(probs)) if i != blank), key=lambda i: -probs[i])
        grown: dict = defaultdict(lambda: [0.0, 0.0])
        for prefix, (in_blank, in_token) in beam.items():
            grown[prefix][0] += (in_blank + in_token) * probs[blank]
            if prefix:
                grown[prefix][1] += in_token * probs[prefix[-1]]
            for rank, token in enumerate(tokens):
                if token_beam is None or rank < token_beam or (*prefix, token) in beam:
                    enters = in_blank if prefix[-1:] == (token,) else in_blank + in_token
                    grown[(*prefix, token)][1] += enters * probs[token]
        ranked = sorted(grown.items(), key=lambda item: -sum(item[1]) * weight(item[0]))
        beam = {prefix: mass for prefix, mass in ranked[:width] if sum(mass) > 0}
    found = [(prefix, sum(mass) * weight(prefix, ended=True)) for prefix, mass in beam.items()]
    return sorted(found, key=lambda pair: -pair[1])


def assert_hypotheses(result: tuple[Tensor, Tensor, Tensor], expected: list[tuple[tuple[int, ...], float]]) -> None:
    """One row (N, T), (N,), (N,) of a search holds exactly the expected (target, probability), best first."""
    tokens, lengths, scores = result
    found = [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths.tolist(), strict=True)]
    assert found == [target for target, _ in expected] + [()] * (len(found) - len(expected))
    wanted = torch.tensor([prob for _, prob in expected] + [0.0] * (len(found) - len(expected))).double().log()
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6)
    assert (tokens[torch.arange(tokens.size(1)) >= lengths[:, None]] == PAD).all()


@MANY
@given(seed=SEEDS, num_ids=st.integers(2, 4), lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_full_width_beam_is_the_exhaustive_search(seed, num_ids, lengths):
    blank = seed % num_ids
    log_probs = random_log_probs(seed, len(lengths), 4, num_ids)
    width = num_ids**4
    result = prefix_beam_search(
        log_probs, torch.tensor(lengths), blank=blank, pad=PAD, beam_size=width, num_candidates=width
    )
    for b, length in enumerate(lengths):
        groups = canvases(length, num_ids, blank)
        masses = [(target, float(path_probs(log_probs[b, :length], paths).sum())) for target, paths in groups.items()]
        assert_hypotheses((result[0][b], result[1][b], result[2][b]), sorted(masses, key=lambda pair: -pair[1]))


class BigramPrior:
    """A table (V + 1, V + 1): row 0 for what begins a target, row 1 + i for what follows token i; column V ends it."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def rows(self, prefixes: Tensor, lengths: Tensor) -> Tensor:
        last = prefixes.gather(2, (lengths - 1).clamp(min=0)[:, :, None]).squeeze(2)
        return self.table[torch.where(lengths > 0, last + 1, 0)]  # (B, K, V + 1)

    def extension(self, prefixes: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        return self.rows(prefixes, lengths).gather(2, tokens)

    def ending(self, prefixes: Tensor, lengths: Tensor) -> Tensor:
        return self.rows(prefixes, lengths)[:, :, -1]

    def of(self, target: tuple[int, ...], *, ended: bool = True) -> float:
        path = zip((-1, *target), (*target, self.table.size(1) - 1), strict=True)
        gains = [float(self.table[1 + before, after]) for before, after in path]
        return sum(gains if ended else gains[:-1])


def random_prior(seed: int, num_ids: int) -> BigramPrior:
    generator = torch.Generator().manual_seed(seed + 1)
    return BigramPrior(2 * torch.randn(num_ids + 1, num_ids + 1, generator=generator, dtype=torch.double))


@MANY
@given(seed=SEEDS, num_ids=st.integers(2, 4), lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_full_width_beam_with_a_prior_ranks_all_targets_by_probability_and_prior(seed, num_ids, lengths):
    blank, prior = seed % num_ids, random_prior(seed, num_ids)
    log_probs = random_log_probs(seed, len(lengths), 4, num_ids)
    width = num_ids**4
    options = {"blank": blank, "pad": PAD, "beam_size": width, "num_candidates": width, "prior": prior}
    result = prefix_beam_search(log_probs, torch.tensor(lengths), **options)
    for b, length in enumerate(lengths):
        groups = canvases(length, num_ids, blank)
        masses = [
            (target, float(path_probs(log_probs[b, :length], paths).sum()) * math.exp(prior.of(target)))
            for target, paths in groups.items()
        ]
        assert_hypotheses((result[0][b], result[1][b], result[2][b]), sorted(masses, key=lambda pair: -pair[1]))


@MANY
@given(
    seed=SEEDS,
    num_ids=st.integers(2, 9),
    width=st.integers(1, 5),
    token_beam=st.sampled_from([None, None, 1, 2, 7]),
    forbidden=st.sampled_from([0.0, 0.4]),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_narrow_beam_with_a_prior_equals_the_search_on_a_dictionary(
    seed, num_ids, width, token_beam, forbidden, lengths
):
    """Also: a row sees neither the others nor the slots beyond its canvas."""
    blank, prior = seed % num_ids, random_prior(seed, num_ids)
    log_probs, canvas_lengths = (
        random_log_probs(seed, len(lengths), 9, num_ids, forbidden=forbidden),
        torch.tensor(lengths),
    )
    outside = (torch.arange(9) >= canvas_lengths[:, None])[:, :, None]
    options = {"blank": blank, "pad": PAD, "beam_size": width, "num_candidates": width, "token_beam": token_beam}
    result = prefix_beam_search(log_probs.masked_fill(outside, torch.nan), canvas_lengths, **options, prior=prior)
    for b, length in enumerate(lengths):
        expected = beam_on_a_dictionary(log_probs[b, :length], blank, width, token_beam, prior)
        assert_hypotheses((result[0][b], result[1][b], result[2][b]), expected)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, token_beam=st.sampled_from([6, 3]))
def test_a_prior_of_zeros_changes_no_bit(seed, token_beam):
    log_probs = random_log_probs(seed, 3, 8, 9, forbidden=0.2)
    options = {"blank": 4, "pad": PAD, "beam_size": 5, "num_candidates": 5, "token_beam": token_beam}
    without = prefix_beam_search(log_probs, torch.tensor([8, 5, 0]), **options)
    nothing = BigramPrior(torch.zeros(10, 10, dtype=torch.double))
    with_zeros = prefix_beam_search(log_probs, torch.tensor([8, 5, 0]), **options, prior=nothing)
    assert all(torch.equal(a, b) for a, b in zip(without, with_zeros, strict=True))


def test_with_a_prior_any_token_may_win():
    """The worst token of the slot is the prior's favourite; the shortlist that suffices without one lacks it."""
    log_probs = torch.tensor([[[0.3, 0.3, 0.2, 0.15, 0.05]]], dtype=torch.double).log()
    prior = BigramPrior(torch.zeros(6, 6, dtype=torch.double))
    prior.table[0, 4] = 5.0
    options = {"blank": 0, "pad": PAD, "beam_size": 1, "prior": prior}
    assert prefix_beam_search(log_probs, torch.tensor([1]), **options)[0].tolist() == [[[4]]]
    assert prefix_beam_search(log_probs, torch.tensor([1]), **options, token_beam=2)[0].tolist() == [[[PAD]]]


@MANY
@given(
    seed=SEEDS,
    num_ids=st.integers(2, 9),
    width=st.integers(1, 5),
    token_beam=st.sampled_from([None, None, 1, 2]),
    forbidden=st.sampled_from([0.0, 0.4]),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_narrow_beam_equals_the_search_on_a_dictionary(seed, num_ids, width, token_beam, forbidden, lengths):
    blank = seed % num_ids
    log_probs = random_log_probs(seed, len(lengths), 9, num_ids, forbidden=forbidden)
    canvas_lengths = torch.tensor(lengths)
    options = {"blank": blank, "pad": PAD, "beam_size": width, "num_candidates": width, "token_beam": token_beam}
    outside = (torch.arange(9) >= canvas_lengths[:, None])[:, :, None]
    tokens, found, scores = prefix_beam_search(log_probs.masked_fill(outside, torch.nan), canvas_lengths, **options)
    for b, length in enumerate(lengths):
        expected = beam_on_a_dictionary(log_probs[b, :length], blank, width, token_beam)
        assert_hypotheses((tokens[b], found[b], scores[b]), expected)
    targets = tokens.flatten(0, 1)
    repeated = (log_probs.repeat_interleave(width, 0), targets, canvas_lengths.repeat_interleave(width))
    nll, possible = ctc_loss(*repeated, found.flatten(), blank=blank)
    marginal = (-nll).where(possible, -torch.inf)
    assert (scores.flatten() <= marginal + 1e-9).all()  # a lower bound of the true one


def test_second_best_token_may_win_over_the_last_one():
    """After (1,), token 1 is likelier than 2, but as a new token it must follow a blank; the shortlist needs both."""
    probs = [[0.05, 0.9, 0.05], [0.9, 0.05, 0.05], [0.02, 0.5, 0.48]]
    log_probs = torch.tensor([probs], dtype=torch.double).log()
    tokens, _, scores = prefix_beam_search(log_probs, torch.tensor([3]), blank=0, pad=PAD, beam_size=1)
    assert tokens.tolist() == [[[1, 2]]]
    torch.testing.assert_close(scores.exp().item(), (0.9 * 0.9 + 0.9 * 0.05) * 0.48)


def test_impossible_prefixes_are_not_in_the_beam():
    """(2, 1) becomes impossible in slot 3; it fills the beam, and must not open token 1 to (2,) in slot 4."""
    probs = [[0.0, 0.0, 1.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [0.0, 0.4, 0.6]]
    log_probs = torch.tensor(probs, dtype=torch.double).log()
    options = {"blank": 0, "pad": PAD, "beam_size": 3, "num_candidates": 3, "token_beam": 1}
    tokens, lengths, scores = prefix_beam_search(log_probs[None], torch.tensor([4]), **options)
    assert_hypotheses((tokens[0], lengths[0], scores[0]), [((2, 1, 2), 0.36), ((2,), 0.24)])


def test_beam_joins_a_prefix_whose_parent_left_and_came_back():
    """(1, 2) leaves the beam and returns while (1, 2, 1) stays. A trie with a new node for each arrival finds
    (1,) best, as it takes the two arrivals at (1, 2, 1) for two targets."""
    in_twentieths = [[1, 15, 4], [3, 11, 6], [5, 14, 1], [5, 8, 7], [10, 9, 1], [12, 3, 5]]
    log_probs = (torch.tensor(in_twentieths, dtype=torch.double) / 20).log()
    options = {"blank": 0, "pad": PAD, "beam_size": 3, "num_candidates": 3}
    tokens, lengths, scores = prefix_beam_search(log_probs[None], torch.tensor([6]), **options)
    assert tokens[0].tolist() == [[1, 2, 1], [1, PAD, PAD], [1, 2, PAD]]
    assert_hypotheses((tokens[0], lengths[0], scores[0]), beam_on_a_dictionary(log_probs, 0, 3, None))


@MANY
@given(seed=SEEDS)
def test_beam_row_does_not_depend_on_the_batch_or_on_padding(seed):
    lengths = torch.tensor([7, 3, 0, 5])
    log_probs = random_log_probs(seed, 4, 11, 12)
    options = {"blank": 5, "pad": PAD, "beam_size": 4, "num_candidates": 3}
    tokens, found, scores = prefix_beam_search(log_probs, lengths, **options)
    for b, length in enumerate(lengths.tolist()):
        alone = prefix_beam_search(log_probs[b : b + 1, : max(1, length)], lengths[b : b + 1], **options)
        assert torch.equal(alone[0][0], tokens[b, :, : alone[0].size(2)])
        assert torch.equal(alone[1][0], found[b])
        torch.testing.assert_close(alone[2][0], scores[b])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_width_one_on_a_confident_canvas_is_the_best_path(dtype):
    path = torch.tensor([[5, 1, 1, 5, 1, 2, 2, 5], [3, 3, 4, 4, 4, 5, 5, 5]])
    log_probs = (F.one_hot(path, 7) * 9.0).log_softmax(-1).to(dtype)
    canvas_lengths = torch.tensor([8, 4])
    tokens, lengths, scores = prefix_beam_search(log_probs, canvas_lengths, blank=5, pad=PAD, beam_size=1)
    packed, valid = collapse(path, torch.arange(8) < canvas_lengths[:, None], blank=5, pad=PAD)
    assert torch.equal(tokens[:, 0], packed[:, :3]) and torch.equal(lengths[:, 0], valid.sum(1))
    assert tokens[:, 0].tolist() == [[1, 1, 2], [3, 4, PAD]] and scores.dtype == torch.float32


def test_equal_tokens_come_in_order_of_id():
    log_probs = torch.zeros(2, 1, 300)
    tokens, lengths, _ = prefix_beam_search(
        log_probs, torch.tensor([1, 1]), blank=0, pad=PAD, beam_size=5, num_candidates=5
    )
    assert lengths.tolist() == [[0, 1, 1, 1, 1]] * 2
    assert (tokens[:, 1:, 0].diff(dim=1) > 0).all() and torch.equal(tokens[0], tokens[1])
