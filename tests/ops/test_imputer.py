"""The Imputer's marginal and samples against the enumeration of every canvas, and the masks against loops."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import collapse_path
from torch import Tensor

from nat.ops.ctc import ctc_loss
from nat.ops.imputer import (
    bernoulli_mask,
    block_mask,
    constrained_loss,
    constrained_loss_reference,
    rank_in_blocks,
    sample_alignment,
)

LOSSES = pytest.mark.parametrize("loss", [constrained_loss, constrained_loss_reference])
SEEDS = st.integers(0, 2**31 - 1)
MANY = settings(deadline=None, max_examples=100)
JUNK = -7  # no id at all: nothing may index with it


@lru_cache
def alignments(target: tuple[int, ...], num_slots: int, num_ids: int, blank: int) -> list[tuple[int, ...]]:
    paths = itertools.product(range(num_ids), repeat=num_slots)
    return [path for path in paths if collapse_path(path, blank) == list(target)]


def path_probs(log_probs: Tensor, paths: list[tuple[int, ...]]) -> Tensor:
    """Probability of each path over the first slots of a canvas (A, V); differentiable, also at -inf."""
    length = len(paths[0]) if paths else 0
    index = torch.tensor(paths, dtype=torch.long).view(len(paths), length)
    return log_probs.exp()[torch.arange(length), index].prod(1)


def random_log_probs(seed: int, *shape: int, forbidden: float = 0.0) -> Tensor:
    """Not normalised, so that the gradient in log_probs itself is seen; some entries -inf."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(shape, generator=generator, dtype=torch.double) - 1.0
    return log_probs.masked_fill(torch.rand(shape, generator=generator) < forbidden, -torch.inf)


def padded(rows: list[tuple[int, ...]], width: int) -> tuple[Tensor, Tensor]:
    tokens = [list(row) + [JUNK] * (width - len(row)) for row in rows]
    return torch.tensor(tokens, dtype=torch.long).view(len(rows), width), torch.tensor([len(row) for row in rows])


def every_mask(path: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """known (P, A) and is_known (P, A): the path under each of the 2^A patterns, junk where it is not known."""
    is_known = torch.tensor(list(itertools.product([False, True], repeat=len(path))))
    return torch.tensor(path).expand_as(is_known).where(is_known, JUNK), is_known


def marginals(log_probs: Tensor, known: Tensor, is_known: Tensor, target: tuple[int, ...], blank: int) -> Tensor:
    """Probability (P,) of the target under each partly known alignment, by enumeration; log_probs (P, A, V)."""
    (_, num_slots, num_ids), total = log_probs.shape, []
    for row, ids, given_ in zip(log_probs, known.tolist(), is_known.tolist(), strict=True):
        paths = [
            path
            for path in alignments(target, num_slots, num_ids, blank)
            if all(path[t] == ids[t] for t in range(num_slots) if given_[t])
        ]
        total.append(path_probs(row, paths).sum() if paths else row.new_zeros(()))
    return torch.stack(total)


@LOSSES
@pytest.mark.parametrize("forbidden", [0.0, 0.2])
@pytest.mark.parametrize("target", [(), (1,), (1, 1), (1, 3), (1, 3, 1), (3, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("blank", [0, 2])
def test_loss_and_gradient_match_the_enumeration_under_every_mask(loss, forbidden, target, blank):
    """Known paths are alignments of the target and arbitrary ones, which often agree with no alignment."""
    num_slots, num_ids = 5, 4
    generator = torch.Generator().manual_seed(len(target))
    mine = alignments(target, num_slots, num_ids, blank)
    arbitrary = tuple(torch.randint(num_ids, (num_slots,), generator=generator).tolist())
    paths = [mine[int(torch.randint(len(mine), (), generator=generator))], arbitrary]
    known, is_known = (torch.cat(parts) for parts in zip(*map(every_mask, paths), strict=True))
    num_rows = len(known)
    log_probs = random_log_probs(3, num_rows, num_slots, num_ids, forbidden=forbidden).requires_grad_()
    rest = (torch.tensor([target] * num_rows).view(num_rows, -1).long(), torch.full((num_rows,), num_slots))
    nll, possible = loss(log_probs, known, is_known, *rest, torch.full((num_rows,), len(target)), blank=blank)

    probs = marginals(log_probs, known, is_known, target, blank)
    assert torch.equal(possible, probs > 0)
    assert possible.any() and (forbidden or possible[:32].all()) and not possible[32:].all()
    expected = -probs.where(probs > 0, 1.0).log()
    torch.testing.assert_close(nll, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(0.5, 2.0, num_rows, dtype=torch.double)  # rows must not share a gradient
    gradients = [torch.autograd.grad((value * weights).sum(), log_probs)[0] for value in (nll, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


@LOSSES
def test_gradcheck(loss):
    log_probs = random_log_probs(3, 3, 5, 4).requires_grad_()
    targets, lengths = padded([(1, 1, 3), (), (3,)], 3)
    known = torch.tensor([[1, 2, 1, 3, 3], [2] * 5, [3, 3, 2, 2, 2]])
    is_known = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()

    def nll(x: Tensor) -> Tensor:
        return loss(x, known, is_known, targets, torch.tensor([5, 4, 3]), lengths, blank=2)[0]

    assert torch.autograd.gradcheck(nll, (log_probs,))


def bigger_problem() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """log_probs, one alignment of each target, (targets, canvas_lengths, target_lengths)."""
    generator = torch.Generator().manual_seed(5)
    log_probs = torch.randn(9, 24, 30, generator=generator, dtype=torch.double).log_softmax(-1)
    targets = torch.randint(6, 9, (9, 8), generator=generator)  # few ids: adjacent and distant repeats
    rest = targets, torch.arange(16, 25), torch.arange(0, 9)
    uniform = torch.rand(9, 24, generator=generator)
    return log_probs, sample_alignment(log_probs, *rest, uniform, blank=5), rest


@LOSSES
def test_nothing_known_is_ctc(loss):
    log_probs, path, rest = bigger_problem()
    log_probs.requires_grad_()
    nll, possible = loss(log_probs, path, torch.zeros_like(path, dtype=torch.bool), *rest, blank=5)
    twin, twin_possible = ctc_loss(log_probs, *rest, blank=5)
    assert possible.all() and twin_possible.all()
    torch.testing.assert_close(nll, twin)
    gradients = [torch.autograd.grad(value.sum(), log_probs)[0] for value in (nll, twin)]
    torch.testing.assert_close(*gradients)


@LOSSES
def test_everything_known_is_the_log_probability_of_that_alignment(loss):
    log_probs, path, rest = bigger_problem()
    log_probs.requires_grad_()
    nll, possible = loss(log_probs, path, torch.ones_like(path, dtype=torch.bool), *rest, blank=5)
    inside = torch.arange(24) < rest[1][:, None]
    chosen = log_probs.gather(2, path[:, :, None]).squeeze(2).masked_fill(~inside, 0.0)
    assert possible.all()
    torch.testing.assert_close(nll, -chosen.sum(1))
    gradients = [torch.autograd.grad(value.sum(), log_probs)[0] for value in (nll, -chosen)]
    torch.testing.assert_close(*gradients)


def test_more_known_slots_never_make_the_target_likelier():
    log_probs, path, rest = bigger_problem()
    order = torch.rand(9, 24, generator=torch.Generator().manual_seed(1))
    curve = torch.stack([constrained_loss(log_probs, path, order < p, *rest, blank=5)[0] for p in (0, 0.3, 0.7, 1)])
    assert (curve.diff(dim=0) >= -1e-9).all() and (curve[3] > curve[0])[1:].all()


@LOSSES
def test_padding_and_junk_beyond_the_lengths_change_nothing(loss):
    log_probs, path, rest = bigger_problem()
    is_known = torch.rand(9, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    nll, _ = loss(log_probs, path, is_known, *rest, blank=5)
    outside = torch.arange(24) >= rest[1][:, None]
    junk = log_probs.masked_fill(outside[:, :, None], torch.nan)
    wider = torch.nn.functional.pad(junk, (0, 0, 0, 3), value=torch.nan).requires_grad_()
    known = torch.nn.functional.pad(path.masked_fill(outside, 7), (0, 3), value=8)
    everywhere = torch.nn.functional.pad(is_known | outside, (0, 3), value=True)
    targets = torch.nn.functional.pad(rest[0], (0, 2), value=6)
    again, possible = loss(wider, known, everywhere, targets, *rest[1:], blank=5)
    assert possible.all()
    torch.testing.assert_close(again, nll)
    (gradient,) = torch.autograd.grad(again.sum(), wider)
    assert gradient.isfinite().all() and not gradient[:, :24][outside].any() and not gradient[:, 24:].any()


@LOSSES
def test_rows_without_an_agreeing_alignment_are_told_and_touch_nothing(loss):
    """Row 0 knows a token that the target has not, row 1 the right tokens in the wrong order, row 2 is too short."""
    logits = random_log_probs(1, 4, 4, 5).requires_grad_()
    targets, lengths = padded([(1, 2), (1, 2), (1, 1), (1, 2)], 2)
    known = torch.tensor([[3, 0, 0, 0], [2, 1, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0]])
    is_known = torch.tensor([[True, True, False, False]] * 4)
    canvas_lengths = torch.tensor([4, 4, 2, 4])
    nll, possible = loss(logits.log_softmax(-1), known, is_known, targets, canvas_lengths, lengths, blank=0)
    assert possible.tolist() == [False, False, False, True]
    assert not nll[:3].any() and nll[3] > 0
    (gradient,) = torch.autograd.grad(nll.sum(), logits)
    assert gradient.isfinite().all() and not gradient[:3].any() and gradient[3].any()


@LOSSES
def test_float32_is_close_to_double_and_nan_is_not_hidden(loss):
    log_probs, path, rest = bigger_problem()
    is_known = torch.rand(9, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    exact, _ = loss(log_probs, path, is_known, *rest, blank=5)
    nll, _ = loss(log_probs.float(), path, is_known, *rest, blank=5)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, exact.float())
    assert loss(log_probs * torch.nan, path, is_known, *rest, blank=5)[0].isnan().all()


# --- samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [(), (1,), (1, 1), (1, 3), (1, 3, 1)])
@pytest.mark.parametrize("forbidden", [0.0, 0.2])
def test_samples_follow_the_enumerated_posterior(target, forbidden):
    num_slots, num_ids, blank, count = 5, 4, 2, 20_000
    log_probs = random_log_probs(11, 1, num_slots, num_ids, forbidden=forbidden)
    uniform = torch.rand(count, num_slots, generator=torch.Generator().manual_seed(2))
    found = sample_alignment(
        log_probs.expand(count, -1, -1),
        torch.tensor([target]).long().view(1, -1).expand(count, -1),
        torch.full((count,), num_slots),
        torch.full((count,), len(target)),
        uniform,
        blank=blank,
    )
    paths = alignments(target, num_slots, num_ids, blank)
    probs = path_probs(log_probs[0], paths)
    posterior = (probs / probs.sum()).tolist()
    counts = Counter(map(tuple, found.tolist()))
    assert sum(p > 0 for p in posterior) >= 1 and set(counts) <= {p for p, q in zip(paths, posterior, strict=True) if q}
    for path, prob in zip(paths, posterior, strict=True):
        assert abs(counts[path] / count - prob) <= 5 * (prob * (1 - prob) / count) ** 0.5 + 1e-12, path


@MANY
@given(seed=SEEDS, rows=st.lists(st.lists(st.sampled_from([0, 1, 3]), max_size=4), min_size=1, max_size=4))
def test_every_sample_is_an_alignment_and_does_not_depend_on_batch_or_padding(seed, rows):
    targets, lengths = padded([tuple(row) for row in rows], 5)
    generator = torch.Generator().manual_seed(seed)
    canvas_lengths = torch.randint(0, 8, (len(rows),), generator=generator)
    log_probs, uniform = random_log_probs(seed, len(rows), 9, 4), torch.rand(len(rows), 9, generator=generator)
    outside = torch.arange(9) >= canvas_lengths[:, None]
    problem = log_probs.masked_fill(outside[:, :, None], torch.nan), targets, canvas_lengths, lengths
    found = sample_alignment(*problem, uniform, blank=2)
    for b, (row, length) in enumerate(zip(rows, canvas_lengths.tolist(), strict=True)):
        path = found[b, :length].tolist()
        needed = len(row) + sum(x == y for x, y in itertools.pairwise(row))
        assert collapse_path(path, 2) == (row if needed <= length else [])
        assert (found[b, length:] == 2).all()
        width = max(1, length)
        part = slice(b, b + 1)
        small = log_probs[part, :width], targets[part, : max(1, len(row))], canvas_lengths[part], lengths[part]
        alone = sample_alignment(*small, uniform[part, :width], blank=2)
        assert alone[0, :length].tolist() == path


def test_samples_at_the_ends_of_the_unit_interval_are_alignments():
    log_probs = random_log_probs(4, 2, 6, 4, forbidden=0.1)
    targets, lengths = padded([(1, 3), (1, 3)], 2)
    uniform = torch.tensor([[0.0] * 6, [1 - 2.0**-24] * 6])
    found = sample_alignment(log_probs, targets, torch.tensor([6, 6]), lengths, uniform, blank=2)
    for row, path in zip(log_probs, found.tolist(), strict=True):
        assert collapse_path(path, 2) == [1, 3]
        assert path_probs(row, [tuple(path)]) > 0


# --- masks --------------------------------------------------------------------------------------------


def blocks_of(length: int, block: int) -> list[range]:
    return [range(start, min(start + block, length)) for start in range(0, length, block)]


@MANY
@given(seed=SEEDS, lengths=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 15)), min_size=1, max_size=5))
def test_block_mask_knows_the_same_number_in_every_block(seed, lengths):
    generator = torch.Generator().manual_seed(seed)
    uniform, share = torch.rand(len(lengths), 14, generator=generator), torch.rand(len(lengths), generator=generator)
    canvas_lengths, block_lengths = torch.tensor(lengths).unbind(1)
    masked = block_mask(uniform, share, canvas_lengths, block_lengths)
    for b, (length, block) in enumerate(lengths):
        num_known = int(float(share[b]) * min(block, length))
        assert not masked[b, length:].any()
        assert length == 0 or masked[b].any()
        for slots in blocks_of(length, block):
            known = sorted(slots, key=lambda t: float(uniform[b, t]))[:num_known]
            assert [t for t in slots if not masked[b, t]] == sorted(known)


def test_the_number_of_masks_is_uniform_and_every_slot_is_hit():
    count, length = 6000, 6
    generator = torch.Generator().manual_seed(0)
    uniform, share = torch.rand(count, 8, generator=generator), torch.rand(count, generator=generator)
    lengths = torch.full((count,), length)
    masked = block_mask(uniform, share, lengths, lengths)
    numbers = Counter(masked.sum(1).tolist())
    assert set(numbers) == set(range(1, length + 1))
    assert all(abs(number / count - 1 / length) < 0.03 for number in numbers.values())
    assert ((masked[:, :length].double().mean(0) - (length + 1) / 2 / length).abs() < 0.03).all()
    extremes = block_mask(uniform[:2], torch.tensor([0.0, 1.0]), lengths[:2], lengths[:2])
    assert extremes.sum(1).tolist() == [length, 1]


def test_bernoulli_mask():
    uniform = torch.rand(3000, 5, generator=torch.Generator().manual_seed(0))
    probability = torch.tensor([0.0, 0.25, 1.0]).repeat(1000)
    masked = bernoulli_mask(uniform, probability, torch.tensor([5, 3, 4]).repeat(1000))
    assert not masked[0::3].any() and masked[2::3, :4].all() and not masked[2::3, 4:].any()
    assert not masked[1::3, 3:].any()
    assert ((masked[1::3, :3].double().mean(0) - 0.25).abs() < 0.05).all()


@MANY
@given(seed=SEEDS, blocks=st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_rank_in_blocks_equals_a_loop(seed, blocks):
    generator = torch.Generator().manual_seed(seed)
    shape = len(blocks), 11
    values = torch.randint(0, 4, shape, generator=generator).double()  # ties
    candidates = torch.rand(shape, generator=generator) < 0.6
    ranks = rank_in_blocks(values.masked_fill(~candidates, torch.nan), candidates, torch.tensor(blocks))
    for b, block in enumerate(blocks):
        for slots in blocks_of(11, block):
            ordered = sorted((t for t in slots if candidates[b, t]), key=lambda t: float(values[b, t]))
            assert [int(ranks[b, t]) for t in ordered] == list(range(len(ordered)))
            assert all(ranks[b, t] >= len(ordered) for t in slots if not candidates[b, t])


def test_nothing_is_shared_between_rows():
    log_probs, path, rest = bigger_problem()
    is_known = torch.rand(9, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    problem = log_probs, path, is_known, *rest
    rows = [slice(b, b + 1) for b in range(9)]
    alone = torch.cat([constrained_loss(*(x[row] for x in problem), blank=5)[0] for row in rows])
    torch.testing.assert_close(alone, constrained_loss(*problem, blank=5)[0])
