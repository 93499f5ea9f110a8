"""Averages of weights: of several checkpoints, and the moving one of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def average_weights(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor over several checkpoints, summed in float64."""
    return {
        name: (sum(part[name].double() for part in parts) / len(parts)).to(parts[0][name].dtype)  # type: ignore[union-attr]
        for name in parts[0]
    }


class MovingAverage:
    """The exponential moving average of a model's weights over updates, from those after the first one.

    decay: weight of the past at each update; 0: none is kept. weights: None before the first update.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        if not self.decay:
            return
        weights = model.state_dict()
        if self.weights is None:
            self.weights = {name: value.clone() for name, value in weights.items()}
        for name, value in weights.items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1.0 - self.decay)
            else:  # a part's fixed numbers, such as seeds
                self.weights[name].copy_(value)


class SwappedWeights:
    """While entered, the model has other weights (None: its own)."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor] | None) -> None:
        self.model, self.weights = model, weights
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.weights is not None:
            self.own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.weights)

    def __exit__(self, *error: object) -> None:
        if self.weights is not None:
            self.model.load_state_dict(self.own)
