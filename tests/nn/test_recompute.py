"""Layers that are computed again in the backward pass: the same gradients, and less that is kept."""

from __future__ import annotations

import pytest
import torch
from builders import MODELS, make_batch, make_model
from running import watched_model
from torch import Tensor

from nat.models.contract import TranslationModel
from nat.nn.recompute import recompute_layers
from nat.nn.running import Running
from nat.training.objective import objective

LENGTHS = [(5, 4), (2, 1), (7, 5), (3, 3)]
DROPOUT = {"size": {"dropout": 0.3}}


def gradients(model: TranslationModel) -> dict[str, Tensor]:
    model.train().zero_grad()
    torch.manual_seed(3)
    objective(model.loss(make_batch(LENGTHS, vocabularies=model.vocabularies), update=1), 10).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept(model: TranslationModel) -> int:
    """Numbers that are kept for the backward pass, those of parameters left out."""
    own, seen = {p.data_ptr() for p in model.parameters()}, dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = model.train().loss(make_batch(20 * LENGTHS, vocabularies=model.vocabularies), update=1)
    del terms
    return sum(seen.values())


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_to_the_last_bit(name: str) -> None:
    plain, again = (make_model(name, **DROPOUT) for _ in range(2))
    assert recompute_layers(again) > 0
    expected, found = gradients(plain), gradients(again)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


def test_what_is_kept_for_the_backward_pass_is_less() -> None:
    plain, again = (make_model("ctc", encoder={"num_layers": 6}) for _ in range(2))
    recompute_layers(again)
    assert kept(again) < 0.5 * kept(plain)


def test_statistics_count_once_what_passes_twice() -> None:
    plain, again = watched_model(), watched_model()
    recompute_layers(again)
    for model in (plain, again):
        gradients(model)
    (expected,), (found,) = (
        [part for part in model.modules() if isinstance(part, Running)] for model in (plain, again)
    )
    assert expected.sum_of("count") == sum(source for source, _ in LENGTHS)
    assert all(torch.equal(*sums) for sums in zip(expected.sums, found.sums, strict=True))


def test_evaluation_is_as_it_was() -> None:
    plain, again = (make_model("mask_predict") for _ in range(2))
    recompute_layers(again)
    source = make_batch(LENGTHS).source
    decoding = type(plain).Decoding()
    with torch.inference_mode():
        first, second = (model.decode(source, decoding=decoding).tokens for model in (plain, again))
    assert torch.equal(first, second)
