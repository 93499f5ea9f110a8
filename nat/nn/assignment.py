"""The cheapest one-to-one assignment of the tokens of a target to the positions of a canvas.

By scipy's method of Crouse 2016, "On implementing 2D rectangular assignment algorithms",
https://doi.org/10.1109/TAES.2016.140952, on the host.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IMPOSSIBLE = -1e9  # stands for -inf, which is no cost


def best_order(log_probs: Float[Tensor, "B L L"], where: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """For each position of `where` the target position whose token it is to hold, each of them once, so that the sum of
    log-probabilities is greatest; elsewhere the position itself.

    log_probs: of position l and the target's token at t, the same number of both. One transfer of a batch each way.
    """
    return _best_order(log_probs.detach(), where)  # type: ignore[no-any-return]


@torch.library.custom_op("nat::best_order", mutates_args=(), schema="(Tensor log_probs, Tensor where) -> Tensor")
def _best_order(log_probs: Tensor, where: Tensor) -> Tensor:
    """One operator of torch: a compiled graph holds it as one node."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, for those alone who train with it

    scores, chosen = torch.cat((log_probs.double(), where[:, :, None].double()), dim=2).cpu().numpy(), where.size(1)
    order = np.tile(np.arange(chosen), (len(scores), 1))
    for row, values in enumerate(scores):
        places = np.flatnonzero(values[:, -1])
        costs = -np.nan_to_num(values[np.ix_(places, places)], nan=IMPOSSIBLE, neginf=IMPOSSIBLE)
        order[row, places] = places[linear_sum_assignment(costs)[1]]
    return torch.from_numpy(order).to(log_probs.device)


@_best_order.register_fake
def _(log_probs: Tensor, where: Tensor) -> Tensor:
    return torch.empty_like(where, dtype=torch.long)
