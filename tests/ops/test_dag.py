"""Paths through a graph of vertices against the enumeration of all of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.ops import dag
from nat.ops.dag import best_path, marginal_loss

SEEDS = st.integers(0, 2**31 - 1)
MANY = settings(deadline=None, max_examples=100)  # a deadline would measure the machine


def random_transitions(seed: int, lengths: list[int], *, forbidden: float = 0.0, normal: bool = False) -> Tensor:
    """(B, A + 1, A + 1) for rows of these numbers of vertices, right-padded; some steps impossible."""
    generator, width = torch.Generator().manual_seed(seed), max(lengths) + 1
    scores = torch.randn(len(lengths), width, width, generator=generator, dtype=torch.double)
    impossible = torch.rand(scores.shape, generator=generator) < forbidden
    impossible |= ~torch.ones(width, width, dtype=torch.bool).triu()
    for row, length in enumerate(lengths):
        impossible[row, :, length:-1] = True
    scores = scores.masked_fill(impossible, -torch.inf)
    return scores.log_softmax(2) if normal else scores - 1


def random_emissions(seed: int, *shape: int, forbidden: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    values = torch.randn(shape, generator=generator, dtype=torch.double) - 1.5
    return values.masked_fill(torch.rand(shape, generator=generator) < forbidden, -torch.inf)


def paths_of(emissions: Tensor, transitions: Tensor, length: int) -> dict[tuple[int, ...], Tensor]:
    """Every path (vertices from 0) of one target with its log-probability; emissions (A, T), transitions of one row."""
    found = {}
    for path in itertools.combinations(range(len(emissions)), length):
        steps = zip((0, *(v + 1 for v in path)), (*path, len(emissions)), strict=True)
        score = sum((transitions[u, v] for u, v in steps), torch.zeros((), dtype=torch.double))
        found[path] = score + sum(emissions[v, i] for i, v in enumerate(path))
    return found


@st.composite
def problems(draw):
    """(emissions, transitions, target lengths); some rows have no path."""
    vertices = [draw(st.integers(1, 5)), *draw(st.lists(st.integers(0, 5), max_size=3))]
    lengths = [draw(st.integers(0, 4)) for _ in vertices]
    forbidden = draw(st.sampled_from([0.0, 0.3]))
    width = max(lengths) + draw(st.integers(0, 1))
    emissions = random_emissions(draw(SEEDS), len(vertices), max(vertices), width, forbidden=forbidden)
    return emissions, random_transitions(draw(SEEDS), vertices, forbidden=forbidden), torch.tensor(lengths)


@pytest.fixture(params=[False, True], ids=["as on a CPU", "as on a GPU"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU sums are those of logarithms."""
    monkeypatch.setattr(dag, "are_fixed", lambda tensor: request.param)


def enumerated(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likelihood of each target (not its logarithm, which has no gradient at 0) and minus its gradients, divided
    by it; 0 where it is 0."""
    total = torch.stack(
        [
            sum((score.exp() for score in paths_of(*row).values()), torch.zeros((), dtype=torch.double))
            for row in zip(emissions, transitions, lengths.tolist(), strict=True)
        ]
    )
    sums = torch.where(total > 0, total, 1.0).log().sum()
    found = (
        torch.autograd.grad(sums, (emissions, transitions), allow_unused=True) if sums.requires_grad else (None,) * 2
    )
    gradients = [
        torch.zeros_like(x) if g is None else -g.nan_to_num(0.0)
        for x, g in zip((emissions, transitions), found, strict=True)
    ]
    return total.detach(), gradients[0], gradients[1]


@MANY
@given(problem=problems(), gpu=st.booleans())
def test_loss_and_gradients_equal_the_enumeration_of_all_paths(problem: tuple[Tensor, ...], gpu: bool) -> None:
    emissions, transitions, lengths = problem
    emissions.requires_grad_(), transitions.requires_grad_()
    total, of_emissions, of_transitions = enumerated(emissions, transitions, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dag, "are_fixed", lambda tensor: gpu)
        nll, possible = marginal_loss(emissions, transitions, lengths)
        with torch.no_grad():
            torch.testing.assert_close(marginal_loss(emissions, transitions, lengths), (nll, possible))
    assert torch.equal(possible, total > 0)
    torch.testing.assert_close(nll, torch.where(total > 0, -total.log(), 0.0))
    weights = torch.linspace(1, 2, len(nll), dtype=torch.double)
    found = torch.autograd.grad((nll * weights).sum(), (emissions, transitions))
    torch.testing.assert_close(found[0], of_emissions * weights[:, None, None])
    torch.testing.assert_close(found[1], of_transitions * weights[:, None, None])


@MANY
@given(problem=problems())
def test_the_best_path_equals_that_of_the_enumeration(problem: tuple[Tensor, ...]) -> None:
    emissions, transitions, lengths = problem
    held = best_path(emissions, transitions, lengths)
    for row, length in enumerate(lengths.tolist()):
        paths = paths_of(emissions[row], transitions[row], length)
        best = max(paths, key=lambda path: paths[path].item(), default=None)
        visited = (held[row] >= 0).nonzero().flatten().tolist()
        if best is None or paths[best] == -math.inf:
            assert visited == []
        else:
            assert tuple(visited) == best
            assert held[row, visited].tolist() == list(range(length))


def test_a_chain_of_vertices_gives_the_cross_entropy_and_doubles_are_written() -> None:
    """Every vertex leads to the next one: the token of vertex i is token i. Two equal tokens are two."""
    torch.manual_seed(0)
    target = torch.tensor([[2, 2, 0], [1, 1, 1]])
    logits = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    emissions = logits.log_softmax(2).gather(2, target[:, None].expand(-1, 3, -1))
    chain = torch.eye(4, dtype=torch.double).log().expand(2, -1, -1)
    nll, possible = marginal_loss(emissions, chain, torch.tensor([3, 3]))
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(2, 3).sum(1)
    assert possible.all()
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (nll, expected)))


@pytest.mark.parametrize("num_vertices", [1, 2, 4])
def test_the_probabilities_of_all_targets_sum_to_one(num_vertices: int) -> None:
    tokens = 3
    log_probs = random_emissions(3, num_vertices, tokens).log_softmax(1)
    transitions = random_transitions(4, [num_vertices], normal=True)
    total = 0.0
    for length in range(num_vertices + 2):  # too long by one, too
        targets = torch.tensor(list(itertools.product(range(tokens), repeat=length)), dtype=torch.long).view(
            tokens**length, length
        )
        count = len(targets)
        nll, possible = marginal_loss(
            log_probs[:, targets].transpose(0, 1), transitions.expand(count, -1, -1), torch.full((count,), length)
        )
        total += (-nll).exp()[possible].sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


def hard(lengths: list[int], vertices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of log-probabilities down to -60 and steps down to -40, some impossible, in float32."""
    generator = torch.Generator().manual_seed(5)
    emissions = -60 * torch.rand(len(vertices), max(vertices), max(lengths), generator=generator)
    emissions[torch.rand(emissions.shape, generator=generator) < 0.05] = -torch.inf
    transitions = (random_transitions(6, vertices) * 12).float().log_softmax(2)
    return emissions, transitions, torch.tensor(lengths)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("vertices", [[30, 40, 25, 24, 12], [24, 24, 24, 24, 24], [100, 60, 40, 100, 13]])
def test_in_float32_with_unlikely_tokens_loss_and_gradient_are_those_of_logarithms(vertices: list[int]) -> None:
    emissions, transitions, lengths = hard([24, 20, 24, 23, 12], vertices)
    emissions[4] -= 1000  # 12 of them: a likelihood of e^-12000 and less
    inputs = [x.requires_grad_() for x in (emissions, transitions)]
    nll, possible = marginal_loss(*inputs, lengths)
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    expected = plain_loss(*doubles, lengths)
    assert torch.equal(possible, expected < torch.inf)
    assert possible.sum() >= 3
    torch.testing.assert_close(nll[possible].double(), expected[possible], rtol=1e-6, atol=1e-4)
    found = torch.autograd.grad(nll[possible].sum(), inputs)
    for one, other in zip(found, torch.autograd.grad(expected[possible].sum(), doubles), strict=True):
        torch.testing.assert_close(one.double(), other.nan_to_num(0.0), rtol=0, atol=2e-3)


def plain_loss(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    """Equation 5 in logarithms, by autograd; -1e30 is impossible, for inf - inf has no gradient."""
    low = -1e30
    emissions, transitions = emissions.clamp(min=low), transitions.clamp(min=low)
    sums, found = transitions[:, 0, :-1] + emissions[:, :, 0], []
    for i in range(emissions.size(2)):
        if i:
            sums = (sums[:, :, None] + transitions[:, 1:, :-1]).logsumexp(1) + emissions[:, :, i]
        found.append((sums + transitions[:, 1:, -1]).logsumexp(1))
    nll = -torch.stack(found, 1).gather(1, lengths[:, None] - 1).squeeze(1)
    return nll.masked_fill(nll > 1e29, torch.inf)


def test_a_row_whose_sums_would_lose_its_only_path_is_computed_in_logarithms() -> None:
    """A dead end is e^900 times as likely as the way that leads on."""
    emissions = torch.zeros(1, 3, 2, dtype=torch.double)
    emissions[0, 0, 0] = -900.0  # vertex 1 leads to vertex 3; vertex 2 leads nowhere
    steps = torch.full((1, 4, 4), -torch.inf, dtype=torch.double)
    steps[0, 0, :2] = math.log(0.5)
    steps[0, 1, 2] = steps[0, 3, 3] = 0.0
    steps[0, 2, 2] = -2000.0
    steps.requires_grad_()
    nll, possible = marginal_loss(emissions, steps, torch.tensor([2]))
    assert possible.all()
    assert nll.item() == pytest.approx(900 + math.log(2))
    (gradient,) = torch.autograd.grad(nll.sum(), steps)
    assert gradient[0].nonzero().tolist() == [[0, 0], [1, 2], [3, 3]]


@pytest.mark.usefixtures("both_ways")
def test_padding_of_vertices_and_tokens_changes_nothing() -> None:
    vertices, lengths = [4, 6], torch.tensor([3, 2])
    emissions, transitions = random_emissions(1, 2, 6, 3), random_transitions(2, vertices, normal=True)
    together = marginal_loss(emissions, transitions, lengths)[0]
    held = best_path(emissions, transitions, lengths)
    for row, (a, n) in enumerate(zip(vertices, lengths.tolist(), strict=True)):
        keep = torch.tensor([*range(a), 6])
        alone = transitions[row, [0, *range(1, a + 1)]][:, keep][None]
        one = emissions[row : row + 1, :a, :n]
        torch.testing.assert_close(marginal_loss(one, alone, lengths[row : row + 1])[0], together[row : row + 1])
        assert torch.equal(best_path(one, alone, lengths[row : row + 1])[0], held[row, :a])
        assert (held[row, a:] == -1).all()


def test_a_nan_stays_one() -> None:
    emissions, transitions = random_emissions(1, 2, 3, 2), random_transitions(2, [3, 3], normal=True)
    emissions[1, 0, 0] = math.nan
    nll, possible = marginal_loss(emissions, transitions, torch.tensor([2, 2]))
    assert possible.all()
    assert math.isfinite(nll[0]) and math.isnan(nll[1])


def test_in_bf16_the_loss_is_that_of_float32() -> None:
    emissions, transitions = (x.bfloat16() for x in (random_emissions(1, 2, 8, 5), random_transitions(2, [8, 8])))
    lengths = torch.tensor([5, 3])
    low, high = (
        marginal_loss(emissions.to(kind), transitions.to(kind), lengths)[0] for kind in (torch.bfloat16, torch.float32)
    )
    assert low.dtype == torch.float32
    assert torch.equal(low, high)
