"""Classes drawn from a softmax, by given numbers that are uniform in (0, 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nat.ops.log_softmax import pieces
from nat.ops.precision import at_least_float32

BLOCK = 64  # neighbouring classes that are summed, so that few sums are cumulated


def class_of(logits: Float[Tensor, "*B V"], drawn: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """The class that each number draws."""
    return classes_of(logits, drawn[..., None]).squeeze(-1)


def classes_of(logits: Float[Tensor, "*B V"], drawn: Float[Tensor, "*B n"]) -> Int[Tensor, "*B n"]:
    """Where numbers fall among the cumulated probabilities; never on an impossible class."""
    flat, numbers = logits.flatten(0, -2), drawn.flatten(0, -2).double()
    classes = torch.empty(numbers.shape, dtype=torch.long, device=logits.device)
    for piece in pieces(flat):
        classes[piece] = _classes_of(flat[piece], numbers[piece])
    return classes.view(drawn.shape)


def _classes_of(logits: Float[Tensor, "N V"], drawn: Float[Tensor, "N n"]) -> Int[Tensor, "N n"]:
    """Probabilities are float32, their sums float64: rare classes would be lost in a sum of all before them."""
    probabilities = torch.softmax(at_least_float32(logits), dim=-1)
    size = probabilities.size(1)
    width = min(BLOCK, size)
    whole = size // width * width
    sums = probabilities[:, :whole].unflatten(1, (-1, width)).sum(dim=2)
    if whole < size:
        sums = torch.cat((sums, probabilities[:, whole:].sum(dim=1, keepdim=True)), dim=1)
    heights = F.pad(sums.double().cumsum(dim=1), (1, 0))  # (N, C + 1)
    scaled = (drawn * heights[:, -1:]).contiguous()
    block = torch.searchsorted(heights[:, 1:].contiguous(), scaled, right=True).clamp(max=sums.size(1) - 1)
    below, above = heights.gather(1, block), heights.gather(1, block + 1)
    classes = block[:, :, None] * width + torch.arange(width, device=block.device)  # (N, n, W)
    inside = probabilities.gather(1, classes.clamp(max=size - 1).flatten(1)).view(classes.shape)
    inside = inside.double().masked_fill(classes >= size, 0.0).cumsum(dim=2)
    total = inside[:, :, -1]
    place = torch.minimum((scaled - below) / (above - below) * total, torch.nextafter(total, torch.zeros_like(total)))
    return block * width + torch.searchsorted(inside, place[:, :, None], right=True).squeeze(2)
