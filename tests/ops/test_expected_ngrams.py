"""Expected bigrams and lengths against an enumeration of all paths through the slots."""

from __future__ import annotations

import collections
import itertools

import pytest
import torch
from torch import Tensor

from nat.ops.lattice import TargetScores
from nat.ops.ngrams import bigram_f1, bigram_precision, distinct_bigrams, expected_bigrams, expected_length

BLANK = 0


def random_logits(rows: int, slots: int, size: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(rows, slots, size, generator=generator, dtype=torch.float64)


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def by_hand(log_probs: Tensor, target: list[int]) -> tuple[Tensor, Tensor]:
    """Expected count of each bigram of the target, and expected length: of one row (A, V), over all V^A paths."""
    counts, length = log_probs.new_zeros(max(0, len(target) - 1)), log_probs.new_zeros(())
    for path in itertools.product(range(log_probs.size(1)), repeat=log_probs.size(0)):
        chance = torch.stack([log_probs[i, token] for i, token in enumerate(path)]).sum().exp()
        written = collapsed(path)
        found = collections.Counter(itertools.pairwise(written))
        counts = counts + chance * torch.tensor([float(found[pair]) for pair in itertools.pairwise(target)])
        length = length + chance * len(written)
    return counts, length


def scored(log_probs: Tensor, targets: list[list[int]], slots: list[int], *, wider: int = 0) -> TargetScores:
    width = max(map(len, targets)) + wider
    tokens = torch.tensor([row + [3] * (width - len(row)) for row in targets])
    lengths = torch.tensor([len(row) for row in targets])
    return TargetScores.gather(log_probs, tokens, torch.tensor(slots), lengths, blank=BLANK)


@pytest.mark.parametrize("target", [[1, 2, 3], [1, 1], [2, 1, 1, 2, 1], [3, 3, 3]])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_counts_and_length_are_those_of_all_paths(target: list[int], slots: int) -> None:
    logits = random_logits(1, slots).requires_grad_()
    log_probs = logits.log_softmax(dim=2)
    counts, length = by_hand(log_probs[0], target)
    found = expected_bigrams(scored(log_probs, [target], [slots]))[0]
    assert torch.allclose(found, counts)
    found_length = expected_length(log_probs, torch.ones(1, slots, dtype=torch.bool), blank=BLANK)[0]
    assert found_length.item() == pytest.approx(length.item())
    weights = torch.arange(1.0, len(target), dtype=torch.float64)
    for one, other in (((found * weights).sum(), (counts * weights).sum()), (found_length, length)):
        mine, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (one, other))
        torch.testing.assert_close(mine, theirs)


def test_a_double_needs_a_blank_between() -> None:
    sure = torch.full((2, 3, 3), 1e-9, dtype=torch.float64)
    sure[0, :, 1] = sure[1, [0, 2], 1] = sure[1, 1, BLANK] = 1.0  # 1 1 1 and 1 blank 1
    log_probs = sure.log().log_softmax(dim=2)
    found = expected_bigrams(scored(log_probs, [[1, 1], [1, 1]], [3, 3]))
    assert found.flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert expected_length(log_probs, torch.ones(2, 3, dtype=torch.bool), blank=BLANK).tolist() == pytest.approx([1, 2])


def test_bigrams_of_a_target_are_told_apart_and_counted() -> None:
    is_first, count = distinct_bigrams(
        torch.tensor([[1, 2, 1, 2, 1], [3, 3, 3, 1, 2], [5, 6, 6, 6, 6]]), torch.tensor([5, 3, 1])
    )
    assert is_first.tolist() == [[True, True, False, False], [True, False, False, False], [False] * 4]
    assert count.tolist() == [[2, 2, 2, 2], [2, 2, 0, 0], [0, 0, 0, 0]]


def test_f1_matches_no_bigram_more_often_than_the_target_has_it() -> None:
    targets, slots = [[1, 2, 1, 2], [1, 1, 1], [2, 3], [2]], [4, 4, 3, 4]
    log_probs = random_logits(4, 4, seed=3).log_softmax(dim=2)
    valid = torch.arange(4) < torch.tensor(slots)[:, None]
    length = expected_length(log_probs, valid, blank=BLANK)
    found = bigram_f1(scored(log_probs, targets, slots), length)
    for row, target in enumerate(targets):
        counts, expected = by_hand(log_probs[row, : slots[row]], target)
        pairs = list(itertools.pairwise(target))
        own = dict(zip(pairs, counts.tolist(), strict=True))
        matched = sum(min(count, pairs.count(pair)) for pair, count in own.items())
        assert found[row].item() == pytest.approx(2 * matched / (len(target) + expected.item() - 2) if pairs else 0.0)
    sure = torch.full((1, 6, 3), 1e-9, dtype=torch.float64)
    for slot, token in enumerate([1, 2, 1, 2, 1, 2]):  # three times what the target has once
        sure[0, slot, token] = 1.0
    log_probs = sure.log().log_softmax(dim=2)
    length = expected_length(log_probs, torch.ones(1, 6, dtype=torch.bool), blank=BLANK)
    assert bigram_f1(scored(log_probs, [[1, 2]], [6]), length).item() == pytest.approx(2 * 1 / (2 + 6 - 2))


def test_a_perfect_canvas_has_an_f1_of_one_and_an_empty_one_a_number() -> None:
    sure = torch.full((1, 4, 4), -30.0, dtype=torch.float64)
    for slot, token in enumerate([1, 3, 3, 2]):
        sure[0, slot, token] = 0.0
    log_probs, everywhere = sure.log_softmax(dim=2), torch.ones(1, 4, dtype=torch.bool)
    length = expected_length(log_probs, everywhere, blank=BLANK)
    assert bigram_f1(scored(log_probs, [[1, 3, 2]], [4]), length).item() == pytest.approx(1.0)
    blank = torch.full((1, 4, 4), -torch.inf, dtype=torch.float64)
    blank[:, :, BLANK] = 0.0
    nothing = bigram_f1(scored(blank, [[1, 2]], [4]), expected_length(blank, everywhere, blank=BLANK))
    assert nothing.item() == 0.0


def test_padding_changes_nothing_and_has_no_gradient() -> None:
    logits = random_logits(2, 6).requires_grad_()
    log_probs = logits.log_softmax(dim=2)
    valid = torch.arange(6) < torch.tensor([3, 6])[:, None]
    length = expected_length(log_probs, valid, blank=BLANK)
    found = bigram_f1(scored(log_probs, [[1, 2, 2], [3, 1]], [3, 6], wider=2), length)
    alone = log_probs[:1, :3]
    of_alone = expected_length(alone, valid[:1, :3], blank=BLANK)
    assert found[0].item() == pytest.approx(bigram_f1(scored(alone, [[1, 2, 2]], [3]), of_alone).item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    assert not gradient[0, 3:].any()
    (of_alone,) = torch.autograd.grad(bigram_f1(scored(alone, [[1, 2, 2]], [3]), of_alone).sum(), logits)
    torch.testing.assert_close(gradient[0], of_alone[0])


def test_a_long_canvas_loses_no_digits_in_half_precision() -> None:
    """Cumulated sums of a thousand blanks: of bf16 scores the count is that of the same numbers in double."""
    logits = random_logits(1, 1000, seed=5).bfloat16()
    log_probs = logits.float().log_softmax(dim=2)
    target = [[1, 2, 3, 1]]
    exact = expected_bigrams(scored(log_probs.double(), target, [1000]))
    assert torch.allclose(expected_bigrams(scored(log_probs, target, [1000])), exact, rtol=1e-6)


# --- of a graph -------------------------------------------------------------------------------------


def random_graph(lengths: list[int], *, size: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of (emissions (B, A, V), transitions (B, A + 1, A + 1)), laid out as nat/ops/dag.py has them."""
    generator = torch.Generator().manual_seed(seed)
    width, rows = max(lengths), len(lengths)
    scores = torch.randn(rows, width + 1, width + 1, generator=generator, dtype=torch.float64)
    nodes = torch.arange(width + 1)
    real = (nodes < torch.tensor(lengths)[:, None]) | (nodes == width)  # vertices and the end
    possible = (nodes[:, None] <= nodes) & real[:, None]
    emissions = torch.randn(rows, width, size, generator=generator, dtype=torch.float64)
    return emissions.requires_grad_(), scores.masked_fill(~possible, -torch.inf).requires_grad_()


def graph_by_hand(emissions: Tensor, transitions: Tensor, length: int, target: list[int]) -> dict[str, Tensor]:
    """Expected bigrams, all of them, and expected length, over all paths and tokens of a row of `length` vertices."""
    found = {name: emissions.new_zeros(()) for name in ("total", "length")}
    counts = emissions.new_zeros(len(target) - 1)
    end = transitions.size(1) - 1
    for number in range(length + 1):
        for path in itertools.combinations(range(length), number):
            rows, columns = [0, *(v + 1 for v in path)], [*path, end]
            chance = torch.stack([transitions[u, v] for u, v in zip(rows, columns, strict=True)]).sum().exp()
            found["length"] = found["length"] + chance * number
            found["total"] = found["total"] + chance * max(0, number - 1)
            for u, v in itertools.pairwise(path):
                pair = [(emissions[u, a] + emissions[v, b]).exp() for a, b in itertools.pairwise(target)]
                counts = counts + chance * torch.stack(pair)
    return found | {"counts": counts}


@pytest.mark.parametrize("target", [[0, 1, 2], [1, 1], [0, 1, 0, 1]])
def test_precision_of_a_graph_is_that_of_all_its_paths(target: list[int]) -> None:
    lengths = [4, 1, 5]
    logits = random_graph(lengths)
    emissions, transitions = (scores.log_softmax(dim=2) for scores in logits)
    columns = emissions[:, :, target]
    targets, sizes = torch.tensor([target] * 3), torch.tensor([len(target)] * 3)
    found, length = bigram_precision(columns, transitions, targets, sizes)
    pairs = list(itertools.pairwise(target))
    wanted = []
    for row, size in enumerate(lengths):
        own = graph_by_hand(emissions[row], transitions[row], size, target)
        assert length[row].item() == pytest.approx(own["length"].item())
        of_pair = dict(zip(pairs, own["counts"], strict=True))
        matched = torch.stack([count.clamp(max=pairs.count(pair)) for pair, count in of_pair.items()]).sum()
        brevity = (1 - len(target) / own["length"]).clamp(max=0).exp()
        wanted.append(brevity * matched / own["total"].clamp(min=1e-6))
        assert found[row].item() == pytest.approx(wanted[-1].item())
    mine, theirs = (
        torch.autograd.grad(value, logits, retain_graph=True) for value in (found.sum(), torch.stack(wanted).sum())
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_long_and_right_chain_shares_everything() -> None:
    """A graph that is a chain of the target's tokens."""
    target = torch.tensor([[2, 0, 0, 1]])
    emissions = torch.full((1, 4, 3), -torch.inf).scatter(2, target[:, :, None], 0.0)
    transitions = torch.full((1, 5, 5), -torch.inf)
    transitions[0].fill_diagonal_(0.0)
    found, length = bigram_precision(emissions[:, :, target[0]], transitions, target, torch.tensor([4]))
    assert (found.item(), length.item()) == (pytest.approx(1.0), pytest.approx(4.0))
    short, _ = bigram_precision(emissions[:, :, target[0, :2]], transitions, target[:, :2], torch.tensor([2]))
    assert short.item() == pytest.approx(1 / 3)  # no reward for writing more than the target has
