"""Attention to a window and to shared keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_same_where_valid, masked_attention, random_states
from torch import Tensor

from nat.ops.window import Pattern, Shared, block_mask, flex_serves, flexible, window_attention

SHAPES = [  # positions, window, dilation, skip, shared keys
    (50, 3, 1, 0, 0),
    (130, 40, 1, 0, 0),
    (90, 5, 3, 2, 4),
    (140, 33, 2, 0, 5),
    (7, 20, 2, 0, 0),
    (100, 0, 1, 1, 1),
    (1, 1, 1, 0, 0),
]


def inputs(length: int, number: int) -> tuple[list[Tensor], Tensor, Shared]:
    """Queries, keys, values; lengths; shared keys, of which the first is seen."""
    parts = [random_states(3, 2, length, 4, seed=seed) for seed in range(3)]
    keys, values = (random_states(3, 2, number, 4, seed=seed) for seed in (3, 4))
    seen = torch.randn(3, number, generator=torch.Generator().manual_seed(5)) > 0
    seen[:, :1] = True
    return parts, torch.tensor([length, (length + 1) // 2, 1]), Shared(keys, values, seen)


def dense(parts: list[Tensor], lengths: Tensor, shared: Shared, *, window: int, dilation: int, skip: int) -> Tensor:
    queries, keys, values = parts
    near = torch.zeros(len(lengths), 1, queries.size(2), queries.size(2), dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        for i in range(length):
            for steps in range(-window, window + 1):
                if skip <= (j := i + steps * dilation) < length:
                    near[row, 0, i, j] = True
    common = shared.seen[:, None, None].expand(-1, 1, queries.size(2), -1)
    return masked_attention(
        queries,
        torch.cat((shared.keys, keys), dim=2),
        torch.cat((shared.values, values), dim=2),
        torch.cat((common, near), dim=-1),
    )


@pytest.mark.parametrize(("length", "window", "dilation", "skip", "number"), SHAPES)
def test_window_attention_is_a_masked_softmax(length: int, window: int, dilation: int, skip: int, number: int) -> None:
    parts, lengths, shared = inputs(length, number)
    found = window_attention(*parts, lengths, window=window, dilation=dilation, shared=shared, skip=skip)
    expected = dense(parts, lengths, shared, window=window, dilation=dilation, skip=skip)
    learnt = [*parts, shared.keys, shared.values] if number else parts
    assert_same_where_valid(found, expected, lengths, learnt)
    assert torch.isfinite(found).all()


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 90), window=st.integers(0, 50), dilation=st.integers(1, 4), skip=st.integers(0, 3))
def test_any_window(length: int, window: int, dilation: int, skip: int) -> None:
    parts, lengths, shared = inputs(length, 2)
    options = {"window": window, "dilation": dilation, "skip": skip}
    found = window_attention(*parts, lengths, shared=shared, **options)
    assert_same_where_valid(found, dense(parts, lengths, shared, **options), lengths, parts)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("length", "window", "dilation", "skip", "number"), SHAPES)
def test_the_mask_function_of_flex_attention_is_the_same_pattern(
    length: int, window: int, dilation: int, skip: int, number: int
) -> None:
    parts, lengths, shared = inputs(length, number)
    with torch.no_grad():  # on a CPU it has no backward pass
        chunked = window_attention(*parts, lengths, window=window, dilation=dilation, shared=shared, skip=skip)
        pattern = Pattern(window, dilation, skip, number)
        found = flexible(*parts, lengths, pattern=pattern, shared=shared)
    torch.testing.assert_close(found, chunked)


def test_a_block_mask_leaves_out_what_no_window_reaches_and_is_kept() -> None:
    pattern = Pattern(100)
    mask = block_mask(pattern, 128 * 8, torch.device("cpu"))
    assert mask.kv_num_blocks[0, 0].tolist() == [2, 3, 3, 3, 3, 3, 3, 2]
    assert block_mask(Pattern(100), 128 * 8, torch.device("cpu")) is mask


def test_flex_attention_serves_on_cuda_alone() -> None:
    assert not flex_serves(torch.zeros(1, 1, 4, 16), 0.0)


@pytest.mark.gpu
def test_on_a_gpu_flex_attention_has_the_same_values_and_gradients() -> None:
    parts = [torch.randn(2, 4, 1000, 32, device="cuda", requires_grad=True) for _ in range(3)]
    lengths = torch.tensor([1000, 613], device="cuda")
    shared = Shared(parts[1][:, :, :3], parts[2][:, :, :3], torch.ones(2, 3, dtype=torch.bool, device="cuda"))
    assert flex_serves(parts[0], 0.0)
    for dilation in (1, 2):
        results = []
        for dropout in (0.0, 1e-12):  # with dropout it is the chunked path
            found = window_attention(
                *parts, lengths, window=70, dilation=dilation, shared=shared, skip=3, dropout=dropout
            )
            valid = (torch.arange(1000, device="cuda") < lengths[:, None])[:, None, :, None]
            results.append([found * valid, *torch.autograd.grad((found * valid).sin().sum(), parts)])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_dropout_takes_weights_away() -> None:
    parts, lengths, shared = inputs(20, 2)
    torch.manual_seed(0)
    found = window_attention(*parts, lengths, window=3, shared=shared, dropout=0.5)
    assert not torch.allclose(found, window_attention(*parts, lengths, window=3, shared=shared))
