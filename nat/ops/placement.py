"""Where phrases go on a canvas of fixed length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def window_sums(values: Float[Tensor, "B L C N"], valid: Bool[Tensor, "B C N"]) -> Float[Tensor, "B C L"]:
    """values: what each token of each phrase is worth at each position. Returns the worth of a phrase that begins at a
    position: the sum over its tokens, -inf where it would not fit."""
    length, width = values.size(1), values.size(3)
    padded = F.pad(values, (0, 0, 0, 0, 0, width), value=-torch.inf)  # (B, L + N, C, N)
    total = torch.zeros_like(values[..., 0])
    for n in range(width):
        here = padded[:, n : n + length, :, n]  # (B, L, C)
        total = total + here.masked_fill(~valid[:, None, :, n], 0.0)
    return total.transpose(1, 2)


def best_placement(
    scores: Float[Tensor, "B C L"], lengths: Int[Tensor, "B C"]
) -> tuple[Int[Tensor, "B C"], Float[Tensor, " B"]]:
    """The beginnings of phrases of these lengths, in the given order and without overlap, whose scores have the highest
    sum, and that sum; -inf where they do not fit. The leftmost of equals. scores: of a phrase that begins at a
    position, -inf where it cannot; phrases of length 0 take no place."""
    batch, number, length = scores.shape
    scores = scores.masked_fill((lengths == 0)[:, :, None], 0.0)
    ahead = torch.arange(length, device=scores.device)
    after = scores.new_zeros(batch, length + 1)  # the best sum of what follows, by the first free position
    from_here, choices = [], []
    for c in reversed(range(number)):
        ends = (ahead + lengths[:, c, None]).clamp(max=length)
        gain = scores[:, c] + after.gather(1, ends)  # (B, L)
        best, index = gain.flip(1).cummax(dim=1)
        from_here.append(best.flip(1))
        choices.append((length - 1 - index).flip(1))
        past_the_end = torch.where(lengths[:, c, None] == 0, after[:, -1:], -torch.inf)
        after = torch.cat((from_here[-1], past_the_end), dim=1)
    position = torch.zeros_like(lengths[:, :1])
    starts = []
    for c, choice in enumerate(reversed(choices)):
        start = choice.gather(1, position.clamp(max=length - 1)).where(lengths[:, c, None] > 0, position)
        starts.append(start)
        position = start + lengths[:, c, None]
    return torch.cat(starts, dim=1), after[:, 0]
