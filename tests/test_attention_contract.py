"""What every kind of self-attention promises, alone and in every model.

A new configs/attention/NAME.yaml is tested here without touching a test.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import ATTENTIONS, MODELS, make_batch, make_model
from oracles import rows_of
from torch import Tensor, nn

from nat.composition import config_directory
from nat.config import Component, load_yaml, parse
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.nn.attention.base import Attention, attention_stack
from nat.runs.weights import load_weights, save_tensors
from nat.training.objective import objective

EACH_KIND = pytest.mark.parametrize("name", ATTENTIONS)
DIM, HEADS, LAYERS = 16, 8, 2
LENGTHS = [200, 131, 20, 1]  # longer than the windows and blocks that the YAMLs have
TOLERANCE = 1e-9  # in float64


class Stack(nn.Module):
    """A few layers of a kind, with what a layer of a transformer has around it."""

    def __init__(self, layers: list[Attention]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        for layer in self.layers:
            entered = self.norm(x)
            x = x + layer(entered, entered, valid)
        return x


def make_stack(name: str, *, seed: int = 0, num_heads: int = HEADS, head_dim: int | None = None) -> Stack:
    torch.manual_seed(seed)
    kind = parse(Component, load_yaml(config_directory() / "attention" / f"{name}.yaml"))
    return Stack(attention_stack(kind, num_layers=LAYERS, dim=DIM, num_heads=num_heads, head_dim=head_dim)).eval()


def lengths_for(stack: Stack) -> list[int]:
    limits = [layer.max_length for layer in stack.layers if isinstance(layer, Attention)]
    return [min([length, *(limit for limit in limits if limit is not None)]) for length in LENGTHS]


def states(lengths: list[int], *, extra: int = 0, junk: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random states of these lengths, with `extra` columns more of padding, and the padding's numbers times `junk`."""
    valid = torch.arange(max(lengths) + extra) < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(length, DIM, dtype=torch.float64, generator=generator) for length in lengths]
    x = junk * torch.randn(*valid.shape, DIM, dtype=torch.float64, generator=generator)
    for row, given in zip(x, rows, strict=True):
        row[: len(given)] = given
    return x, valid


def weights_for(x: Tensor) -> Tensor:
    """Something to weight outputs by that depends on a position and not on the width."""
    places = torch.arange(x.size(1), dtype=x.dtype)[:, None] * 0.7 + torch.arange(DIM, dtype=x.dtype) * 1.3
    return torch.sin(places)


def run(stack: Stack, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Outputs, 0 at padding; gradients of a sum over what is valid by the input, and by each parameter."""
    x = x.detach().requires_grad_()
    stack.zero_grad()
    found = stack(x, valid)
    assert found.shape == x.shape
    assert torch.isfinite(found).all()
    found = found if valid is None else found.masked_fill(~valid[:, :, None], 0.0)
    (found * weights_for(x)).sum().backward()
    assert x.grad is not None
    return found.detach(), x.grad, {key: p.grad.clone() for key, p in stack.named_parameters() if p.grad is not None}


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


# --- a stack of the kind ----------------------------------------------------------------------------


@EACH_KIND
def test_a_row_alone_is_as_in_a_batch(name: str) -> None:
    stack = make_stack(name).double()
    lengths = lengths_for(stack)
    x, valid = states(lengths, junk=3.0)
    together, gradient, _ = run(stack, x, valid)
    for row, length in enumerate(lengths):
        part = x[row : row + 1, :length]
        for mask in (None, valid[row : row + 1, :length]):
            alone, alone_gradient, _ = run(stack, part, mask)
            close(alone[0], together[row, :length])
            close(alone_gradient[0], gradient[row, :length])


@EACH_KIND
def test_padding_and_what_stands_in_it_change_nothing(name: str) -> None:
    stack = make_stack(name).double()
    lengths = [length - 5 for length in lengths_for(stack)[:2]] + [3, 0]  # the last row is padding alone
    first, gradient, parameters = run(stack, *states(lengths, extra=1))
    for extra, junk in ((1, 100.0), (5, 3.0)):
        x, valid = states(lengths, extra=extra, junk=junk)
        found, found_gradient, found_parameters = run(stack, x, valid)
        width = max(lengths)
        close(found[:, :width], first[:, :width])
        close(found_gradient[:, :width], gradient[:, :width])
        assert not found_gradient[~valid].any()
        assert found_parameters.keys() == parameters.keys()
        for key, value in parameters.items():
            close(found_parameters[key], value)


@EACH_KIND
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    stack = make_stack(name).train()
    x, valid = states(lengths_for(stack), junk=1.0)
    _, gradient, parameters = run(stack, x.float(), valid)
    assert torch.isfinite(gradient).all()
    assert gradient[valid].abs().sum(dim=-1).min() > 0
    used = {key for key, _ in stack.named_parameters()} - {"norm.weight", "norm.bias"}
    assert used <= parameters.keys()
    for key in used:
        assert torch.isfinite(parameters[key]).all(), key
        assert parameters[key].abs().sum() > 0, key


@EACH_KIND
def test_bf16_is_close_to_float32(name: str) -> None:
    stack = make_stack(name, head_dim=4)  # normalised to unit variance, heads of width 2 know two directions alone
    x, valid = states(lengths_for(stack))
    exact = stack(x.float(), valid)[valid] - x.float()[valid]
    with torch.autocast("cpu", torch.bfloat16):
        rough = stack(x.float(), valid)[valid].float() - x.float()[valid]
    assert (rough - exact).norm() < 0.1 * exact.norm()


@EACH_KIND
@pytest.mark.parametrize("training", [True, False])
def test_the_same_twice(name: str, training: bool) -> None:
    """Whatever is random is part of the kind's state, not drawn on the way."""
    stack = make_stack(name).train(training)
    other = copy.deepcopy(stack)
    x, valid = states(lengths_for(stack))
    torch.manual_seed(1)
    first = run(stack, x.float(), valid)
    torch.manual_seed(2)
    second = run(other, x.float(), valid)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    for key, buffer in stack.named_buffers():
        assert torch.equal(buffer, dict(other.named_buffers())[key]), key


@EACH_KIND
def test_state_survives_safetensors(name: str, tmp_path: Path) -> None:
    stack, other = make_stack(name, seed=1), make_stack(name, seed=2)
    save_tensors(stack.state_dict(), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    x, valid = states(lengths_for(stack))
    assert torch.equal(stack(x.float(), valid), other(x.float(), valid))


@EACH_KIND
def test_heads_have_the_width_that_a_group_of_heads_gives_them(name: str) -> None:
    stack = make_stack(name, head_dim=5)
    x, valid = states(lengths_for(stack))
    assert stack(x.float(), valid).shape == x.shape


@EACH_KIND
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"num_heads=3|4 \+ 4 heads"):
        make_stack(name, num_heads=3)


# --- in every model ---------------------------------------------------------------------------------


def small_model(name: str, attention: str) -> TranslationModel:
    size: dict[str, Any] = {"dim": DIM, "num_heads": HEADS}
    return make_model(name, attention=attention, dtype=torch.float64, size=size)


def short(model: TranslationModel) -> dict[str, Any]:
    """Options that make decoding short."""
    names = type(model).Decoding.__dataclass_fields__
    given = {"max_length_factor": 1.0, "max_length_offset": 2, "max_passes": 2}
    return {key: value for key, value in given.items() if key in names}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_decodes_with_every_kind(name: str, attention: str) -> None:
    """In its encoder, and in its decoder where that is not causal and has no kinds of its own."""
    model = small_model(name, attention).train()
    batch = make_batch([(5, 4), (2, 3)], vocabularies=model.vocabularies)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses: list[float] = []
    while True:  # with the same noise at every step, so that a step must lower the loss
        loss = objective(model.loss(batch, update=1), int(batch.num_target_tokens))
        losses.append(loss.item())
        if len(losses) == 3:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[1:]) < losses[0]  # not the last: what learns from its own output meets another text each time
    model.eval()
    decoding = type(model).Decoding(**short(model))
    with torch.no_grad():
        together = model.decode(batch.source, decoding=decoding)
        alone = model.decode(rows_of(batch)[1].source, decoding=decoding)  # of the shorter one, without its padding
    assert alone.tokens[alone.valid].tolist() == together.tokens[1][together.valid[1]].tolist()
    close(alone.scores[0], together.scores[1])
