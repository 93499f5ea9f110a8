"""Long sequences as sequences of cells."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def mean_of_cells(
    x: Float[Tensor, "B N D"], lengths: Int[Tensor, " B"], *, max_cells: int
) -> tuple[Float[Tensor, "B C D"], Bool[Tensor, "B C"]]:
    """The means of adjacent cells of a row's first `lengths` positions, and where a row has a cell: C = max_cells at
    most. A cell has length / max_cells positions, rounded up; the last one of a row may have fewer."""
    width = x.size(1)
    widest = -(-width // max_cells)  # positions in a cell of a row without padding
    sizes = (lengths.clamp(min=1) + max_cells - 1) // max_cells  # (B,)
    starts = torch.arange(max_cells, device=x.device) * sizes[:, None]  # (B, C)
    inside = torch.arange(widest, device=x.device)
    positions = starts[:, :, None] + inside
    real = (inside < sizes[:, None, None]) & (positions < lengths[:, None, None])  # (B, C, P)
    index = positions.clamp(max=width - 1).flatten(1)[:, :, None].expand(-1, -1, x.size(2))
    members = x.gather(1, index).unflatten(1, (max_cells, widest)).masked_fill(~real[..., None], 0.0)
    return members.sum(dim=2) / real.sum(dim=2, keepdim=True).clamp(min=1), starts < lengths[:, None]
