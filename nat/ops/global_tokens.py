"""Attention in which some tokens are global: they see everything, and everything sees them, whatever else it sees."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.blocks import attend
from nat.ops.window import Shared, window_attention


def inside(x: Float[Tensor, "B H N E"], lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B N"]:
    """True at the positions before a row's length."""
    return torch.arange(x.size(2), device=x.device) < lengths[:, None]


def with_first(
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    first: int,
    extra: Shared | None,
) -> Shared:
    """What everything sees: the extra keys, and the `first` ones of the sequence."""
    own = Shared(keys[:, :, :first], values[:, :, :first], inside(keys, lengths)[:, :first])
    return own if extra is None else extra.before(own)


def attend_from_first(
    queries: Float[Tensor, "B H G E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    extra: Shared | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H G E"]:
    """What global queries take: they see all of the sequence, and the extra keys. Each row has a token at least."""
    seen = Shared(keys, values, inside(keys, lengths))
    if extra is not None:
        seen = extra.before(seen)
    return attend(queries, seen.keys, seen.values, seen.seen[:, None, None], dropout=dropout)


def global_attention(
    queries: Float[Tensor, "B H N E"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    lengths: Int[Tensor, " B"],
    *,
    window: int,
    first: int,
    extra: Shared | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H N E"]:
    """A window to each side, and global keys: the `first` of each sequence, which see everything, and the extra ones.

    lengths: tokens of each row, one at least. dropout: on the weights.
    """
    shared = with_first(keys, values, lengths, first=first, extra=extra)
    windowed = window_attention(
        queries, keys, values, lengths, window=window, shared=shared, skip=first, dropout=dropout
    )
    if not first:
        return windowed
    rows = attend_from_first(queries[:, :, :first], keys, values, lengths, extra=extra, dropout=dropout)
    return torch.cat((rows, windowed[:, :, first:]), dim=2)
