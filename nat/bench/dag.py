"""nat-bench dag: a training step of DAG beside CTC's, and its dynamic programs against targets and vertices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nat.bench.edits import random_pairs
from nat.bench.memory import MEGABYTE, peak_bytes
from nat.bench.systems import ModelSizes
from nat.bench.turns import Contender, compare, describe_turns
from nat.config import option, to_plain
from nat.data.batch import Batch
from nat.errors import ConfigError
from nat.ops.dag import best_path, marginal_loss
from nat.training.objective import objective

# With 4 vertices a token a step may cost twice what CTC's with 2 slots does.
CTC_SLOTS, USUAL_VERTICES, LIMIT = 2, 4, 2.0


@dataclass(frozen=True, kw_only=True)
class DagSizes(ModelSizes):
    batch_size: int = option(32, "rows B", minimum=1, maximum=100_000)
    source_length: int = option(25, "source tokens S", minimum=1, maximum=100_000)
    target_length: int = option(25, "target tokens T of a training step", minimum=1, maximum=100_000)
    upsampling: list[int] = option(
        [2, 4, 8], "vertices s for each source token, one after the other", minimum=1, maximum=100
    )
    target_lengths: list[int] = option(
        [10, 25, 50], "target tokens T of the dynamic programs, one after the other", minimum=1, maximum=100_000
    )

    def __post_init__(self) -> None:
        errors = []
        for name in ("upsampling", "target_lengths"):
            if not getattr(self, name):
                errors.append(f"{name}=[]: at least one number is needed")
        if errors:
            raise ConfigError("\n".join(errors))


def measure_dag(sizes: DagSizes, *, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Plain figures of everything, taking turns: CPU time on a CPU."""
    contenders = [*steps(sizes, device), *programs(sizes, device)]
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rows = compare(contenders, repeats=repeats, device=device, clock=clock)
    return [
        to_plain(row) | {"peak_megabytes": peak_bytes(contender.work, device) / MEGABYTE}
        for row, contender in zip(rows, contenders, strict=True)
    ]


def describe_dag(figures: Mapping[str, Any]) -> str:
    """The figures as a table, with what one needs to judge them."""
    return describe_turns(figures) + ("milliseconds of CPU time\n" if figures["device"] == "cpu" else "")


def steps(sizes: DagSizes, device: torch.device) -> list[Contender]:
    """Forward and backward of CTC's loss and of DAG's, plain and with glancing."""
    batch = random_pairs(sizes).to(device)
    glancing = ("model.glancing.start=0.5", "model.glancing.end=0.5")

    def contender(name: str, num_slots: int, limit: float | None, *more: str) -> Contender:
        label = f"{name}, {num_slots} a token, training step{' with glancing' if more else ''}"
        return Contender(label, step_of(sizes, name, batch, f"model.upsampling={num_slots}", *more), limit)

    found = [contender("ctc", CTC_SLOTS, None)]
    found += [contender("dag", s, LIMIT if s == USUAL_VERTICES else None) for s in sizes.upsampling]
    found += [contender("ctc", CTC_SLOTS, None, *glancing)]
    return found + [contender("dag", s, None, *glancing) for s in sizes.upsampling]


def step_of(sizes: DagSizes, name: str, batch: Batch, *more: str) -> Callable[[], None]:
    model = sizes.build(name, more=more).to(batch.source.device).train()

    def step() -> None:
        objective(model.loss(batch, update=1), batch.target.tokens.numel()).backward()
        model.zero_grad()

    return step


def programs(sizes: DagSizes, device: torch.device) -> list[Contender]:
    """The loss with its gradients, and the best path, of every number of target tokens and vertices."""
    found = []
    for num_tokens in sizes.target_lengths:
        for num_slots in sizes.upsampling:
            num_vertices = num_slots * sizes.source_length
            problem = random_problem(sizes.batch_size, num_vertices, num_tokens, device)
            where = f"T={num_tokens}, {num_vertices} vertices"
            found.append(Contender(f"marginal_loss, forward and backward, {where}", loss_of(*problem)))
            found.append(Contender(f"best_path, {where}", path_of(*problem)))
    return found


def loss_of(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Callable[[], None]:
    def work() -> None:
        leaves = emissions.detach().requires_grad_(), transitions.detach().requires_grad_()
        marginal_loss(*leaves, lengths)[0].sum().backward()

    return work


def path_of(*problem: Tensor) -> Callable[[], Tensor]:
    return lambda: best_path(*problem)


def random_problem(
    num_rows: int, num_vertices: int, num_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What `marginal_loss` takes: no row is padded, but a target longer than there are vertices has no path."""
    generator = torch.Generator().manual_seed(1)
    emissions = 3 * torch.randn(num_rows, num_vertices, num_tokens, generator=generator) - 9
    scores = torch.randn(num_rows, num_vertices + 1, num_vertices + 1, generator=generator)
    earlier = torch.ones(num_vertices + 1, num_vertices + 1, dtype=torch.bool).tril(-1)
    transitions = scores.masked_fill(earlier, -torch.inf).log_softmax(dim=2)
    lengths = torch.full((num_rows,), num_tokens)
    return emissions.to(device), transitions.to(device), lengths.to(device)
