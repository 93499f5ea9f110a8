"""LSH attention as a kind of self-attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.base import Attention
from nat.nn.attention.reformer import ReformerAttention

VALID = torch.arange(9) < torch.tensor([9, 6, 2, 1])[:, None]


def make(*, layers: int = 1, **options: float) -> list[Attention]:
    torch.manual_seed(0)
    config = parse(ReformerAttention.Config, {"chunk_size": 2, **options})
    return [layer.double() for layer in ReformerAttention.stack(config, num_layers=layers, dim=8, num_heads=2)]


def states(length: int = 9, seed: int = 1) -> Tensor:
    return torch.randn(4, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shared_attention(attention: Attention, x: Tensor, valid: Tensor) -> Tensor:
    """Dense attention with shared queries and keys; nobody looks at itself but who is alone."""
    q, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in attention.project_in(x).chunk(2, dim=-1))  # type: ignore[operator]
    k = q / q.norm(dim=-1, keepdim=True)  # of length 1: the scores are without 1 / sqrt(E)
    mask = valid[:, None, :] & ~torch.eye(x.size(1), dtype=torch.bool)
    mask |= (valid.sum(dim=1) == 1)[:, None, None] & torch.eye(x.size(1), dtype=torch.bool)
    weights = (q @ k.transpose(2, 3)).masked_fill(~mask[:, None], -1e9).softmax(dim=-1)
    return attention.project_out((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[operator]


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("chunk", [9, 50])
def test_one_chunk_is_full_attention_with_shared_queries_and_keys(rounds: int, chunk: int) -> None:
    (attention,) = make(chunk_size=chunk, num_rounds=rounds)
    x = states().requires_grad_()
    found, expected = attention(x, x, VALID), shared_attention(attention, x, VALID)
    torch.testing.assert_close(found[VALID], expected[VALID], rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(y[VALID].square().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_more_rounds_come_nearer_to_full_attention() -> None:
    x = torch.randn(2, 128, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(2, 128, dtype=torch.bool)
    errors = []
    for rounds in (1, 4, 16, 64):
        (attention,) = make(chunk_size=8, num_rounds=rounds)
        errors.append((attention(x, x, valid) - shared_attention(attention, x, valid)).norm().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


def test_gradients() -> None:
    (attention,) = make()
    x = states(7)[:2].requires_grad_()
    valid = torch.arange(7) < torch.tensor([7, 5])[:, None]
    assert torch.autograd.gradcheck(lambda x: attention(x, x, valid)[valid], (x,), fast_mode=True)


def test_a_row_does_not_depend_on_its_batch_or_on_padding() -> None:
    (attention,) = make()
    x = states().masked_fill(~VALID[:, :, None], 7.0)
    together = attention(x, x, VALID)
    for row, length in enumerate(VALID.sum(dim=1).tolist()):
        part = x[row : row + 1, :length]
        alone = attention(part, part, None)
        torch.testing.assert_close(alone[0], together[row, :length], rtol=0, atol=1e-12)


def test_rotations_follow_seed_and_layer() -> None:
    first, second = (layer.get_buffer("rotations") for layer in make(layers=2))
    assert not torch.equal(first, second)
    assert torch.equal(first, make()[0].get_buffer("rotations"))
    assert not torch.equal(first, make(seed=1)[0].get_buffer("rotations"))
    assert "rotations" in make()[0].state_dict()


def test_dropout_is_for_training() -> None:
    (attention,) = make(dropout=0.5)
    x = states()
    assert not torch.equal(attention.train()(x, x, VALID), attention(x, x, VALID))
    assert torch.equal(attention.eval()(x, x, VALID), make()[0](x, x, VALID))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"chunk_size": 0}, "chunk_size=0: must be at least 1"),
        ({"num_rounds": 0}, "num_rounds=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and less than 1"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(ReformerAttention.Config, option)
