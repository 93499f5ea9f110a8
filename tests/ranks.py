"""What ranks make of a few updates: for tests/training/test_parallel.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from builders import make_batch, make_model, make_step, vocabularies_of, whole
from oracles import pairs_of
from torch import Tensor
from workers import logged, rank_environment

from nat.data.batch import Batch
from nat.data.pairs import Pair
from nat.models.contract import LossTerm, TranslationModel
from nat.training import replicas
from nat.training.distributed import Ranks
from nat.training.optimizer import Adam

NAME = "ctc"
SIZES = [21, 1, 14, 3, 20]  # pairs of an update: fewer than ranks, or several micro-batches for each


def updates(count: int) -> list[list[Pair]]:
    lengths = [(5, 4), (2, 1), (7, 5), (3, 3), (4, 2), (6, 6), (5, 2)] * 3
    return [
        pairs_of(make_batch(lengths[: SIZES[i % len(SIZES)]], vocabularies=vocabularies_of(NAME), seed=i))
        for i in range(count)
    ]


def trained(
    ranks: Ranks, kind: str, count: int, hinder: Callable[..., None] | None = None
) -> tuple[dict[str, Tensor], int]:
    """The weights after `count` updates, and how often memory ran out. hinder: makes a model run out of it."""
    replicas.BUCKET_BYTES = 4000  # many messages, of a model of 100 kB
    model = make_model(NAME, dtype=torch.float64).train()
    model.spare = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    step = make_step(model, ranks=ranks, parallel=kind, max_tokens=60, clip_norm=0.5, optimizer=adam)
    step.loss = step.plain_loss = with_spare(model)
    splits = 0
    for number, pairs in enumerate(updates(count), start=1):
        if hinder is not None:
            hinder(model, step, pairs)
        splits += step(pairs, update=number, learning_rate=0.01).splits
    return whole(model.state_dict()), splits


def adam(parameters: Any) -> Adam:
    return Adam(Adam.Config(weight_decay=0.01), parameters=parameters)


def with_spare(model: TranslationModel) -> Callable[..., dict[str, LossTerm]]:
    """A loss that uses one more parameter, but only where a batch has long sources: a rank may, another may not."""

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        terms = type(model).loss(model, batch, update=update)
        number = int((batch.source.lengths >= 6).sum())
        name, term = next(iter(terms.items()))
        total = term.total + model.spare.sum() * number if number else term.total  # type: ignore[operator]
        return terms | {name: LossTerm(total, term.count, term.weight)}

    return loss


def out_in_forward(model: TranslationModel, step: Any, pairs: list[Pair]) -> None:
    """Memory for one row."""
    honest = step.plain_loss

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("simulated")
        terms: dict[str, LossTerm] = honest(batch, update=update)
        return terms

    step.loss = loss


def out_in_backward(model: TranslationModel, step: Any, pairs: list[Pair]) -> None:
    """Once an update, within the last backward pass, when gradients of upper layers were sent already."""
    share, calls = step.share(pairs), 0
    if all(len(batch) == 1 for batch in share):  # they cannot be cut
        return

    def watch(layer: object, given: object, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == len(share):
            output.register_hook(out)

    def out(gradient: Tensor) -> None:
        handle.remove()
        assert getattr(step.parallel, "num_sent", 1) > 0
        raise torch.OutOfMemoryError("simulated")

    handle = model.get_submodule("net.encoder.layers.0").register_forward_hook(watch)


HINDRANCES = {"forward": out_in_forward, "backward": out_in_backward}


def rank_weights(rank: int, num_ranks: int, port: str, kind: str, count: int, where: str | None, folder: str) -> None:
    """Trains as one of several ranks; rank 1 runs out of memory there. Writes to FOLDER/RANK.pt."""
    with logged(f"{folder}/{rank}.log"):
        os.environ.update(rank_environment(rank, num_ranks, port))
        ranks = Ranks.from_environment(torch.device("cpu"))
        try:
            found = trained(ranks, kind, count, HINDRANCES[where] if where and rank == 1 else None)
            torch.save(found, Path(folder) / f"{rank}.pt")
        finally:
            ranks.close()
