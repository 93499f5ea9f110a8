"""Feature maps whose products stand for attention weights, and attention in linear time by them.

If the weight of key k for query q is phi(q) . phi(k), then sum_k phi(q) . phi(k) v_k = phi(q) (sum_k phi(k) v_k^T): the
sum over keys is made once for all queries, and no N x N matrix is (Katharopoulos et al. 2020, equation 6,
https://arxiv.org/abs/2006.16236).

Features are several times as wide as heads. They are made for a piece of the sequence at a time, which fits into a
processor's cache: in one piece 16,384 positions take twice as long on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PIECE = 2048  # positions
Piece = Float[Tensor, "B H _ F"]  # the last one is shorter


def in_pieces(
    features: Callable[[Tensor], Tensor],
    x: Float[Tensor, "B H N E"],
    valid: Bool[Tensor, "B N"] | None = None,
    *,
    padding: float = 0.0,
) -> Iterator[Piece]:
    """Features of x, PIECE positions at a time; `padding` at positions that are not valid."""
    for start in range(0, max(1, x.size(2)), PIECE):
        mapped = features(x[:, :, start : start + PIECE])
        if valid is not None:
            mapped = mapped.masked_fill(~valid[:, None, start : start + PIECE, None], padding)
        yield mapped


def mix_by_features(
    queries: Iterable[Piece],
    keys: Iterable[Piece],
    values: Float[Tensor, "B H N E"],
    *,
    least: Float[Tensor, "B 1 1 1"] | None = None,
) -> Float[Tensor, "B H L E"]:
    """Values weighted by phi(q) . phi(k) over its sum over keys; queries and keys come as pieces of their features,
    those of keys that do not count are zero.

    least: what a sum of weights is held above, where it is an estimate that may be zero or less. Without any key the
    result is zero.
    """
    total, gathered, start = values.new_zeros(()), values.new_zeros(()), 0
    for piece in keys:
        end = start + piece.size(2)
        total = total + piece.sum(dim=2).unsqueeze(-1)  # (B, H, F, 1)
        gathered = gathered + piece.transpose(2, 3) @ values[:, :, start:end]  # (B, H, F, E)
        start = end
    mixed = []
    for piece in queries:
        sums = piece @ total  # (B, H, P, 1)
        if least is not None:
            sums = sums.maximum(least)
        mixed.append(piece @ gathered / sums.masked_fill(sums == 0, 1.0))
    return torch.cat(mixed, dim=2)


def mix_by_log_features(
    queries: Iterable[Piece],
    keys: Iterable[Piece],
    values: Float[Tensor, "B H N E"],
) -> Float[Tensor, "B H L E"]:
    """`mix_by_features` of the exponentials, which neither overflow nor vanish; -inf where a key does not count.

    The most that a key has of a feature goes from the keys to the queries, then the most that a query has of a feature
    out of the query, where it cancels. So the largest feature of a query is 1, its sum over keys at least 1, and their
    product too: exact whatever the norms, without a maximum over other rows.
    """
    keys = list(keys)
    with torch.no_grad():
        most = torch.cat([piece.amax(dim=2, keepdim=True) for piece in keys], dim=2).amax(dim=2, keepdim=True)
        most = most.masked_fill(most == -torch.inf, 0.0)  # (B, H, 1, F); no key counts
    looks = (piece + most for piece in queries)
    shares = ((look - look.detach().amax(dim=3, keepdim=True)).exp() for look in looks)
    return mix_by_features(shares, ((piece - most).exp() for piece in keys), values)


def elu_features(x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """elu(x) + 1 (Katharopoulos et al. 2020, equation 7): x + 1 above zero, exp(x) below."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def fourier_features(x: Float[Tensor, "B H N E"], frequencies: Float[Tensor, "H M E"]) -> Float[Tensor, "B H N 2*M"]:
    """(sin(w x), cos(w x)) / sqrt(M). With w ~ N(0, I), products of features are on average exp(-|x - y|^2 / 2)
    (Rahimi & Recht 2007; Peng et al. 2021, equation 3, https://arxiv.org/abs/2103.02143)."""
    angles = x @ frequencies.transpose(1, 2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1) / math.sqrt(frequencies.size(1))


def positive_log_features(x: Float[Tensor, "B H N E"], directions: Float[Tensor, "H M E"]) -> Float[Tensor, "B H N M"]:
    """log(exp(w x - |x|^2 / 2) / sqrt(M)). With w ~ N(0, I), products of features are on average exp(x . y)
    (Choromanski et al. 2021, lemma 1, https://arxiv.org/abs/2009.14794)."""
    shift = x.square().sum(dim=-1, keepdim=True) / 2 + math.log(directions.size(1)) / 2
    return x @ directions.transpose(1, 2) - shift


def gaussian_directions(
    num_heads: int, num_features: int, dim: int, *, seed: int, orthogonal: bool
) -> Float[Tensor, "H M E"]:
    """Rows w ~ N(0, I), independent, or orthogonal to each other within each block of E (Choromanski et al. 2021,
    section 2.4): the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_heads, num_features, dim)
    free = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not orthogonal:
        return free.float()
    blocks = torch.randn((num_heads, -(-num_features // dim), dim, dim), generator=generator, dtype=torch.float64)
    bases, upper = torch.linalg.qr(blocks)
    bases = bases * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # then uniform over all rotations
    unit = bases.transpose(2, 3).flatten(1, 2)[:, :num_features]
    return (unit * free.norm(dim=-1, keepdim=True)).float()


def separate_softmaxes(
    queries: Float[Tensor, "B H L E"], keys: Float[Tensor, "B H N E"], valid: Bool[Tensor, "B N"] | None
) -> tuple[Float[Tensor, "B H L E"], Float[Tensor, "B H N E"]]:
    """Queries normalised over their features, keys over their positions: rows of the product sum to 1 (Shen et al.
    2018, section 3.2, https://arxiv.org/abs/1812.01243). Zeros at positions that are not valid."""
    if valid is None:
        return queries.softmax(dim=3), keys.softmax(dim=2)
    padding = ~valid[:, None, :, None]
    hidden = keys.masked_fill(padding, torch.finfo(keys.dtype).min)  # -inf would be NaN where all is padding
    return queries.softmax(dim=3), hidden.softmax(dim=2).masked_fill(padding, 0.0)
