"""Transitions against a mixture of softmaxes that is written out."""

from __future__ import annotations

import torch

from nat.config import parse
from nat.nn.transformer import Size
from nat.nn.transitions import Transitions


def made() -> Transitions:
    torch.manual_seed(0)
    return Transitions(parse(Size, {"dim": 12, "num_heads": 3})).double()


def test_every_row_is_a_mixture_of_softmaxes_over_what_comes_later() -> None:
    layer, lengths = made(), [4, 2]
    states, valid = torch.randn(2, 4, 12, dtype=torch.double), torch.arange(4) < torch.tensor(lengths)[:, None]
    found = layer(states, valid)
    for row, length in enumerate(lengths):
        nodes = [layer.begin, *states[row, :length], layer.end]
        for u, origin in enumerate(nodes[:-1]):
            shares = layer.gate(origin).softmax(0)
            keys = torch.stack([layer.key(node) for node in nodes[u + 1 :]]).view(-1, 3, 4)
            scores = (layer.query(origin).view(3, 4) * keys).sum(2) / 2  # the root of 4
            expected = (shares * scores.softmax(0)).sum(1)
            columns = [*range(u, length), 4]
            torch.testing.assert_close(found[row, u, columns].exp(), expected)
            others = [v for v in range(5) if v not in columns]
            assert (found[row, u, others] == -torch.inf).all()
    torch.testing.assert_close(found.logsumexp(2), torch.zeros(2, 5, dtype=torch.double))


def test_gradients_are_finite_where_steps_are_impossible() -> None:
    layer = made()
    states = torch.randn(1, 3, 12, dtype=torch.double, requires_grad=True)
    found = layer(states, torch.tensor([[True, True, False]]))
    possible = found > -torch.inf
    found.where(possible, 0.0).sum().backward()
    for tensor in (states, *layer.parameters()):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0
    assert not states.grad[0, 2].any()  # padding
