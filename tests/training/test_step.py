"""One update: however it is cut into micro-batches and ranks, its gradient is that of one big batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import workers
from builders import MODELS, gradients, make_batch, make_model, make_step, vocabularies_of
from oracles import pairs_of
from torch import Tensor

from nat.data.batch import Batch
from nat.data.batching import micro_batches
from nat.data.pairs import Pair
from nat.errors import ConfigError
from nat.models.contract import LossTerm, TranslationModel
from nat.nn.transformer import FeedForward
from nat.runs.precision import Precision
from nat.training.distributed import Ranks
from nat.training.objective import Totals, objective
from nat.training.optimizer import Adam

EACH_MODEL = pytest.mark.parametrize("name", MODELS)
CPU = torch.device("cpu")
LENGTHS = [(5, 4), (2, 1), (7, 5), (3, 3), (4, 2), (6, 6), (5, 2)]


def make_pairs(name: str = "ctc", lengths: list[tuple[int, int]] = LENGTHS) -> list[Pair]:
    return pairs_of(make_batch(lengths, vocabularies=vocabularies_of(name)))


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=tolerance), name


# --- objective --------------------------------------------------------------------------------------


def test_the_objective_is_the_weighted_sum_over_the_tokens_of_the_update() -> None:
    terms = {
        "a": LossTerm(torch.tensor(6.0), torch.tensor(3)),
        "b": LossTerm(torch.tensor(10.0), torch.tensor(2), weight=0.5),
        "c": LossTerm(torch.tensor(float("nan")), torch.tensor(2), weight=0.0),
    }
    assert objective(terms, 4).item() == pytest.approx((6.0 + 5.0) / 4)
    assert objective(terms, 0).item() == pytest.approx(11.0)


def test_totals_add_and_divide_once() -> None:
    first, second = Totals(), Totals()
    first.add({"a": LossTerm(torch.tensor(6.0), torch.tensor(3))})
    second.add({"a": LossTerm(torch.tensor(1.0), torch.tensor(4)), "b": LossTerm(torch.tensor(0.0), torch.tensor(0))})
    first.update(second)
    assert first.means() == {"a": 1.0, "b": 0.0}
    assert first.counts()["a"] == (7.0, 7.0)


# --- micro-batches ----------------------------------------------------------------------------------


@EACH_MODEL
@pytest.mark.parametrize("max_tokens", [1, 14, 30])
def test_micro_batches_give_the_gradient_of_the_whole(name: str, max_tokens: int) -> None:
    pairs = make_pairs(name)
    whole, expected = gradients(make_model(name, dtype=torch.float64), pairs)
    cut, found = gradients(make_model(name, dtype=torch.float64), pairs, max_tokens=max_tokens)
    assert_close(found, expected, 1e-10)
    assert cut.gradient_norm == pytest.approx(whole.gradient_norm)
    for key, (total, count) in whole.totals.counts().items():
        assert cut.totals.counts()[key] == (pytest.approx(total), count)
    assert whole.num_tokens == cut.num_tokens == sum(target for _, target in LENGTHS)


def test_a_share_that_was_cut_ahead_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, found = make_pairs(), []
    for ahead in (False, True):
        step = make_step(make_model("ctc", dtype=torch.float64), max_tokens=14)
        batches = step.share(pairs) if ahead else None
        with monkeypatch.context() as patch:
            if ahead:
                patch.setattr(step, "share", lambda *_, **__: pytest.fail("cut again"))
            found.append(step(pairs, batches=batches, update=1, learning_rate=0.0))
    assert found[0].gradient_norm == found[1].gradient_norm
    assert found[0].num_tokens == found[1].num_tokens


def test_a_share_for_a_gpu_stands_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    step = make_step(make_model("ctc"), max_tokens=14)
    assert len(step.share(make_pairs())) > 1
    assert not pinned
    step.device = torch.device("cuda")
    tensors = [t for b in step.share(make_pairs()) for t in (b.source.tokens, b.source.valid, b.target.tokens, b.keys)]
    assert {id(tensor) for tensor in tensors} <= {id(tensor) for tensor in pinned}


@EACH_MODEL
def test_the_gradient_is_that_of_the_token_weighted_mean(name: str) -> None:
    pairs, model = make_pairs(name), make_model(name, dtype=torch.float64)
    _, found = gradients(model, pairs)
    key = make_step(model).noise
    (batch,) = micro_batches(pairs, model.canvas_length, rank=0, num_ranks=1, max_tokens=10_000, seed=key)
    model.zero_grad()
    terms = model.loss(batch, update=1)
    total = sum(term.weight * term.total for term in terms.values() if term.weight)
    (total / batch.num_target_tokens).backward()  # type: ignore[union-attr]
    assert_close(found, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, 1e-12)


def test_dropout_is_the_same_when_an_update_is_repeated_and_differs_between_updates() -> None:
    def noisy(update: int, seed: int = 1) -> float:
        model = make_model("ctc", size={"dropout": 0.3}).train()
        step = make_step(model, seed=seed)
        torch.manual_seed(update * 31)  # what happened before must not matter
        return float(step(make_pairs(), update=update, learning_rate=0.0).gradient_norm)

    assert noisy(1) == noisy(1)
    assert len({noisy(1), noisy(2), noisy(1, seed=2)}) == 3


# --- two ranks --------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
@EACH_MODEL
def test_two_ranks_give_the_gradient_of_one(name: str, parallel: str, tmp_path: Path) -> None:
    """Equal shares, unequal shares in unequal micro-batches, and a rank without any share."""
    cases = [
        (make_pairs(name), 10_000),
        (make_pairs(name, LENGTHS[:5]), 14),
        (make_pairs(name, LENGTHS[:1]), 10_000),
    ]
    port = workers.free_port()
    given = (2, port, name, parallel, cases, str(tmp_path))
    processes = [workers.start(workers.rank_gradients, rank, *given) for rank in range(2)]
    for rank, process in enumerate(processes):
        assert workers.finish(process) == 0, (tmp_path / f"{rank}.log").read_text()
    for rank in range(2):
        for (pairs, _), (counts, norm, tensors) in zip(cases, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            alone, expected = gradients(make_model(name, dtype=torch.float64), pairs)
            assert_close(tensors, expected, 1e-10)
            assert norm == pytest.approx(alone.gradient_norm)
            assert counts.keys() == alone.totals.counts().keys()
            for key, (total, count) in alone.totals.counts().items():
                assert counts[key] == (pytest.approx(total), count)


# --- memory -----------------------------------------------------------------------------------------


def small_memory(model: TranslationModel, monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """The model runs out of memory on batches of more than `rows` rows; returns the sizes it is asked for."""
    honest, sizes = model.loss, []

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        sizes.append(len(batch))
        if len(batch) > rows:
            raise torch.OutOfMemoryError("simulated")
        return honest(batch, update=update)

    monkeypatch.setattr(model, "loss", loss)
    return sizes


@EACH_MODEL
def test_out_of_memory_is_retried_in_smaller_pieces_with_the_same_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(name)
    _, expected = gradients(make_model(name, dtype=torch.float64), pairs)
    model = make_model(name, dtype=torch.float64)
    sizes = small_memory(model, monkeypatch, rows=2)
    result, found = gradients(model, pairs, max_tokens=100)
    assert_close(found, expected, 1e-10)
    assert result.splits >= 1
    assert max(sizes) > 2


def test_a_single_sentence_that_does_not_fit_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("ctc")
    small_memory(model, monkeypatch, rows=0)
    with pytest.raises(ConfigError) as error:
        gradients(model, make_pairs())
    assert str(error.value) == (
        "update 1: out of memory on a single sentence of 7 tokens; lower data.filters.max_tokens"
    )


# --- clipping, non-finite gradients, optimiser -------------------------------------------------------


def test_clipping_scales_the_gradient_to_the_norm() -> None:
    pairs = make_pairs()
    free, plain = gradients(make_model("ctc"), pairs)
    norm = torch.stack([g.norm() for g in plain.values()]).norm().item()
    assert free.gradient_norm == pytest.approx(norm, rel=1e-5)
    clipped_result, clipped = gradients(make_model("ctc"), pairs, clip_norm=norm / 4)
    assert clipped_result.gradient_norm == pytest.approx(norm, rel=1e-5)  # reported before clipping
    for name, gradient in plain.items():
        assert torch.allclose(clipped[name], gradient / 4, atol=1e-6)
    _, untouched = gradients(make_model("ctc"), pairs, clip_norm=norm * 2)
    assert_close(untouched, plain, 1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("ctc")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    honest = model.loss

    def loss(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        terms = honest(batch, update=update)
        broken = LossTerm(terms["ctc"].total * value, terms["ctc"].count)
        return terms | {"ctc": broken} if update == 1 else terms

    monkeypatch.setattr(model, "loss", loss)
    step = make_step(model, optimizer=Adam(Adam.Config(), parameters=model.parameters()))
    assert step(make_pairs(), update=1, learning_rate=0.1).skipped
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not step(make_pairs(), update=2, learning_rate=0.1).skipped
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_learning_rate_is_that_of_the_update() -> None:
    model = make_model("ctc")
    step = make_step(model, optimizer=torch.optim.SGD(model.parameters(), lr=99.0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step(make_pairs(), update=1, learning_rate=0.25)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter, before[name] - 0.25 * parameter.grad, atol=1e-6)


def test_adam_decays_matrices_but_not_vectors() -> None:
    model = make_model("ctc")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = Adam(Adam.Config(weight_decay=0.5), parameters=model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() > 1 else 1.0
        assert torch.allclose(parameter, before[name] * factor), name


def smooth_feed_forward(self: FeedForward, x: Tensor) -> Tensor:
    return self.narrow(F.gelu(self.widen(x)))


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("smooth", [True, False])
@EACH_MODEL
def test_half_precision_is_near_the_full_one(
    name: str, smooth: bool, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer's gradient where all is smooth. With ReLU, one unit of 24 whose input is rounded to the other side
    of 0 is much of a layer's gradient, so that only the whole is compared."""
    if smooth:
        monkeypatch.setattr(FeedForward, "forward", smooth_feed_forward)
    _, expected = gradients(make_model(name), make_pairs(name))
    model = make_model(name)
    step = make_step(model, precision=precision)
    # fp16: the first scale of the loss, 2^16, may be too high; then the update is skipped and the scale halved
    updates = 3 if name == "edit_flow" else 2  # its edits weigh up to 20: twice
    results = [step(make_pairs(name), update=1, learning_rate=0.0) for _ in range(updates)]
    assert not results[-1].skipped
    assert precision is Precision.FP16 or not results[0].skipped
    found = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    for key, gradient in expected.items() if smooth else ():
        assert (found[key] - gradient).norm() <= 0.05 * gradient.norm() + 1e-3, key
    differences = torch.cat([(found[key] - gradient).flatten() for key, gradient in expected.items()])
    bound = 0.02 if smooth else 0.1
    assert differences.norm() <= bound * torch.cat([gradient.flatten() for gradient in expected.values()]).norm()


class Alone(Ranks):
    """A rank whose peers are silent."""

    def sum_tensors(self, tensors: object) -> None: ...

    def start_sum(self, tensor: Tensor) -> Any:
        return tensor

    def finish_sum(self, work: object) -> None: ...


@pytest.mark.parametrize("fertilities", [None, [1, 0, 2]])
def test_a_rank_without_a_share_sees_a_batch_of_the_same_kind(
    fertilities: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pairs have fertilities, a model may have one more term; ranks exchange totals of the same terms."""
    model, seen = make_model("ctc"), []
    honest = model.loss

    def watched(batch: Batch, *, update: int) -> dict[str, LossTerm]:
        seen.append(batch)
        return honest(batch, update=update)

    monkeypatch.setattr(model, "loss", watched)
    pairs = [Pair([7, 8, 9], [9, 8, 7], fertilities)]
    for rank in (0, 1):
        make_step(model, ranks=Alone(rank, 2))(pairs, update=1, learning_rate=0.0)
    assert [len(batch) for batch in seen] == [1, 1]
    assert [batch.fertilities is None for batch in seen] == [fertilities is None] * 2
