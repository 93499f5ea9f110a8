"""A distribution over the vocabulary mixed with one over the positions of a text (See, Liu & Manning 2017, section 2.2,
https://arxiv.org/abs/1704.04368)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_positions(tokens: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """The first position of the row that holds the same token."""
    ordered, order = tokens.sort(dim=1, stable=True)  # equal tokens side by side, in the order of their positions
    begins = F.pad(ordered.diff(dim=1) != 0, (1, 0), value=True)
    begin = torch.arange(tokens.size(1), device=tokens.device).where(begins, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter(1, order, order.gather(1, begin))


def mix_with_copies(
    log_probs: Float[Tensor, "B L V"],
    weights: Float[Tensor, "B L S"],
    gate: Float[Tensor, "B L"],
    tokens: Int[Tensor, "B S"],
    allowed: Bool[Tensor, "B S"],
) -> Float[Tensor, "B L V"]:
    """log P(w), P(w) = p_gen P_vocab(w) + (1 - p_gen) sum of a_i over the positions i that hold w (equation 9).

    weights: a, 0 where not allowed, of sum 1 if any position of the row is allowed. gate: p_gen = sigmoid(gate); 1
    where no position is allowed. log_probs: log P_vocab, finite at the allowed tokens.

    Every position's weight goes to the first position of its token, and from there to the vocabulary: nothing is wider
    than V or S, and no token is written twice.
    """
    first = first_positions(tokens.masked_fill(~allowed, -1))
    log_generate = F.logsigmoid(gate).masked_fill(~allowed.any(dim=1, keepdim=True), 0.0)
    generated = log_probs + log_generate[:, :, None]
    summed = torch.zeros_like(weights).scatter_add(2, first[:, None].expand_as(weights), weights)
    least = torch.finfo(summed.dtype).tiny  # the logarithm of a weight that underflows would have no gradient
    copied = summed.clamp(min=least).log() + F.logsigmoid(-gate)[:, :, None]  # (B, L, S)
    chosen = (allowed & (first == torch.arange(tokens.size(1), device=tokens.device)))[:, None]
    index = tokens[:, None].expand_as(weights)
    before = generated.gather(2, index).masked_fill(~chosen, 0.0)
    gain = (torch.logaddexp(before, copied) - before).masked_fill(~chosen, 0.0)
    return generated.scatter_add(2, index, gain)
