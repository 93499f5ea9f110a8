"""Short loss curves from weights that a formula gives: numerics as text that a reviewer can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import MODELS, VOCABULARIES, make_model
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS
from nat.training.objective import objective

LOSSES = Path(__file__).parent.parent / "golden" / "losses.json"


def rows(lengths: list[int], step: int) -> list[list[int]]:
    """Tokens by a formula, UNK among them."""
    size = VOCABULARIES.source_size - NUM_SYMBOLS
    numbers = [[(step * i + 3 * j * j + i) % (size + 1) for j in range(length)] for i, length in enumerate(lengths)]
    return [[1 if n == size else NUM_SYMBOLS + n for n in row] for row in numbers]


def loss_curve(name: str, updates: int = 6) -> list[float]:
    """The objective at each of a few steps of plain gradient descent, in float64."""
    model = make_model(name, dtype=torch.float64)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.3 * torch.sin(index * (number + 1) * 0.7 + number))
    batch = Batch(Source.from_lists(rows([5, 3, 4, 2], 5)), Target.from_lists(rows([4, 3, 2, 3], 2)))
    curve = []
    for update in range(1, updates + 1):
        loss = objective(model.loss(batch, update=update), int(batch.num_target_tokens))
        curve.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
    return curve


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_curve_is_the_golden_one(name: str) -> None:
    """Make it anew by tests/golden/renew.py."""
    golden = json.loads(LOSSES.read_text(encoding="utf-8"))[name]
    found = loss_curve(name)
    assert found == pytest.approx(golden, abs=1e-4)
    assert found[-1] < found[0]
