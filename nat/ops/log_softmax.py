"""What a loss needs of a softmax over the vocabulary, without the log-softmax itself.

A loss reads a few entries of each row, its normaliser and, for label smoothing, its mean. The whole log-softmax in
float32 would be written once and read twice, forward and backward; in pieces that stay in the cache it is never stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries that are worked on together: 2 MB of float32 fill a core's cache, a GPU needs more to be busy.
PIECE, PIECE_ON_GPU = 1 << 19, 1 << 27


class SoftmaxParts(NamedTuple):
    """at: (M,) log-probabilities that were asked for. mean: (N,) of each row's log-probabilities, over the classes that
    are possible; zeros where not asked for. normaliser: (N,) log of the sum of exp(logits). All float32, or float64."""

    at: Float[Tensor, " M"]
    mean: Float[Tensor, " N"]
    normaliser: Float[Tensor, " N"]


def softmax_parts(
    logits: Float[Tensor, "N V"],
    rows: Int[Tensor, " M"],
    classes: Int[Tensor, " M"],
    *,
    with_mean: bool = False,
    forbidden: list[int] | None = None,
) -> SoftmaxParts:
    """Of log_softmax(logits): the entries (rows[i], classes[i]), any number of each row and in any order.

    forbidden: classes of logit -inf, ascending, which the mean leaves out. Log-probabilities are logits, too:
    their normaliser is 0. Gradients go to the logits, once.
    """
    return SoftmaxParts(*_SoftmaxParts.apply(logits, rows, classes, with_mean, tuple(forbidden or ())))


def normalisers(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """log of the sum of exp(logits), as `softmax_parts` has it."""
    none = torch.zeros(0, dtype=torch.long, device=logits.device)
    return softmax_parts(logits, none, none).normaliser


def pieces(logits: Tensor) -> list[slice]:
    """Rows that are worked on together. In compiled code all of them: a compiler cuts its own."""
    if torch.compiler.is_compiling():
        return [slice(None)]
    size = max(1, (PIECE_ON_GPU if logits.is_cuda else PIECE) // logits.size(1))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


class _SoftmaxParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, classes: Tensor, with_mean: bool, forbidden: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        normaliser, mean = logits.new_zeros((2, len(logits)), dtype=dtype)
        possible = _possible(logits, forbidden)
        for piece in pieces(logits):
            part = logits[piece].to(dtype)
            log_probs = torch.log_softmax(part, dim=1)
            normaliser[piece] = part.amax(dim=1) - log_probs.amax(dim=1)  # quicker than logsumexp
            if with_mean:
                mean[piece] = sum(log_probs[:, run].sum(dim=1) for run in possible) / _count(possible)
        at = logits.flatten()[rows * logits.size(1) + classes].to(dtype) - normaliser[rows]
        ctx.save_for_backward(logits, rows, classes, normaliser)
        ctx.with_mean, ctx.possible = with_mean, possible
        return at, mean, normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_at: Tensor, of_mean: Tensor, of_normaliser: Tensor) -> tuple[Tensor | None, ...]:
        logits, rows, classes, normaliser = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        factor = of_normaliser - torch.zeros_like(normaliser).index_add(0, rows, of_at)
        share = of_mean / _count(ctx.possible)
        if ctx.with_mean:
            factor = factor - of_mean
        for piece in pieces(logits):
            part = torch.softmax(logits[piece].to(normaliser.dtype), dim=1).mul_(factor[piece, None])
            if ctx.with_mean:
                for run in ctx.possible:
                    part[:, run] += share[piece, None]
            gradient[piece] = part
        gradient.view(-1).index_add_(0, rows * logits.size(1) + classes, of_at.to(gradient.dtype))
        return gradient, None, None, None, None


def _possible(logits: Tensor, forbidden: tuple[int, ...]) -> list[slice]:
    """The classes that are not forbidden, in runs: the forbidden ones are few, and among the first."""
    ends = [*forbidden, logits.size(1)]
    starts = [0, *(number + 1 for number in forbidden)]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def _count(possible: list[slice]) -> int:
    return sum(run.stop - run.start for run in possible)
