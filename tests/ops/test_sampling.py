"""Classes drawn by given numbers: those of a plain cumulation in float64, and never an impossible one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.ops import log_softmax, sampling
from nat.ops.sampling import class_of, classes_of

SIZES = [1, 5, 63, 64, 65, 128, 1000]
ENDS = torch.tensor([0.5 / 2**23, 0.5, 1 - 0.5 / 2**23])  # the smallest and the largest that `RowRandom.uniform` gives


def plain(logits: Tensor, drawn: Tensor) -> Tensor:
    heights = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    return (heights[..., None, :] <= (drawn.double() * heights[..., -1:])[..., None]).sum(dim=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_draws_what_a_cumulation_in_float64_draws(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(4, 25, size, generator=generator, dtype=dtype)
    drawn = torch.rand(4, 25, 40, generator=generator)
    found, expected = classes_of(logits, drawn), plain(logits, drawn)
    assert found.shape == drawn.shape
    assert (found != expected).sum() <= 2  # of 4000, where a number falls on a border
    assert torch.equal(class_of(logits, drawn[..., 0]), found[..., 0])


def test_rare_classes_after_many_others_are_drawn_as_often_as_they_should() -> None:
    logits = torch.zeros(1, 4096).index_fill(1, torch.arange(1, 4096), -14.0)
    drawn = (torch.arange(2**16) + 0.5)[None] / 2**16
    share = (classes_of(logits, drawn) > 0).double().mean().item()
    assert share == pytest.approx(4095 * torch.tensor(-14.0).exp().item() / (1 + 4095 * 8.315e-7), rel=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_an_impossible_class_is_never_drawn(size: int) -> None:
    for possible in {0, size // 2, size - 1}:
        logits = torch.full((3, size), -torch.inf)
        logits[:, possible] = torch.tensor([-80.0, 0.0, 80.0])
        assert (classes_of(logits, ENDS.expand(3, 3)) == possible).all()


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, drawn = torch.randn(50, 100, generator=generator), torch.rand(50, generator=generator)
    whole = class_of(logits, drawn)
    monkeypatch.setattr(log_softmax, "PIECE", 700)
    assert len(sampling.pieces(logits)) > 5
    assert torch.equal(class_of(logits, drawn), whole)
    assert class_of(logits[:0], drawn[:0]).shape == (0,)
