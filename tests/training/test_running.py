"""Running statistics: what a module learns beside the gradient, however an update is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import workers
from builders import command, make_batch, make_model, make_step
from oracles import pairs_of
from running import MeanOfStates, buffers, rank_buffers, watched_model, with_attention
from torch import Tensor

from nat.data.batch import Batch
from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.models.contract import LossTerm, TranslationModel
from nat.nn.attention.routing import RoutingAttention
from nat.nn.running import Running
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import load_tensors

LENGTHS = [(5, 4), (2, 1), (7, 5), (3, 3), (4, 2), (6, 6), (5, 2)]


def pairs(seed: int = 0, count: int = len(LENGTHS)) -> list[Pair]:
    return pairs_of(make_batch(LENGTHS[:count], seed=seed))


UPDATES = [pairs(1), pairs(2)]


def watch(model: TranslationModel) -> Running:
    (found,) = [part for part in model.modules() if isinstance(part, Running)]
    return found


def mean(model: TranslationModel) -> Tensor:
    return watch(model).get_buffer("mean")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys() != set()
    return all(torch.allclose(first[name], second[name], rtol=0, atol=1e-12) for name in first)


def test_statistics_are_those_of_the_update() -> None:
    """The first layer's input is the same in every update (the learning rate is 0), so that the mean is plain."""
    model = watched_model()
    batch = collate(pairs())
    net = model.net
    states = net.encoder.layers[0].self_residual.enter(  # type: ignore[union-attr, operator, index]
        net.embeddings.source(batch.source.tokens) + net.source_positions(batch.source.tokens.size(1))  # type: ignore[union-attr, operator]
    )
    expected = 0.1 * states[batch.source.valid].mean(dim=0).detach()
    found = buffers(model, [pairs()])
    assert torch.allclose(mean(model), expected, rtol=0, atol=1e-12)
    assert [name.rsplit(".", 1)[1] for name in found] == ["mean"]  # the sums are no part of a checkpoint


@pytest.mark.parametrize("max_tokens", [1, 14, 30])
def test_micro_batches_give_the_statistics_of_the_whole(max_tokens: int) -> None:
    assert same(buffers(watched_model(), UPDATES, max_tokens=max_tokens), buffers(watched_model(), UPDATES))


def test_two_ranks_give_the_statistics_of_one(tmp_path: Path) -> None:
    """Equal shares, unequal micro-batches, and a rank without any share, whose pass for the exchange leaves none."""
    cases = [(UPDATES, 10_000), ([pairs(1, 5)], 14), ([pairs(1, 1), pairs(2)], 10_000)]
    port = workers.free_port()
    processes = [workers.start(rank_buffers, rank, port, watched_model, cases, str(tmp_path)) for rank in range(2)]
    for rank, process in enumerate(processes):
        assert workers.finish(process) == 0, (tmp_path / f"{rank}.log").read_text()
    for rank in range(2):
        for (updates, _), found in zip(cases, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert same(found, buffers(watched_model(), updates))


def test_micro_batches_that_start_again_for_want_of_memory_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = watched_model()
    honest, sizes = model.loss, []

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        terms = honest(batch, update=update)
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("simulated")
        return terms

    monkeypatch.setattr(model, "loss", loss)
    found = buffers(model, [pairs()])
    assert max(sizes) > 2
    assert same(found, buffers(watched_model(), [pairs()]))


def test_a_skipped_update_leaves_the_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = watched_model()
    honest = model.loss

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        terms = honest(batch, update=update)
        return {
            name: LossTerm(term.total * (torch.nan if update == 1 else 1), term.count) for name, term in terms.items()
        }

    monkeypatch.setattr(model, "loss", loss)
    step = make_step(model)
    assert step(pairs(1), update=1, learning_rate=0.0).skipped
    assert not mean(model).any()
    assert not step(pairs(2), update=2, learning_rate=0.0).skipped
    expected = watched_model()
    buffers(expected, [pairs(2)])
    assert mean(model).any()
    assert torch.equal(mean(model), mean(expected))


def test_evaluation_and_passes_without_gradient_leave_no_trace() -> None:
    model, batch = watched_model(), collate(pairs())
    with torch.no_grad():
        model.loss(batch, update=1)
    model.eval()
    model.loss(batch, update=1)
    model.decode(batch.source, decoding=type(model).Decoding())
    assert not any(total.any() for total in watch(model).sums)
    model.train()
    model.loss(batch, update=1)
    assert all(total.any() for total in watch(model).sums)


def test_settling_applies_the_sums_once() -> None:
    part = MeanOfStates(2).train()
    part(torch.ones(1, 3, 2), torch.tensor([[True, True, False]]))
    part.settle()
    assert torch.allclose(part.get_buffer("mean"), torch.full((2,), 0.1))
    assert not any(total.any() for total in part.sums)
    part.settle()  # of nothing: this statistic goes towards 0, another stays
    assert torch.allclose(part.get_buffer("mean"), torch.full((2,), 0.09))


# --- the centroids of the Routing Transformer -------------------------------------------------------


def routing_model() -> TranslationModel:
    config = RoutingAttention.Config(num_clusters=4, cluster_size=1, decay=0.5)
    return with_attention(make_model("ctc").train(), RoutingAttention(config, dim=16, num_heads=2))


def test_centroids_do_not_depend_on_how_updates_are_cut(tmp_path: Path) -> None:
    expected = buffers(routing_model(), UPDATES)
    before = routing_model().state_dict()
    (name,) = expected
    assert not torch.equal(expected[name], before[name])
    assert same(buffers(routing_model(), UPDATES, max_tokens=14), expected)
    port = workers.free_port()
    cases = [(UPDATES, 14)]
    processes = [workers.start(rank_buffers, rank, port, routing_model, cases, str(tmp_path)) for rank in range(2)]
    for rank, process in enumerate(processes):
        assert workers.finish(process) == 0, (tmp_path / f"{rank}.log").read_text()
        assert same(torch.load(tmp_path / f"{rank}.pt")[0], expected)


def test_a_run_that_stops_and_goes_on_has_the_same_centroids(small: list[str], tmp_path: Path) -> None:
    """Preflight, validations and resuming leave no trace."""
    kind = ["attention=routing", "attention.num_clusters=4", "attention.cluster_size=1", "attention.decay=0.5"]
    still = [*small, "model=ctc", *kind, "schedule.shape=constant", "schedule.warmup=3"]
    halves, whole = f"run_dir={tmp_path / 'halves'}", f"run_dir={tmp_path / 'whole'}"
    assert command(*still, halves, "trainer.max_updates=6") == 0
    assert command(*still, halves) == 0
    assert command(*still, whole, "validation.every=12") == 0
    paths = [latest_checkpoint(tmp_path / name) for name in ("halves", "whole")]
    first, second = (load_tensors(path / "model.safetensors") for path in paths if path is not None)
    assert any("centroids" in name for name in first)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
