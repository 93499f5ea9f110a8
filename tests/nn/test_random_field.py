"""The candidates of a random field."""

from __future__ import annotations

import pytest
import torch

from nat.nn.random_field import RandomField
from nat.nn.token_transitions import TokenTransitions


@pytest.mark.parametrize("size", [7, 16, 40])
def test_of_equally_probable_tokens_the_first_is_written(size: int) -> None:
    """Whatever order the most probable ones are found in, which may depend on the shape of the batch."""
    transitions = TokenTransitions(TokenTransitions.Config(), size=size, dim=4)
    with torch.no_grad():
        transitions.before.zero_()
    for rows, length in ((1, 1), (2, 3), (5, 9)):
        scores, states = torch.zeros(rows, length, size), torch.zeros(rows, length, 4)
        scores[:, :, 3] = -1.0
        lengths = torch.full((rows,), length)
        field = RandomField.of(scores, states, lengths, transitions=transitions, beam=size)
        assert (field.tokens.diff(dim=2) > 0).all()
        assert not field.written(None, temperature=None)[0].any()
