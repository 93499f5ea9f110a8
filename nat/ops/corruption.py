"""Noise on references, for training as a denoising auto-encoder (Lee et al. 2018, section 4.2,
https://arxiv.org/abs/1802.06901)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def corrupt(
    tokens: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    noise: Float[Tensor, "B T 3"],
    *,
    rate: float,
    weights: tuple[float, float, float],
    alphabet: tuple[int, int],
) -> Int[Tensor, "B T"]:
    """Each position, with probability `rate`, is the start of one corruption, chosen by `weights`:

    repeat: y_{t+1} becomes y_t. replace: y_t becomes a token drawn evenly from ids alphabet[0] .. alphabet[1] - 1.
    swap: y_t and y_{t+1} change places; of two swaps that overlap the left one is made. Repeat and swap need a
    neighbour on the right within `lengths`. All read the uncorrupted tokens; where several write the same position a
    swap wins over a repeat and a repeat over a replacement. noise: uniform in (0, 1).
    """
    width = tokens.size(1)
    positions = torch.arange(width, device=tokens.device)
    inside = positions < lengths[:, None]
    has_next = positions + 1 < lengths[:, None]
    starts = (noise[:, :, 0] < rate) & inside
    total = sum(weights)
    repeat_to, replace_to = weights[0] / total, (weights[0] + weights[1]) / total
    kind = noise[:, :, 1]
    repeats = starts & has_next & (kind < repeat_to)
    replaces = starts & (kind >= repeat_to) & (kind < replace_to)
    swaps = _without_overlap(starts & has_next & (kind >= replace_to))

    def shifted(where: Tensor) -> Tensor:
        return F.pad(where[:, :-1], (1, 0))  # the position on the right of a start

    drawn = alphabet[0] + (noise[:, :, 2] * (alphabet[1] - alphabet[0])).long().clamp(max=alphabet[1] - alphabet[0] - 1)
    before, after = F.pad(tokens[:, :-1], (1, 0)), F.pad(tokens[:, 1:], (0, 1))
    noisy = drawn.where(replaces, tokens)
    noisy = before.where(shifted(repeats), noisy)
    noisy = after.where(swaps, noisy)
    return before.where(shifted(swaps), noisy)


def _without_overlap(starts: Tensor) -> Tensor:
    """Of consecutive starts every other one, from the left of each run: a position changes places once."""
    positions = torch.arange(starts.size(1), device=starts.device)
    last_gap = positions.where(~starts, -1).cummax(dim=1).values  # the nearest position on the left that is no start
    return starts & ((positions - last_gap) % 2 == 1)
