"""On a GPU every method learns, translates and attends as on a CPU. Skipped where there is no GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import ATTENTIONS, MODELS, make_batch, make_model
from test_attention_contract import lengths_for, make_stack, run, states
from test_model_contract import decodings, techniques
from torch import Tensor

import nat
from nat.data.batch import Batch
from nat.data.pairs import Pair
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.decoding.graphs import CudaRecorder, GraphedDecoder
from nat.models.contract import Translation, TranslationModel
from nat.models.options import DecodingOptions
from nat.runs.precision import Precision
from nat.training.objective import objective
from nat.training.parallel import Parallel
from nat.training.step import UpdateStep

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]
TOLERANCE = 1e-3  # of float32, whose sums the two devices form in different orders
EACH_MODEL = pytest.mark.parametrize("name", MODELS)
EACH_VARIANT = pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in MODELS), *techniques()])


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def learnable_batch(model: TranslationModel) -> Batch:
    return make_batch(LENGTHS, vocabularies=model.vocabularies)


def loss_and_gradients(model: TranslationModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """The objective, and the gradients of all parameters in one vector, on the CPU."""
    model.zero_grad()
    loss = objective(model.loss(batch, update=1), int(batch.num_target_tokens))
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return loss.detach().cpu(), torch.cat([gradient.flatten() for gradient in gradients]).cpu()


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Norm of the difference beside the norm. NaN never passes."""
    assert (found - expected).norm() <= TOLERANCE * expected.norm() + 1e-6


@EACH_VARIANT
def test_losses_and_gradients_are_those_of_the_cpu(name: str, options: dict[str, Any]) -> None:
    model = make_model(name, **options).train()
    batch = learnable_batch(model)
    expected = loss_and_gradients(model, batch)
    on_gpu = loss_and_gradients(copy.deepcopy(model).to(GPU), batch.to(GPU))
    for one, other in zip(on_gpu, expected, strict=True):
        assert_close(one, other)


@EACH_VARIANT
def test_losses_in_bf16_are_finite_and_close(name: str, options: dict[str, Any]) -> None:
    model = make_model(name, **options).train()
    batch = learnable_batch(model)
    expected, _ = loss_and_gradients(model, batch)
    model.to(GPU)
    with torch.autocast("cuda", torch.bfloat16):
        loss, gradients = loss_and_gradients(model, batch.to(GPU))
    assert torch.isfinite(gradients).all()
    assert (loss - expected).abs() < 0.2 * expected.abs()


def translations(model: TranslationModel, batch: Batch, decoding: DecodingOptions) -> Translation:
    with torch.inference_mode():
        return model.decode(batch.source, decoding=decoding).to("cpu")


@EACH_MODEL
def test_translations_are_those_of_the_cpu(name: str) -> None:
    model = make_model(name)
    batch = learnable_batch(model)
    for decoding in decodings(model):
        expected = translations(model.to(CPU), batch, decoding)
        found = translations(model.to(GPU), batch.to(GPU), decoding)
        assert torch.equal(found.valid, expected.valid), decoding
        assert torch.equal(found.tokens, expected.tokens), decoding
        assert torch.equal(found.passes, expected.passes) and torch.equal(found.truncated, expected.truncated)
        torch.testing.assert_close(found.scores, expected.scores, rtol=TOLERANCE, atol=TOLERANCE)


@EACH_MODEL
def test_translations_in_bf16_are_made(name: str) -> None:
    model = make_model(name).to(GPU)
    batch = learnable_batch(model).to(GPU)
    for decoding in decodings(model):
        with torch.autocast("cuda", torch.bfloat16):
            found = translations(model, batch, decoding)
        assert len(found.tokens) == len(LENGTHS) and not found.scores.isnan().any()


def decoded(
    model: TranslationModel, rows: list[list[int]], size: int, precision: Precision, graphs: GraphedDecoder | None
) -> list[Decoded]:
    found: dict[int, Decoded] = {}
    batches = decode_in_batches(
        model,
        rows,
        decoding=type(model).Decoding(),
        batches=BatchOptions(size),
        device=GPU,
        precision=precision,
        graphs=graphs,
    )
    for indices, items in batches:
        found |= {int(i): item for i, item in zip(indices, items, strict=True)}
    return [found[i] for i in range(len(rows))]


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("options", [{}, {"factored_blank": True}, {"decoder": {"cross_attention": False}}], ids=str)
def test_translations_with_cuda_graphs_are_those_without(options: dict[str, Any], precision: Precision) -> None:
    """Recorded, and replayed after longer sentences, for which the tables of positions were made anew."""
    model = make_model("ctc", **options).to(GPU).eval()
    rows = make_batch([(3, 1), (7, 1), (2, 1), (40, 1), (300, 1)], vocabularies=model.vocabularies).source.to_lists()
    graphs = GraphedDecoder(model, CudaRecorder())
    exact = precision is Precision.FP32
    for size, some in ((1, rows[:3]), (3, rows), (1, rows)):
        pairs = zip(*(decoded(model, some, size, precision, used) for used in (graphs, None)), strict=True)
        for found, expected in pairs:
            assert found.tokens == expected.tokens or not exact
            assert found.scores == pytest.approx(expected.scores, rel=1e-4 if exact else 0.02)
    assert 3 <= len(graphs.recorded) <= 8


@pytest.mark.parametrize("options", [{}, {"allow_unknown": False}, {"history": True}], ids=str)
def test_the_best_path_of_ctc_waits_for_nothing_but_its_results(options: dict[str, Any]) -> None:
    model = make_model("ctc").to(GPU).eval()
    source, decoding = learnable_batch(model).to(GPU).source, type(model).Decoding(**options)
    with torch.inference_mode():
        model.decode(source, decoding=decoding)
        torch.cuda.set_sync_debug_mode("error")
        try:
            translation = model.decode(source, decoding=decoding)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        on_cpu = translation.to("cpu")
    assert torch.equal(on_cpu.tokens, translation.tokens.cpu()) and torch.equal(on_cpu.scores, translation.scores.cpu())


def updated(model: TranslationModel, precision: Precision, device: torch.device) -> Tensor:
    """All weights after two updates of plain gradient descent."""
    model.to(device).train()
    step = UpdateStep(
        Parallel(model),
        torch.optim.SGD(model.parameters(), lr=0.0),
        device=device,
        precision=precision,
        max_tokens=20,
        clip_norm=1.0,
        seed=1,
    )
    for update in (1, 2):
        result = step(pairs_of(learnable_batch(model)), update=update, learning_rate=0.1)
        assert not result.skipped or precision is Precision.FP16  # whose first scale may be too large
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


@EACH_MODEL
@pytest.mark.parametrize("precision", list(Precision))
def test_an_update_is_that_of_the_cpu(name: str, precision: Precision) -> None:
    on_gpu = updated(make_model(name), precision, GPU)
    assert torch.isfinite(on_gpu).all()
    if precision is Precision.FP32:
        assert_close(on_gpu, updated(make_model(name), precision, CPU))


def pairs_of(batch: Batch) -> list[Pair]:
    assert batch.fertilities is not None
    sources, targets = batch.source.to_lists(), batch.target.to_lists()
    counts = batch.fertilities.tolist()
    return [Pair(s, t, row[: len(s)]) for s, t, row in zip(sources, targets, counts, strict=True)]


def train_decode_train(model: TranslationModel) -> None:
    """What is kept between calls, tables and masks, must serve the backward pass after a longer text was decoded."""
    short = make_batch([(5, 4), (3, 3)], vocabularies=model.vocabularies).to(GPU)
    long = make_batch([(150, 150), (40, 40)], vocabularies=model.vocabularies).to(GPU)
    names = type(model).Decoding.__dataclass_fields__
    quick = {"max_length_factor": 1.0, "max_length_offset": 2, "max_passes": 2}
    decoding = type(model).Decoding(**{name: value for name, value in quick.items() if name in names})
    for batch in (short, long):
        loss_and_gradients(model.train(), short)
        translations(model.eval(), batch, decoding)
        for trained in (short, long):
            loss, gradients = loss_and_gradients(model.train(), trained)
            assert torch.isfinite(loss) and torch.isfinite(gradients).all()


@EACH_MODEL
def test_training_goes_on_after_decoding(name: str) -> None:
    train_decode_train(make_model(name).to(GPU))


@pytest.mark.parametrize("options", [["model=ctc", "trainer.precision=bf16"], ["model=mask_predict"]], ids=str)
def test_a_run_is_trained_resumed_and_read(
    options: list[str], small: list[str], tmp_path: Path, nat_train: Callable[..., int]
) -> None:
    """nat-train with validation, averages and saved states; then further; then its translations, one by one."""
    words = [*small, *options, "trainer.device=cuda", "trainer.moving_average=0.9", f"run_dir={tmp_path / 'run'}"]
    assert nat_train(*words, "trainer.max_updates=6") == 0
    assert nat_train(*words, "trainer.max_updates=12") == 0
    texts = ["Click the button.", "", "Opens a dialog."]
    on_gpu = nat.load(tmp_path / "run", device="cuda").translate(texts)
    on_cpu = nat.load(tmp_path / "run", device="cpu").translate(texts)
    assert len(on_gpu) == 3 and on_gpu[1] == ""
    assert on_gpu == on_cpu


# --- kinds of attention: FlexAttention compiles, which takes seconds ------------------------------------


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_that_of_the_cpu(name: str) -> None:
    """Outputs and gradients; heads of width 16, so that FlexAttention serves where it can."""
    stack = make_stack(name, head_dim=16)
    x, valid = states(lengths_for(stack))
    expected, gradient, parameters = run(stack, x.float(), valid)
    found, found_gradient, found_parameters = run(stack.to(GPU), x.float().to(GPU), valid.to(GPU))
    assert_close(found.cpu(), expected)
    assert_close(found_gradient.cpu(), gradient)
    for key, value in parameters.items():
        assert_close(found_parameters[key].cpu(), value)


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "full"])
def test_training_with_each_attention_goes_on_after_decoding(name: str) -> None:
    size = {"dim": 128, "num_heads": 8, "ffn_dim": 16}
    train_decode_train(make_model("ctc", attention=name, size=size).to(GPU))
