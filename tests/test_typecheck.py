"""The check of shapes that all tests run under: it fails where it must, and asks once about what looks alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
import typecheck
from beartype.roar import BeartypeDoorHintViolation
from jaxtyping import Float, Int
from torch import Tensor

from nat.nn.head import Head
from nat.rows import Rows


@typecheck.checked
@dataclass(frozen=True)
class Pair(Rows):
    left: Float[Tensor, "B L"]
    right: Float[Tensor, "B L"] | None = None

    @typecheck.checked
    def joined(self, *others: Float[Tensor, "B N"]) -> Self:
        return type(self)(torch.cat([self.left, *others], dim=1))


@typecheck.checked
def first(x: Float[Tensor, "B L"], count: int) -> Int[Tensor, " B"]:
    """Wrong for any other count than 1."""
    return x[:, :count].squeeze(1).long()


def refused(place: str) -> Any:
    return pytest.raises(BeartypeDoorHintViolation, match=f"{place}: value ")


def test_arguments_fields_and_results_are_checked() -> None:
    x = torch.zeros(2, 3)
    assert first(x, 1).shape == (2,)
    with refused("first, x"):
        first(x[0], 1)
    with refused("first, x"):
        first(x.long(), 1)
    with refused("first, count"):
        first(x, 1.5)  # type: ignore[arg-type]
    with refused("Pair.__init__, right"):
        Pair(x, x[:1])
    assert Pair(x).joined(x, x).left.shape == (2, 9)
    with refused("Pair.joined, others"):
        Pair(x).joined(x, x[:, :2])


def test_calls_that_look_alike_are_checked_once_but_their_results_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    honest = typecheck.Contract.check

    def check(self: typecheck.Contract, *call: object) -> None:
        looked.append(call)
        honest(self, *call)

    monkeypatch.setattr(typecheck.Contract, "check", check)
    x = torch.zeros(5, 3)
    for _ in range(3):
        first(x, 1)
    assert len(looked) == 2  # what goes in, and what comes out
    with refused("first, return"):
        first(x, 2)
    first(torch.zeros(6, 3), 1)
    assert len(looked) == 5


def test_the_hook_is_at_work() -> None:
    with refused("Head.full, states"):
        Head.full(None, torch.zeros(3))  # type: ignore[arg-type]
