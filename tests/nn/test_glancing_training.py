"""Options of glancing, and what is put into the decoder's input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.glancing import Glancing, gold_positions, reveal, shown
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import DeepSupervision


@pytest.mark.parametrize(
    ("kind", "option", "allowed"),
    [
        (Glancing, {"start": 1.5}, "start=1.5: must be at least 0 and at most 1"),
        (Glancing, {"end": 2}, "end=2.*: must be at least 0 and at most 1"),
        (Glancing, {"end": -0.1}, "end=-0.1: must be at least 0 and at most 1"),
        (DeepSupervision, {"gold": 1.01}, "gold=1.01: must be at least 0 and at most 1"),
    ],
)
def test_shares_are_from_0_to_1(kind: type, option: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        parse(kind, option)
    parse(kind, {key: 1.0 for key in option})


def test_the_ratio_follows_its_schedule() -> None:
    assert Glancing()(0) == Glancing()(10**6) == 0
    ratio = Glancing(start=0.5, end=0.3, updates=100)
    assert [ratio(update) for update in (0, 50, 100, 1000)] == pytest.approx([0.5, 0.4, 0.3, 0.3])


def rows(num_rows: int) -> RowRandom:
    tokens = torch.arange(num_rows)[:, None]
    return RowRandom.of((tokens, torch.ones_like(tokens, dtype=torch.bool)), seed=1)


def test_revealed_positions_hold_the_reference_the_others_what_they_held() -> None:
    x, embedded = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    where = torch.tensor([[True, False, True], [False, False, True]])
    assert torch.equal(reveal(x, embedded, where), where[:, :, None].expand(-1, -1, 4).float())


def test_noise_is_the_rows_own() -> None:
    predicted, reference = torch.zeros(6, 8, dtype=torch.long), torch.ones(6, 8, dtype=torch.long)
    valid = torch.ones(6, 8, dtype=torch.bool)
    whole = shown(predicted, reference, valid, rows(6), ratio=0.5)
    assert whole.sum(dim=1).tolist() == [4] * 6
    some = torch.tensor([4, 1])
    assert torch.equal(shown(predicted[:2], reference[:2], valid[:2], rows(6).select(some), ratio=0.5), whole[some])


def test_gold_is_a_share_of_the_valid_positions() -> None:
    valid = torch.tensor([True] * 9 + [False]).expand(3000, -1)
    share = gold_positions(valid, rows(3000), share=0.3).double().mean(dim=0)
    assert torch.allclose(share, torch.tensor([0.3] * 9 + [0.0], dtype=torch.double), atol=0.04)
    assert torch.equal(gold_positions(valid, rows(3000), share=1.0), valid)
    assert not gold_positions(valid, rows(3000), share=0.0).any()
