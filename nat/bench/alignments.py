"""nat-bench alignments: the dynamic programs over alignments beside torch's CTC loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nat.bench.turns import Contender
from nat.config import option
from nat.errors import ConfigError
from nat.ops.ctc import best_alignment
from nat.ops.imputer import constrained_loss


@dataclass(frozen=True)
class AlignmentSizes:
    batch_size: int = option(64, "rows B", minimum=1, maximum=100_000)
    source_length: int = option(30, "source tokens S", minimum=1, maximum=100_000)
    target_length: int = option(30, "target tokens T", minimum=1, maximum=100_000)
    upsampling: int = option(3, "slots s for each source token: a canvas of s S", minimum=1, maximum=100)
    vocabulary_size: int = option(8000, "vocabulary V", minimum=3, maximum=1_000_000)

    def __post_init__(self) -> None:
        if self.target_length > self.canvas_length:
            raise ConfigError(
                f"target_length={self.target_length}: must be at most upsampling * source_length={self.canvas_length}"
            )

    @property
    def canvas_length(self) -> int:
        return self.upsampling * self.source_length


@dataclass(frozen=True)
class AlignmentProblem:
    """log_probs: (B, A, V). targets: (B, T), no token twice in a row. Token 0 is the blank; no row is padded."""

    log_probs: Tensor
    targets: Tensor
    canvas_lengths: Tensor
    target_lengths: Tensor

    @classmethod
    def random(cls, sizes: AlignmentSizes, device: torch.device) -> AlignmentProblem:
        generator = torch.Generator().manual_seed(1)
        rows, slots, tokens = sizes.batch_size, sizes.canvas_length, sizes.vocabulary_size - 1
        log_probs = torch.randn(rows, slots, tokens + 1, generator=generator).log_softmax(-1)
        steps = torch.randint(1, tokens, (rows, sizes.target_length), generator=generator)
        lengths = torch.full((rows,), slots), torch.full((rows,), sizes.target_length)
        return cls(*(x.to(device) for x in (log_probs, 1 + steps.cumsum(1) % tokens, *lengths)))

    @property
    def rest(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.targets, self.canvas_lengths, self.target_lengths


def alignments(sizes: AlignmentSizes, device: torch.device) -> list[Contender]:
    """Forward and backward of torch's CTC loss, and of the Imputer's constrained marginal with half of the slots
    known; the best alignment, forward alone, as glancing needs it. The gradient is that in (B, A, V)."""
    problem = AlignmentProblem.random(sizes, device)
    turned = problem.log_probs.transpose(0, 1).contiguous()  # in the order that torch wants
    known = best_alignment(problem.log_probs, *problem.rest, blank=0)
    is_known = torch.rand(known.shape, generator=torch.Generator().manual_seed(2)).to(device) < 0.5

    def torch_loss() -> None:
        leaf = turned.detach().requires_grad_()
        F.ctc_loss(leaf, *problem.rest, reduction="sum").backward()

    def constrained() -> None:
        leaf = problem.log_probs.detach().requires_grad_()
        constrained_loss(leaf, known, is_known, *problem.rest, blank=0)[0].sum().backward()

    return [
        Contender("torch.nn.functional.ctc_loss, forward and backward", torch_loss),
        Contender("constrained_loss, forward and backward", constrained, limit=3.0),
        Contender("best_alignment", lambda: best_alignment(problem.log_probs, *problem.rest, blank=0), limit=1.0),
    ]
