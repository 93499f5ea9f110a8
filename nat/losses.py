"""Losses of single predictions, as sums with counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.log_softmax import softmax_parts


class CrossEntropy(NamedTuple):
    """total: the smoothed sum. nll: the sum of negative log-likelihoods, without a gradient. num_labels: of both."""

    total: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    num_labels: Int[Tensor, ""]

    @classmethod
    def of_layers(cls, layers: list[CrossEntropy]) -> CrossEntropy:
        """The mean total of several layers' predictions of the same labels; else the last layer's."""
        return layers[-1]._replace(total=torch.stack([layer.total for layer in layers]).mean())


def cross_entropy(
    scores: Float[Tensor, "*B V"],
    labels: Int[Tensor, "*B"],
    where: Bool[Tensor, "*B"],
    *,
    label_smoothing: float = 0.0,
    forbidden: list[int] | None = None,
) -> CrossEntropy:
    """Over the positions `where`. scores: logits, or log-probabilities.

    The smoothing mass is spread evenly over the classes that are not `forbidden` (those whose logit is -inf) (Szegedy
    et al. 2016, section 7, https://arxiv.org/abs/1512.00567).
    """
    flat, counted = scores.flatten(0, -2), where.flatten()
    rows = torch.arange(len(flat), device=flat.device)
    parts = softmax_parts(flat, rows, labels.flatten(), with_mean=label_smoothing > 0, forbidden=forbidden)
    nll = -parts.at.masked_fill(~counted, 0.0).sum()
    return CrossEntropy(smoothed(nll, parts.mean, counted, weight=label_smoothing), nll.detach(), counted.sum())


def smoothed(
    nll: Float[Tensor, ""], mean: Float[Tensor, "*B"], where: Bool[Tensor, "*B"], *, weight: float
) -> Float[Tensor, ""]:
    """With the share `weight` of the cross entropy of the uniform distribution at the positions `where`. mean: of the
    log-probabilities of all possible classes at each position; nothing is read of it where the weight is 0."""
    if weight == 0:
        return nll
    return (1 - weight) * nll - weight * mean.masked_fill(~where, 0.0).sum()


def token_log_probs(
    log_probs: Float[Tensor, "B L V"], labels: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Log-probability of each label, 0 where not valid."""
    return log_probs.gather(2, labels[:, :, None]).squeeze(2).masked_fill(~valid, 0.0)
