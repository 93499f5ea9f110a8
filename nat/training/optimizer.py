"""Optimisers as components."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from nat.config import option


class Adam(torch.optim.AdamW):
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019). Vectors (biases, norms)
    are not decayed. The learning rate is set before every step by the trainer."""

    @dataclass(frozen=True)
    class Config:
        beta1: float = option(0.9, "decay of the mean of gradients", minimum=0, below=1)
        beta2: float = option(0.98, "decay of the mean of squared gradients", minimum=0, below=1)
        epsilon: float = option(1e-8, "added to the root of the mean square", above=0)
        weight_decay: float = option(0.0, "decoupled weight decay of matrices", minimum=0)

    def __init__(self, config: Config, *, parameters: Iterable[nn.Parameter]) -> None:
        trained = [p for p in parameters if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
