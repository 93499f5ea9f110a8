"""Embeddings and positions: their scale at first, and what is kept between calls."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from builders import make_batch, make_model

from nat.nn.embedding import Initial, PositionConfig, PositionKind, Positions, TokenEmbedding
from nat.training.objective import objective


@pytest.mark.parametrize("initial", Initial)
@pytest.mark.parametrize("dim", [16, 512])
def test_learned_positions_begin_as_large_as_token_embeddings(initial: Initial, dim: int) -> None:
    torch.manual_seed(1)
    tokens = TokenEmbedding(1000, dim=dim, initial=initial)(torch.arange(1, 1000))
    positions = Positions(PositionConfig(PositionKind.LEARNED, 1000), dim=dim, initial=initial)(1000)
    assert positions.std().item() == pytest.approx(tokens.std().item(), rel=0.05)
    expected = 1.0 if initial is Initial.XAVIER else 0.02 * math.sqrt(dim)
    assert tokens.std().item() == pytest.approx(expected, rel=0.05)


def test_every_embedding_of_a_model_has_the_initial_scale() -> None:
    model = make_model("vanilla", size={"initial": "normal"}, positions={"kind": "learned"})
    for name, parameter in model.named_parameters():
        if "embeddings" in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
        if "positions" in name:
            assert parameter.std().item() == pytest.approx(0.02 * 4, rel=0.2), name  # sqrt(D) of the tokens' scale


def test_positions_that_grew_while_decoding_serve_training() -> None:
    """The table that inference mode made cannot be saved for a backward pass."""
    positions = Positions(PositionConfig(), dim=8)
    weight = torch.randn(4, 8, requires_grad=True)
    with torch.inference_mode():
        assert positions(300).shape == (300, 8)
    F.linear(positions(280), weight).sum().backward()
    assert weight.grad is not None


def test_a_fertility_model_learns_after_it_has_decoded_a_long_source() -> None:
    model = make_model("fertility")
    with torch.inference_mode():
        model.decode(make_batch([(140, 1)]).source, decoding=type(model).Decoding())
    batch = make_batch([(5, 4), (150, 260)])
    objective(model.train().loss(batch, update=1), int(batch.num_target_tokens)).backward()
