"""CPU-seconds of an update by two ranks whose gradients are summed in three ways, in turns; nothing else should run.

OMP_NUM_THREADS=1 torchrun --nproc-per-node=2 scripts/compare_reductions.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nat.bench.systems import ModelSizes
from nat.bench.text import synthetic
from nat.data.batch import Batch
from nat.data.batching import collate
from nat.training.distributed import Ranks
from nat.training.objective import objective
from nat.training.replicas import Replicas

SIZES = ModelSizes(num_layers=6, dim=256, num_heads=4, ffn_dim=1024, vocabulary_size=8000)
TOKENS, TURNS, WARM_UP = 300, 9, 2


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = SIZES.build("ctc").train()

    def forward(self, batch: Batch) -> Tensor:
        return objective(self.model.loss(batch, update=1), TOKENS)


def buckets_of_nat(batch: Batch, ranks: Ranks) -> Callable[[], None]:
    loss = Loss()
    replicas = Replicas(loss.model, ranks)

    def update() -> None:
        replicas.begin()
        total = loss(batch)
        replicas.before_last_backward()
        total.backward()
        replicas.reduce()

    return update


def torchs_own(batch: Batch, ranks: Ranks) -> Callable[[], None]:
    loss = DistributedDataParallel(Loss(), gradient_as_bucket_view=True)

    def update() -> None:
        loss.zero_grad()
        (loss(batch) * ranks.num_ranks).backward()

    return update


def one_message_at_the_end(batch: Batch, ranks: Ranks) -> Callable[[], None]:
    loss = Loss()

    def update() -> None:
        loss.zero_grad()
        loss(batch).backward()
        ranks.sum_tensors([p.grad for p in loss.parameters() if p.grad is not None])

    return update


def main() -> None:
    torch.set_num_threads(1)
    ranks = Ranks.from_environment(torch.device("cpu"))
    batch = collate(synthetic(SIZES.vocabulary_size, TOKENS))
    ways = {make.__name__: make(batch, ranks) for make in (buckets_of_nat, torchs_own, one_message_at_the_end)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, update in ways.items():
            ranks.barrier()
            began = time.process_time()
            update()
            seconds[name].append(time.process_time() - began)
    for name, values in seconds.items():
        if ranks.is_main:
            print(f"{name}: {statistics.median(values[WARM_UP:]):.3f} s")
    ranks.close()


if __name__ == "__main__":
    main()
