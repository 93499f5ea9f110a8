"""Aligned cross entropy: the cheapest monotonic alignment of a target with the predictions of a canvas.

Ghazvininejad, Karpukhin, Zettlemoyer & Levy 2020, "Aligned Cross Entropy for Non-Autoregressive Machine Translation",
https://arxiv.org/abs/2004.01655. A prediction that stands for no token of the target is to be eps, a
symbol that means nothing and is dropped in decoding. All rows advance together, along the diagonals of the table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.ops.lattice import TargetScores

NUM_MOVES = 3  # align, skip the prediction, skip the token; of equally cheap ones the first is taken


def aligned_loss(scored: TargetScores, hidden: Bool[Tensor, "B M"], *, skip_target: float) -> Float[Tensor, " B"]:
    """The cost of the cheapest alignment of each row, in nats, in double precision; its gradient is that of the costs
    along this alignment.

    With A_00 = 0 and p_j the prediction at position j of the canvas, A_ij is the least of
    A_(i-1)(j-1) - log p_j(y_i), which aligns both, A_i(j-1) - log p_j(eps), which skips the prediction, and
    A_(i-1)j - delta log p_j(y_i), which skips the token; a token that is skipped before any prediction is scored by the
    first one. scored: its blank is eps. skip_target: delta.

    hidden: the positions that are predicted, of a canvas as long as its target. The others are given: position i holds
    y_i, which costs nothing, and neither is aligned with anything else. So each run of hidden positions is aligned by
    itself, and a token that is skipped at its begin is scored by the first prediction of the run.
    """
    costs = F.pad(arrivals(scored, hidden, skip_target=skip_target).flatten(1), (0, 1))  # and 0 for no move
    with torch.no_grad():
        moves = _cheapest_moves(costs, scored.target_lengths, scored.canvas_lengths, scored.targets.size(1))
    return costs.gather(1, moves).sum(dim=1)


def arrivals(scored: TargetScores, hidden: Bool[Tensor, "B M"], *, skip_target: float) -> Float[Tensor, "B 3 M1 T1"]:
    """What it costs to arrive at (j, i), when j predictions and i tokens are done, by each of the moves; infinite where
    that is impossible."""
    costs, given = -scored.scores, ~hidden
    (_, num_positions, width), infinity = costs.shape, torch.inf
    positions = torch.arange(num_positions + 1, device=costs.device)
    diagonal = positions[:-1, None] == torch.arange(width - 1, device=costs.device)  # (M, T)
    aligned = costs[:, :, 1:].masked_fill(given[:, :, None], infinity)
    aligned = aligned.masked_fill(given[:, :, None] & diagonal, 0.0)
    skipped = costs[:, :, 0].masked_fill(given, infinity)
    scorer = positions - 1 + F.pad(given, (1, 0), value=True)  # (B, M + 1): which prediction scores a skipped token
    inside = scorer.clamp(max=num_positions - 1)
    none = (scorer >= num_positions) | given.gather(1, inside)
    beside = skip_target * costs[:, :, 1:].gather(1, inside[:, :, None].expand(-1, -1, width - 1))
    beside = beside.masked_fill(none[:, :, None], infinity)
    return torch.stack(
        (
            F.pad(aligned, (1, 0, 1, 0), value=infinity),
            F.pad(skipped[:, :, None].expand(-1, -1, width), (0, 0, 1, 0), value=infinity),
            F.pad(beside, (1, 0), value=infinity),
        ),
        dim=1,
    )


@torch.library.custom_op(
    "nat::cheapest_moves",
    mutates_args=(),
    schema="(Tensor costs, Tensor target_lengths, Tensor canvas_lengths, SymInt num_tokens) -> Tensor",
)
def _cheapest_moves(costs: Tensor, target_lengths: Tensor, canvas_lengths: Tensor, num_tokens: int) -> Tensor:
    """Where in `costs`, flat and with a last column for no move, the moves of the cheapest way to the end of each row
    stand: (B, M + T), the last move first. One operator of torch: a compiled graph holds it as one node."""
    width = num_tokens + 1
    table = costs[:, :-1].unflatten(1, (NUM_MOVES, -1, width))  # (B, 3, M + 1, T + 1)
    last, tokens = table.size(2) - 1, torch.arange(width, device=costs.device)
    before = torch.full_like(table[:, 0, 0], torch.inf)
    reached = before.clone()
    reached[:, 0] = 0.0  # the cell of the first diagonal
    chosen = []
    for diagonal in range(1, last + width):
        place = diagonal - tokens  # predictions that are done
        outside = (place < 0) | (place > last)
        step = table[:, :, place.clamp(0, last), tokens].masked_fill(outside, torch.inf)  # (B, 3, T + 1)
        ways = torch.stack((_next_token(before), reached, _next_token(reached)), dim=1) + step
        best, move = ways.min(dim=1)
        before, reached = reached, best
        chosen.append(move)
    return _trace(chosen, target_lengths, canvas_lengths, last + 1, width)


@_cheapest_moves.register_fake
def _(costs: Tensor, target_lengths: Tensor, canvas_lengths: Tensor, num_tokens: int) -> Tensor:
    num_places = (costs.size(1) - 1) // NUM_MOVES // (num_tokens + 1)
    return target_lengths.new_empty((costs.size(0), num_places - 1 + num_tokens), dtype=torch.long)


def _next_token(reached: Float[Tensor, "B T1"]) -> Float[Tensor, "B T1"]:
    return F.pad(reached[:, :-1], (1, 0), value=torch.inf)


def _trace(
    chosen: list[Tensor], target_lengths: Tensor, canvas_lengths: Tensor, num_places: int, width: int
) -> Int[Tensor, "B N"]:
    """The moves back from each row's end. chosen: of each diagonal, from the second, the best move to its cells."""
    token, place = target_lengths.long(), canvas_lengths.long()
    moves = []
    for diagonal in range(len(chosen), 0, -1):
        here = token + place == diagonal  # else the row ends before, or this diagonal was jumped over
        move = chosen[diagonal - 1].gather(1, token[:, None]).squeeze(1)
        flat = (move * num_places + place) * width + token
        moves.append(flat.where(here, NUM_MOVES * num_places * width))
        token = (token - (here & (move != 1)).long()).clamp(min=0)
        place = (place - (here & (move != 2)).long()).clamp(min=0)
    return torch.stack(moves, dim=1)
