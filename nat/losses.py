"""Losses of single predictions, as sums with counts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def log_prob_cross_entropy(
    log_probs: Float[Tensor, "B L V"],
    labels: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    *,
    label_smoothing: float = 0.0,
    forbidden: list[int] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Int[Tensor, ""]]:
    """(smoothed total, plain negative log-likelihood total, count) over the valid positions.

    The smoothing mass is spread evenly over the classes that are not `forbidden` (those whose log-probability is -inf)
    (Szegedy et al. 2016, section 7).
    """
    nll = -log_probs.gather(2, labels[:, :, None]).squeeze(2).masked_fill(~valid, 0.0)  # (B, L)
    total = nll.sum()
    if label_smoothing > 0:
        uniform = uniform_cross_entropy(log_probs, valid, forbidden=forbidden)
        total = (1 - label_smoothing) * total + label_smoothing * uniform
    return total, nll.sum().detach(), valid.sum()


def uniform_cross_entropy(
    log_probs: Float[Tensor, "B L V"], valid: Bool[Tensor, "B L"], *, forbidden: list[int] | None = None
) -> Float[Tensor, ""]:
    """Cross entropy of the uniform distribution over the classes that are not `forbidden`, summed over the valid
    positions: what label smoothing mixes in, also where no position has a label."""
    if forbidden:
        log_probs = log_probs.index_fill(2, torch.tensor(forbidden, device=log_probs.device), 0.0)
    mean = log_probs.sum(dim=-1) / (log_probs.size(-1) - len(forbidden or ()))  # (B, L)
    return -mean.masked_fill(~valid, 0.0).sum()


def token_log_probs(
    log_probs: Float[Tensor, "B L V"], labels: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Log-probability of each label, 0 where not valid."""
    return log_probs.gather(2, labels[:, :, None]).squeeze(2).masked_fill(~valid, 0.0)
