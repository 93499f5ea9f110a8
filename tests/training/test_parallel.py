"""Several ranks train as one does, whatever way they share the work, and where one of them runs out of memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import workers
from ranks import rank_weights, trained
from torch import Tensor

from nat.training.distributed import Ranks

pytestmark = pytest.mark.timeout(300)


@cache
def alone(count: int) -> dict[str, Tensor]:
    return trained(Ranks(), "ddp", count)[0]


@pytest.mark.parametrize(
    ("kind", "num_ranks", "where", "count"),
    [
        ("ddp", 2, "backward", 5),
        ("fsdp", 2, "backward", 5),
        *(
            pytest.param(kind, num_ranks, where, 20, marks=pytest.mark.slow)
            for kind in ("ddp", "fsdp")
            for num_ranks in (2, 4)
            for where in (None, "forward", "backward")
        ),
    ],
)
def test_ranks_end_with_the_weights_of_one(
    kind: str, num_ranks: int, where: str | None, count: int, tmp_path: Path
) -> None:
    """Updates of several micro-batches for each rank, or of fewer pairs than ranks; rank 1 runs out of memory."""
    port = workers.free_port()
    given = (num_ranks, port, kind, count, where, str(tmp_path))
    processes = [workers.start(rank_weights, rank, *given) for rank in range(num_ranks)]
    for rank, process in enumerate(processes):
        assert workers.finish(process, 240) == 0, (tmp_path / f"{rank}.log").read_text()
    for rank in range(num_ranks):
        weights, splits = torch.load(tmp_path / f"{rank}.pt")
        assert (splits > 0) == (rank == 1 and where is not None)
        assert weights.keys() == alone(count).keys()
        for name, expected in alone(count).items():
            assert torch.allclose(weights[name], expected, rtol=0, atol=1e-9), name
