"""Attention among positions that a locality-sensitive hash puts together.

Kitaev et al. 2020, section 2, https://arxiv.org/abs/2001.04451. R rounds of hashing, N positions in C
chunks of W, X = 3 W seen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.precision import at_least_float32, without_autocast

DIRECTIONS = 64  # of one hash, which has twice as many buckets; where more are needed, two hashes together
SELF_PENALTY = 1e5  # section 2: of the score of a position for itself, so that it looks there if nowhere else
PADDING_CODE = 2**30


@torch.no_grad()
def hash_buckets(
    x: Float[Tensor, "B H N E"], rotations: Float[Tensor, "H R E G"], num_chunks: Int[Tensor, " B"], *, most: int
) -> Int[Tensor, "B H R N"]:
    """The bucket of each vector in each round, h(x) = argmax([x R; -x R]), from 0.

    rotations: the directions of a first and of a second hash, `DIRECTIONS` each. num_chunks: of each row, `most` at
    most. A row has two buckets a chunk; with one chunk it has one.
    """
    second = (-(-num_chunks // (2 * DIRECTIONS))).clamp(min=1)
    is_double = num_chunks > DIRECTIONS
    first = torch.where(is_double, -(-num_chunks // (2 * second)), num_chunks).clamp(max=DIRECTIONS)
    width = min(most, DIRECTIONS)
    buckets = _hash(x, rotations[..., :width], first)
    if most > DIRECTIONS:
        second = second.clamp(max=DIRECTIONS)
        width = min(-(-most // (2 * DIRECTIONS)), DIRECTIONS)
        finer = _hash(x, rotations[..., DIRECTIONS : DIRECTIONS + width], second)
        both = buckets * (2 * second)[:, None, None, None] + finer
        buckets = torch.where(is_double[:, None, None, None], both, buckets)
    return buckets.masked_fill((num_chunks <= 1)[:, None, None, None], 0)


def _hash(
    x: Float[Tensor, "B H N E"], rotations: Float[Tensor, "H R E G"], directions: Int[Tensor, " B"]
) -> Int[Tensor, "B H R N"]:
    """Among the first `directions` of each row."""
    with without_autocast(x):
        turned = at_least_float32(x)[:, :, None] @ rotations.to(torch.promote_types(x.dtype, torch.float32))
    unused = torch.arange(rotations.size(-1), device=x.device) >= directions[:, None]
    nearest = turned.abs().masked_fill(unused[:, None, None, None], -1.0).argmax(dim=-1)
    opposite = turned.gather(-1, nearest[..., None]).squeeze(-1) < 0
    return nearest + directions[:, None, None, None] * opposite


def lsh_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    buckets: Int[Tensor, "B H R N"],
    valid: Bool[Tensor, "B N"],
    *,
    width: int,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """Softmax over what a position sees in any of the rounds: o = sum_r exp(z_r - z) o_r (section 2, equation 8).

    In a round, positions are sorted by bucket and cut into chunks; a position sees those of its bucket in its own
    chunk and in the two beside it, and itself if it sees nothing else in any round. Padding sorts last and is seen by
    nobody. keys: belong to queries at the same position. width: of a chunk.
    """
    length, extra = queries.size(2), -queries.size(2) % width
    queries, keys, values = (F.pad(part, (0, 0, 0, extra)) for part in (queries, keys, values))
    order, place, codes = sort_into_chunks(F.pad(buckets, (0, extra)), F.pad(valid, (0, extra)), width=width)
    hidden = unseen(codes, order, width=width)
    with without_autocast(queries):
        if queries.device.type == "cpu":  # as in full attention
            queries, keys, values = (at_least_float32(part) for part in (queries, keys, values))
        sums, shares, peaks = _rounds(queries / math.sqrt(queries.size(-1)), keys, values, order, hidden, dropout)
        numerators = _pick(sums, place)  # (B, H, R, N, E)
        shares, peaks = (part.gather(-1, place) for part in (shares, peaks))
        factors = (peaks - peaks.amax(dim=2, keepdim=True)).exp()
        mixed = (factors[..., None] * numerators).sum(dim=2) / (factors * shares).sum(dim=2)[..., None]
    return mixed[:, :, :length].to(values.dtype)


def sort_into_chunks(
    buckets: Int[Tensor, "B H R N"], valid: Bool[Tensor, "B N"], *, width: int
) -> tuple[Int[Tensor, "B H R N"], Int[Tensor, "B H R N"], Int[Tensor, "B H R N"]]:
    """The order by (bucket, position), the place of each position in it, and each position's code: positions see one
    another where their codes differ by at most 1. Padding comes last."""
    length = buckets.size(-1)
    positions, real = torch.arange(length, device=buckets.device), valid[:, None, None]
    last = torch.iinfo(torch.int64).max // 2
    order = torch.where(real, buckets * length + positions, last + positions).argsort(dim=-1)
    place = torch.empty_like(order).scatter_(-1, order, positions.expand_as(order))
    codes = buckets * (length // width + 2) + place // width  # another bucket is 2 away, or more
    return order, place, torch.where(real, codes, PADDING_CODE + 2 * positions).int()


def unseen(codes: Int[Tensor, "B H R N"], order: Int[Tensor, "B H R N"], *, width: int) -> Bool[Tensor, "B H R C W X"]:
    """What a position does not see of three chunks in a round, or has seen in an earlier one, so that it counts once:
    the same as the paper's division by the number of rounds. It always sees itself."""
    rounds = codes.size(2)
    hidden = ~_near(codes.gather(-1, order), width)
    for number in range(rounds - 1):
        later = order[:, :, number + 1 :]
        earlier = codes[:, :, number : number + 1].expand_as(later).gather(-1, later)
        hidden[:, :, number + 1 :] |= _near(earlier, width)
    hidden.diagonal(offset=width, dim1=-2, dim2=-1).fill_(False)
    return hidden


def _near(codes: Int[Tensor, "B H R N"], width: int) -> Bool[Tensor, "B H R C W X"]:
    chunks = F.pad(codes, (width, width), value=-2).unfold(-1, 3 * width, width)  # (B, H, R, C, 3 W)
    own = codes.unflatten(-1, (-1, width))
    return (own[..., None] - chunks[..., None, :]).abs_() <= 1


def _rounds(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    order: Int[Tensor, "B H R N"],
    hidden: Bool[Tensor, "B H R C W X"],
    dropout: float,
) -> tuple[Float[Tensor, "B H R N E"], Float[Tensor, "B H R N"], Float[Tensor, "B H R N"]]:
    """Of each place in the order of each round: sum_j p_j v_j, sum_j p_j and m, where p_j = exp(q k_j - m)."""
    width, shape = hidden.size(-2), order.shape
    asking = _pick(queries, order).view(-1, width, queries.size(-1))
    seen_keys, seen_values = (_with_neighbours(_pick(part, order), width) for part in (keys, values))
    scores = at_least_float32(asking @ seen_keys.transpose(1, 2)).masked_fill_(
        hidden.view(-1, width, 3 * width), -math.inf
    )
    scores.diagonal(offset=width, dim1=-2, dim2=-1).sub_(SELF_PENALTY)
    peaks = scores.detach().amax(dim=-1, keepdim=True)
    weights = scores.sub_(peaks).exp_()
    mixed = F.dropout(weights, dropout, training=dropout > 0).to(values.dtype) @ seen_values
    return mixed.view(*shape, -1), weights.sum(dim=-1).view(shape), peaks.view(shape)


def _pick(x: Float[Tensor, "B H *R N E"], order: Int[Tensor, "B H R N"]) -> Float[Tensor, "B H R N E"]:
    """The vectors at these positions, of each round's own where x has rounds."""
    groups = x.flatten(0, -3)  # (B H, N, E) or (B H R, N, E)
    per_group = order.view(groups.size(0), -1)
    starts = torch.arange(groups.size(0), device=x.device)[:, None] * groups.size(1)
    return groups.flatten(0, 1).index_select(0, (per_group + starts).flatten()).view(*order.shape, -1)


def _with_neighbours(x: Float[Tensor, "B H R N E"], width: int) -> Float[Tensor, "G X E"]:
    """Each chunk between the one before and the one after, without a copy: chunks of all rounds, heads and rows stand
    in one line, and what is beyond an end is not seen."""
    line = F.pad(x.view(-1, width * x.size(-1)), (0, 0, 1, 1))
    return line.unfold(0, 3, 1).transpose(1, 2).unflatten(-1, (width, -1)).flatten(1, 2)
