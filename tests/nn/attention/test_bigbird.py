"""A window, global tokens and random blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import masked_attention

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.base import Attention
from nat.nn.attention.bigbird import BigBirdAttention
from nat.nn.attention.full import FullAttention
from nat.ops.random_blocks import random_blocks
from nat.runs.weights import load_tensors

LENGTHS = torch.tensor([45, 20, 1])
VALID = torch.arange(45) < LENGTHS[:, None]


def make(**options: int | float) -> BigBirdAttention:
    torch.manual_seed(0)
    return BigBirdAttention(parse(BigBirdAttention.Config, options), dim=8, num_heads=2).double()


def states() -> torch.Tensor:
    return torch.randn(3, 45, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("first", [0, 1, 6])
def test_it_sees_window_random_blocks_and_global_tokens(first: int) -> None:
    attention, x = make(block_size=4, num_random_blocks=2, num_tokens=first), states()
    chosen, there = random_blocks(attention.uniform(12), -(-LENGTHS // 4), reach=1, first=first // 4)
    i, j = torch.arange(45)[:, None], torch.arange(45)
    seen = (((i // 4 - j // 4).abs() <= 1) | (i < first) | (j < first)).repeat(3, 2, 1, 1)
    for row in range(3):
        for head in range(2):
            for block in range(12):
                for other in chosen[row, head, block][there[row, head, block]].tolist():
                    seen[row, head, block * 4 : block * 4 + 4, other * 4 : other * 4 + 4] = True
    assert there[0].any() and there[1].any()
    expected = attention.merge(masked_attention(*attention.project(x), seen & VALID[:, None, None]))
    torch.testing.assert_close(attention(x, x, VALID)[VALID], expected[VALID])


@pytest.mark.parametrize("options", [{"num_tokens": 45}, {"block_size": 45}, {"block_size": 15, "num_tokens": 0}])
def test_where_everything_is_seen_it_is_full_attention(options: dict[str, int]) -> None:
    attention = make(**options)
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({key: value for key, value in attention.state_dict().items() if key != "keys"})
    x = states()
    torch.testing.assert_close(attention(x, x, VALID)[VALID], full(x, x, VALID)[VALID])


def test_padding_and_batch_change_nothing() -> None:
    attention, x = make(block_size=4, num_tokens=5, num_extra=2), states()
    found = attention(x, x, VALID)
    junk = x.masked_fill(~VALID[:, :, None], 50.0)
    wide = torch.nn.functional.pad(junk, (0, 0, 0, 30), value=3.0)
    torch.testing.assert_close(
        attention(wide, wide, torch.nn.functional.pad(VALID, (0, 30)))[:, :45][VALID], found[VALID]
    )
    short = x[1:2, :20]
    torch.testing.assert_close(attention(short, short, None)[0], found[1, :20])


def test_gradients() -> None:
    attention = make(block_size=1, num_window_blocks=1, num_random_blocks=1, num_tokens=1, num_extra=1)
    x, valid = states()[:2, :4].requires_grad_(), torch.tensor([[True] * 4, [True, True, True, False]])
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid)[valid], (x,))
    attention(x, x, valid).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def stack(seed: int) -> list[Attention]:
    return BigBirdAttention.stack(BigBirdAttention.Config(seed=seed), num_layers=2, dim=8, num_heads=2)


def test_random_blocks_follow_the_seed_and_differ_between_layers_and_heads() -> None:
    keys = torch.cat([torch.as_tensor(layer.keys) for layer in stack(1) + stack(2)])
    assert len(set(keys.tolist())) == 8
    again: list[Any] = [torch.as_tensor(layer.keys) for layer in stack(1)]
    assert torch.equal(torch.cat(again), keys[:4])
    assert "keys" in make().state_dict()


def test_the_numbers_of_a_block_do_not_depend_on_how_many_there_are() -> None:
    attention = make()
    assert torch.equal(attention.uniform(9)[:, :4], attention.uniform(4))


def test_a_moving_average_of_weights_keeps_the_random_blocks(
    nat_train: Callable[..., int], small: list[str], tmp_path: Path
) -> None:
    budget = ["trainer.max_updates=3", "trainer.save_every=3", "trainer.moving_average=0.5", "validation.every=3"]
    options = ["model=ctc", "attention=bigbird", "encoder.num_layers=1", "model.decoder.num_layers=1"]
    assert nat_train(*small, *options, *budget, f"run_dir={tmp_path / 'run'}") == 0
    (average,) = (tmp_path / "run").rglob("average.safetensors")
    kept = load_tensors(average, "cpu")["net.encoder.layers.0.self_attention.keys"]
    expected = BigBirdAttention(BigBirdAttention.Config(), dim=16, num_heads=2).keys
    assert torch.equal(kept, expected)


def test_dropout_is_for_training() -> None:
    attention, usual, x = make(dropout=0.5, num_tokens=4, block_size=4), make(num_tokens=4, block_size=4), states()
    apart = (attention(x, x, None) - usual(x, x, None)).abs().amax(dim=-1) > 1e-9
    assert apart.all()
    torch.testing.assert_close(attention.eval()(x, x, None), usual(x, x, None))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="num_window_blocks=2: must be odd, as many to each side"):
        make(num_window_blocks=2)
