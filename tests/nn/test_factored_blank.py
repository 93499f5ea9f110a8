"""The factored blank against its formula: p(blank) = sigmoid(g), p(w) = (1 - sigmoid(g)) softmax(w)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import make_batch, make_model, projected_positions
from torch import Tensor

from nat.data.vocabulary import Symbol
from nat.nn.factored_blank import FactoredHead
from nat.nn.head import Head

BATCH = make_batch([(5, 4), (3, 2), (4, 4)])
BLANK, UNK = int(Symbol.BLANK), int(Symbol.UNK)


def head_and_states(banned: tuple[int, ...] = (), *, copying: bool = False) -> tuple[FactoredHead, Tensor]:
    model: Any = make_model("ctc", dtype=torch.float64, factored_blank=True, copying={"enabled": copying}, seed=3)
    with torch.no_grad():
        model.net.blank_gate.weight.normal_()
        model.net.blank_gate.bias.sub_(model.net.blank_gate(model.states(BATCH.source)[1]).mean())
        model.net.embeddings.target.weight.mul_(20)  # some words are sure
    head, states, _ = model.states(BATCH.source, banned=banned)
    assert isinstance(head, FactoredHead)
    return head, states.detach().requires_grad_()


def formula(head: FactoredHead, states: Tensor) -> Tensor:
    """Log-probabilities (B, L, V), as the issue's formula has them."""
    words, gate = Head.scores(head, states).log_softmax(dim=2), head.gate(states)
    words = words + (-gate).sigmoid().log()
    return torch.cat((words[:, :, :BLANK], gate.sigmoid().log(), words[:, :, BLANK + 1 :]), dim=2)


@pytest.mark.parametrize("banned", [(), (UNK,)])
@pytest.mark.parametrize("copying", [False, True])
def test_all_that_a_head_says_is_of_the_factored_distribution(banned: tuple[int, ...], copying: bool) -> None:
    head, states = head_and_states(banned, copying=copying)
    expected, tokens = formula(head, states), torch.tensor([[BLANK, 9, 8], [11, BLANK, 9], [8, 8, BLANK]])
    assert torch.allclose(head.full(states), expected, rtol=0, atol=1e-10)
    assert torch.allclose(expected.exp().sum(dim=2), torch.ones((), dtype=torch.float64))
    best, log_probs = head.best(states)
    assert 0 < (best == BLANK).sum() < best.numel()
    assert torch.equal(best, expected.argmax(dim=2)) and torch.equal(head.argmax(states), best)
    assert torch.allclose(log_probs, expected.amax(dim=2), rtol=0, atol=1e-10)
    columns, mean = head.columns(states, tokens, with_mean=True)
    wanted = expected.gather(2, tokens[:, None].expand(-1, states.size(1), -1))
    assert torch.allclose(columns, wanted, rtol=0, atol=1e-10)
    possible = [i for i in range(expected.size(2)) if i not in head.forbidden]
    assert BLANK in possible
    wanted_mean = expected[:, :, possible].mean(dim=2)
    assert torch.allclose(mean, wanted_mean, rtol=0, atol=1e-10)
    gradients = [
        torch.autograd.grad(part.exp().sum() + other.sum(), states, retain_graph=True)[0]
        for part, other in ((columns, mean), (wanted, wanted_mean))
    ]
    assert torch.allclose(*gradients, rtol=0, atol=1e-10)


def test_a_slot_whose_gate_says_blank_never_meets_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    head, states = head_and_states()
    projected = projected_positions(head.output, monkeypatch)
    undecided = head.gate(states).squeeze(2) < 0
    where = torch.zeros_like(undecided)
    where[:, ::2] = True
    head.argmax(states)
    head.best(states, where)
    assert projected == [int(undecided.sum()), int((undecided & where).sum())]
    assert 0 < projected[1] < projected[0] < undecided.numel()
