"""Where a path goes from a vertex: the learned transitions of a directed acyclic graph of decoder states.

Huang et al. 2022, https://arxiv.org/abs/2205.07459, section 3.1, equation 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.nn.transformer import Size, initialise
from nat.ops.precision import at_least_float32

# A score that leaves no probability: of -inf in all heads the sum would have no gradient.
IMPOSSIBLE = -1e9


class Transitions(nn.Module):
    """E_uv, a mixture over heads of attention to the later vertices and the end, weighted by a gate of vertex u.

    Departs from the paper, whose begin and end are the first and the last vertex: they are learned states beside the
    vertices, so that every vertex can hold a token, and the shortest source has as many as any other.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.num_heads = size.num_heads
        self.begin = nn.Parameter(torch.randn(size.dim) * size.dim**-0.5)
        self.end = nn.Parameter(torch.randn(size.dim) * size.dim**-0.5)
        self.query = nn.Linear(size.dim, size.dim)
        self.key = nn.Linear(size.dim, size.dim, bias=False)  # the same for all keys, it would change nothing
        self.gate = nn.Linear(size.dim, size.num_heads)
        initialise(self, size.initial)

    def forward(self, states: Float[Tensor, "B A D"], valid: Bool[Tensor, "B A"]) -> Float[Tensor, "B A1 A1"]:
        """Log-probabilities in float32 at least, laid out as nat/ops/dag.py has them. valid: right-padded."""
        begin, end = (state.to(states.dtype).expand(len(states), 1, -1) for state in (self.begin, self.end))
        origins = torch.cat((begin, states), dim=1)
        queries = self.heads(self.query(origins)) / math.sqrt(states.size(2) / self.num_heads)
        scores = at_least_float32(queries @ self.heads(self.key(torch.cat((states, end), dim=1))).mT)
        possible = later(scores.size(2), device=states.device) & F.pad(valid, (0, 1), value=True)[:, None]
        by_head = scores.masked_fill(~possible[:, None], IMPOSSIBLE).log_softmax(dim=3)
        shares = at_least_float32(self.gate(origins)).log_softmax(dim=2).mT[:, :, :, None]  # (B, H, A + 1, 1)
        return (by_head + shares).logsumexp(dim=1).masked_fill(~possible, -torch.inf)

    def heads(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L E"]:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def later(num_nodes: int, *, device: torch.device) -> Bool[Tensor, "N N"]:
    """Where the node of a column comes after that of a row: columns begin with the first vertex, rows before it."""
    nodes = torch.arange(num_nodes, device=device)
    return nodes[:, None] <= nodes
