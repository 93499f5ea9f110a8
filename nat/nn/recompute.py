"""Activation checkpointing: layers whose inner activations are computed again in the backward pass, not kept.

Chen et al. 2016, https://arxiv.org/abs/1604.06174. A layer keeps its input alone; its forward pass is done twice, with
the same dropout, so that gradients are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nat.nn.running import unobserved
from nat.nn.transformer import Layer


def recompute_layers(model: nn.Module) -> int:
    """From now on every transformer layer of the model is recomputed where it is trained. Returns their number."""
    layers = [part for part in model.modules() if isinstance(part, Layer)]
    for layer in layers:
        layer.forward = recomputed(layer, layer.forward)  # type: ignore[method-assign]
    return len(layers)


def recomputed(layer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def keeping_input_alone(*inputs: Any) -> Tensor:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*inputs)
        if torch.compiler.is_compiling():
            return checkpoint(forward, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=_contexts)  # type: ignore[no-any-return]

    return keeping_input_alone


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first pass, and of the second, in which nothing is learnt of what passes again."""
    return nullcontext(), unobserved()
