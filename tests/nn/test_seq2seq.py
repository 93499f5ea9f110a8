"""Deep supervision: layers that predict and feed their predictions on."""

from __future__ import annotations

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.data.batch import Source
from nat.errors import ConfigError
from nat.models.vanilla import Vanilla
from nat.nn.seq2seq import Guide


def vanilla(enabled: bool, num_layers: int = 3, norm: str = "pre") -> Vanilla:
    model = make_model(
        "vanilla",
        dtype=torch.float64,
        deep_supervision={"enabled": enabled},
        decoder={"num_layers": num_layers},
        size={"norm": norm},
    )
    assert isinstance(model, Vanilla)
    return model


def layers(model: Vanilla, source: Source, guide: Guide | None = None) -> list[Tensor]:
    """What the layers predict for targets as long as their source."""
    memory, _ = model.length.encode(model.net, source)
    x, valid = model.copied(source, source.lengths)
    states = model.net.layers(model.net.place(x), valid, memory, guide=guide)
    return [model.net.head(memory).full(each) for each in states]


SOURCE = make_batch([(5, 1), (3, 1)]).source


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_a_fresh_deep_model_is_the_plain_one_with_a_prediction_in_each_layer(norm: str) -> None:
    plain, deep = vanilla(False, norm=norm), vanilla(True, norm=norm)
    missing, unexpected = deep.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[1] for name in missing} == {"feedback"}
    assert not unexpected
    (alone,), all_layers = layers(plain, SOURCE), layers(deep, SOURCE)
    assert len(all_layers) == 3
    assert torch.allclose(all_layers[-1], alone, rtol=0, atol=1e-12)
    for log_probs in all_layers:
        assert torch.allclose(log_probs.exp().sum(dim=-1), torch.ones((), dtype=torch.float64))
    assert not torch.allclose(all_layers[0], all_layers[1])
    short = vanilla(False, num_layers=1, norm=norm)  # the first layer's prediction is that of a stack of one
    short.load_state_dict(plain.state_dict(), strict=False)
    assert torch.allclose(all_layers[0], layers(short, SOURCE)[0], rtol=0, atol=1e-12)


def test_a_layer_feeds_on_what_the_guide_makes_of_the_one_before() -> None:
    model = vanilla(True)
    with torch.no_grad():
        for feedback in model.net.feedback:
            feedback.weight[:, 16:].normal_()  # type: ignore[union-attr, index, operator]
    seen: list[Tensor] = []

    def constant(states: Tensor) -> Tensor:
        log_probs = model.net.head_for(None).full(states)
        assert not log_probs.requires_grad
        seen.append(log_probs)
        return torch.full(log_probs.shape[:2], 9)

    def arg_max(states: Tensor) -> Tensor:
        return model.net.head_for(None).full(states).argmax(dim=-1)

    free, fed = layers(model, SOURCE), layers(model, SOURCE, constant)
    assert len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(seen, fed[:2], strict=True))
    assert torch.equal(free[0], fed[0])
    assert not torch.allclose(free[1], fed[1])
    for a, b in zip(free, layers(model, SOURCE, arg_max), strict=True):
        assert torch.equal(a, b)


def test_one_layer_has_nothing_to_feed_on() -> None:
    with pytest.raises(ConfigError, match=r"deep_supervision.enabled=true: has no effect with decoder.num_layers=1"):
        vanilla(True, num_layers=1)
