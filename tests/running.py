"""Models with running statistics, and what a rank makes of them: for tests/training/test_running.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from builders import make_model, make_step
from torch import Tensor
from workers import logged, rank_environment

from nat.data.pairs import Pair
from nat.models.contract import TranslationModel
from nat.nn.attention.base import Attention
from nat.nn.attention.full import FullAttention
from nat.nn.running import Running
from nat.training.distributed import Ranks


class MeanOfStates(Running):
    """Goes a tenth of the way to the mean of an update's states."""

    def __init__(self, dim: int) -> None:
        super().__init__(states=(dim,), count=())
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        if self.observing:
            self.observe(states=x[valid].sum(dim=0), count=valid.sum())
        return x + self.get_buffer("mean")

    def absorb(self) -> None:
        states, count = self.sums
        self.get_buffer("mean").lerp_(states / count.clamp(min=1), 0.1)


class WatchedAttention(FullAttention):
    """Full attention to states that are shifted by their running mean."""

    def __init__(self, config: FullAttention.Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(config, dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.watch = MeanOfStates(dim)

    def forward(self, x: Tensor, context: Tensor, valid: Tensor | None) -> Tensor:
        seen = self.watch(x, torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid)
        return super().forward(seen, seen, valid)


def watched_model() -> TranslationModel:
    """A tiny CTC model in training, with running statistics in its encoder."""
    model = make_model("ctc").train()
    return with_attention(model, WatchedAttention(FullAttention.Config(), dim=16, num_heads=2))


def with_attention(model: TranslationModel, attention: Attention) -> TranslationModel:
    """The model with another self-attention in its encoder's first layer, in float64."""
    model.net.encoder.layers[0].self_attention = attention.train()  # type: ignore[union-attr, index, operator]
    return model.double()


def buffers(model: TranslationModel, updates: list[list[Pair]], **options: Any) -> dict[str, Tensor]:
    """The buffers of the checkpoint after these updates."""
    step = make_step(model, **options)
    for number, pairs in enumerate(updates, start=1):
        step(pairs, update=number, learning_rate=0.0)
    names = {name for name, _ in model.named_buffers()}
    return {name: value.clone() for name, value in model.state_dict().items() if name in names}


def rank_buffers(rank: int, port: str, make: Callable[[], TranslationModel], cases: list[Any], folder: str) -> None:
    """One of two ranks: its buffers after each case (updates, max_tokens), written to FOLDER/RANK.pt."""
    with logged(f"{folder}/{rank}.log"):
        os.environ.update(rank_environment(rank, 2, port))
        ranks = Ranks.from_environment(torch.device("cpu"))
        try:
            found = [buffers(make(), updates, max_tokens=size, ranks=ranks) for updates, size in cases]
            torch.save(found, Path(folder) / f"{rank}.pt")
        finally:
            ranks.close()
