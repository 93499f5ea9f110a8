"""The head: what is asked in parts is what the whole says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import make_batch, make_model, projected_positions
from torch import Tensor

from nat.nn.head import Head

BATCH = make_batch([(5, 4), (3, 2), (4, 4)])


def head_and_states(copying: bool) -> tuple[Head, Tensor]:
    model: Any = make_model("vanilla", dtype=torch.float64, copying={"enabled": copying}, seed=3)
    memory, _ = model.length.encode(model.net, BATCH.source)
    x, valid = model.copied(BATCH.source, BATCH.target.lengths)
    return model.net.head(memory), model.net.states(model.net.place(x), valid, memory)


@pytest.mark.parametrize("copying", [False, True])
def test_parts_are_those_of_the_whole(copying: bool) -> None:
    head, states = head_and_states(copying)
    full, tokens = head.full(states), BATCH.target.tokens
    assert torch.allclose(full.exp().sum(dim=2), torch.ones((), dtype=torch.float64))
    assert torch.equal(head.argmax(states), full.argmax(dim=2))
    best, log_probs = head.best(states)
    assert torch.equal(best, full.argmax(dim=2))
    assert torch.allclose(log_probs, full.amax(dim=2), rtol=0, atol=1e-10)
    wanted = full.gather(2, tokens[:, :, None]).squeeze(2)
    at = head.of(states, tokens)
    assert torch.allclose(at[BATCH.target.valid], wanted[BATCH.target.valid], rtol=0, atol=1e-10)
    columns, mean = head.columns(states, tokens.clamp(min=8), with_mean=True)
    for position in range(states.size(1)):
        assert torch.allclose(columns[:, position], full[:, position].gather(1, tokens.clamp(min=8)), atol=1e-10)
    possible = [i for i in range(full.size(2)) if i not in head.forbidden]
    assert torch.allclose(mean, full[:, :, possible].mean(dim=2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("copying", [False, True])
def test_a_glance_is_columns_and_arg_max_of_one_product(copying: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head, states = head_and_states(copying)
    tokens = BATCH.target.tokens.clamp(min=8)
    expected = head.columns(states, tokens)[0], head.argmax(states)
    projected = projected_positions(head.output, monkeypatch)
    found = head.glanced(states, tokens)
    assert projected == [states.size(0) * states.size(1)]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not found[0].requires_grad


@pytest.mark.parametrize("copying", [False, True])
def test_only_the_positions_that_count_are_projected_and_learn(copying: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head, states = head_and_states(copying)
    states = states.detach().requires_grad_()
    where = BATCH.target.valid & (torch.arange(4) % 2 == 0)
    projected = projected_positions(head.output, monkeypatch)
    entropy = head.cross_entropy(states, BATCH.target.tokens, where)
    assert projected == [where.numel() if copying else int(where.sum())]  # a copy needs to know its row
    (gradient,) = torch.autograd.grad(entropy.total, states)
    assert torch.equal((gradient != 0).any(dim=2), where)
    nll = -head.full(states).gather(2, BATCH.target.tokens[:, :, None]).squeeze(2)
    assert entropy.total.item() == pytest.approx(nll[where].sum().item())
    assert entropy.num_labels == where.sum()


@pytest.mark.parametrize("copying", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_losses_are_the_summands_of_the_cross_entropy(
    copying: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, states = head_and_states(copying)
    states = states.detach().requires_grad_()
    where, tokens = BATCH.target.valid & (torch.arange(4) % 2 == 0), BATCH.target.tokens
    entropy = head.cross_entropy(states, tokens, where, label_smoothing=smoothing)
    projected = projected_positions(head.output, monkeypatch)
    losses, nll = head.token_losses(states, tokens, where, label_smoothing=smoothing)
    assert projected == [where.numel() if copying else int(where.sum())]
    assert torch.allclose(losses.sum(), entropy.total) and torch.allclose(nll.sum(), entropy.nll)
    assert torch.allclose(nll[where], -head.of(states, tokens)[where])
    assert not nll[~where].any() and not losses[~where].any()
    for one, other in ((losses.sum(), entropy.total), ((losses * where.cumsum(dim=1)).sum(), None)):
        (gradient,) = torch.autograd.grad(one, states, retain_graph=True)
        assert torch.equal((gradient != 0).any(dim=2), where)
        if other is not None:
            torch.testing.assert_close(gradient, torch.autograd.grad(other, states, retain_graph=True)[0])
