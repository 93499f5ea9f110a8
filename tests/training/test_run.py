"""Whole runs: what they write, how they stop, and that nothing is lost when they are killed."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers
from builders import command, make_model
from omegaconf import OmegaConf
from sacrebleu.metrics import BLEU, CHRF
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nat.composition import compose
from nat.config import load_yaml, parse
from nat.data.batch import Batch
from nat.data.batching import collate
from nat.data.corpus import DataConfig
from nat.data.pairs import Pair
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizers
from nat.errors import DataError
from nat.files import read_json
from nat.runs import weights as written
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import load_tensors
from nat.training import record, trainer
from nat.training.distributed import Ranks
from nat.training.run import RunConfig, keep_learnable
from nat.training.step import UpdateStep

pytestmark = pytest.mark.timeout(600)  # the first to ask for tiny_runs waits for them
Run = Callable[..., Path]


def metrics(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that decode, and all tensors of the training state."""
    path = latest_checkpoint(folder)
    assert path is not None
    found = {f"chosen.{name}": tensor for name, tensor in load_tensors(folder / "model.safetensors").items()}
    for file in sorted(path.glob("*.safetensors")):
        found |= {f"{file.stem}.{name}": tensor for name, tensor in load_tensors(file).items()}
    return found


def same_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def train(small: list[str], tmp_path: Path) -> Run:
    """Runs nat-train with the small options and some more; the run folder."""

    def run(name: str, *overrides: str, code: int = 0, model: str = "ctc") -> Path:
        folder = tmp_path / name
        assert command(*small, f"model={model}", f"run_dir={folder}", *overrides) == code
        return folder

    return run


@pytest.fixture(scope="module")
def reference(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run. Read it, never write into it."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert command(*small, "model=ctc", f"run_dir={folder}", "trainer.moving_average=0.5") == 0
    return folder


# --- what a run writes ------------------------------------------------------------------------------


def test_the_run_folder_is_whole(reference: Path) -> None:
    names = {"config.yaml", "tokenizer", "model.safetensors", "run.json", "metrics.jsonl", "samples.json", "best",
             "checkpoints", "tensorboard"}  # fmt: skip
    assert {path.name for path in reference.iterdir()} == names
    run = read_json(reference / "run.json")
    assert run["update"] == 12
    assert run["finished"]
    assert run["num_parameters"] == sum(t.numel() for t in load_tensors(reference / "model.safetensors").values())
    assert parse(RunConfig, load_yaml(reference / "config.yaml")).seed == 1
    samples = json.loads((reference / "samples.json").read_text())
    assert len(samples) == 4
    assert samples[0].keys() == {"source", "reference", "translation", "passes"}  # the canvas of the one pass
    assert len(list((reference / "best").iterdir())) == 2


def test_metrics_have_each_update_once_and_validations_with_signatures(reference: Path) -> None:
    assert [line["update"] for line in metrics(reference, "train")] == list(range(1, 13))
    assert [line["update"] for line in metrics(reference, "valid")] == [4, 8, 12]
    first = metrics(reference, "train")[0]
    assert {"ctc", "unalignable", "learning_rate", "gradient_norm", "tokens_per_second"} <= first.keys()
    assert 0 <= first["data_wait"] < 1
    assert 0.05 < first["peak_memory_gb"] < 50
    assert metrics(reference, "train")[-1]["ctc"] < first["ctc"]
    valid = metrics(reference, "valid")[0]
    assert {"bleu", "chrf", "loss", "length_ratio"} <= valid.keys()
    assert "tok:13a" in valid["bleu_signature"]
    assert valid["loss"] == pytest.approx(valid["ctc"])


def test_tensorboard_has_the_curves_and_the_samples(reference: Path) -> None:
    events = EventAccumulator(str(reference / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/ctc", "train/learning_rate", "train/gradient_norm", "valid/bleu", "valid/loss"} <= scalars
    assert [event.step for event in events.Scalars("train/ctc")] == list(range(1, 13))
    assert "sample/0/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("name", ["autoregressive", "ctc"])
def test_validation_scores_are_sacrebleus_on_what_the_best_weights_decode(
    tiny_runs: dict[str, Path], name: str
) -> None:
    import nat

    folder = tiny_runs[name]
    config = parse(RunConfig, load_yaml(folder / "config.yaml"))
    best = read_json(folder / "checkpoints" / "update-00000300" / "state.json")["best"][0]
    path = folder / "best" / f"update-{int(best['update']):08d}" / "model.safetensors"
    translator = nat.load(folder, device="cpu", weights=path)
    corpus = prepare(config.data, "valid", translator.tokenizers, filtered=False)
    sources, references = corpus.texts(np.arange(32))
    outputs = translator.translate(sources)
    (line,) = [line for line in metrics(folder, "valid") if line["update"] == best["update"]]
    assert line["bleu"] == pytest.approx(BLEU().corpus_score(outputs, [references]).score)
    assert line["chrf"] == pytest.approx(CHRF().corpus_score(outputs, [references]).score)
    assert line["bleu"] == pytest.approx(best["value"])
    samples = json.loads((folder / "samples.json").read_text())
    assert [s["source"] for s in samples] == sources[:4]
    assert [s["reference"] for s in samples] == references[:4]


def test_tiny_runs_learn(tiny_runs: dict[str, Path]) -> None:
    for folder in tiny_runs.values():
        train_lines = metrics(folder, "train")
        assert train_lines[-1]["nll"] < 0.6 * train_lines[0]["nll"]


# --- the same, and not the same ---------------------------------------------------------------------


def test_same_seed_same_weights_other_seed_other_weights(train: Run) -> None:
    first, again, other = train("a"), train("b"), train("c", "seed=2")
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_validation_and_saving_do_not_change_training(train: Run) -> None:
    often = train("often", "validation.every=1", "trainer.save_every=1", "validation.max_sentences=9")
    rarely = train("rarely", "validation.every=100", "trainer.save_every=100")
    a, b = latest_checkpoint(often), latest_checkpoint(rarely)
    assert a is not None
    assert b is not None
    first, second = load_tensors(a / "model.safetensors"), load_tensors(b / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", ["autoregressive", "ctc"])
def test_accumulation_does_not_change_training(train: Run, model: str) -> None:
    # dropout draws anew for every micro-batch, and Adam would blow up rounding errors where a gradient is zero
    still = ["model.size.dropout=0.0", "optimizer.epsilon=1e-2", "trainer.max_updates=3"]
    whole, cut = train("whole", *still, model=model), train("cut", *still, "trainer.max_tokens=80", model=model)
    other = weights(cut)
    for name, tensor in weights(whole).items():
        if name.startswith("model."):
            assert torch.allclose(tensor, other[name], atol=1e-5), name


def test_what_is_computed_again_and_in_one_order_is_the_same(train: Run) -> None:
    plain = train("plain", "trainer.max_updates=3")
    again = train(
        "again", "trainer.max_updates=3", "trainer.activation_checkpointing=true", "trainer.deterministic=true"
    )
    assert same_weights(plain, again)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_offered_is_the_moving_average(reference: Path) -> None:
    for kept in (reference / "best").iterdir():
        assert not torch.equal(
            load_tensors(kept / "model.safetensors")["split.weight"],
            weights(reference)["model.split.weight"],
        )
    path = latest_checkpoint(reference)
    assert path is not None
    last = reference / "best" / "update-00000012"
    if last.is_dir():
        saved = load_tensors(path / "average.safetensors")
        assert all(torch.equal(saved[k], v) for k, v in load_tensors(last / "model.safetensors").items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_a_cpu(train: Run, precision: str) -> None:
    folder = train(precision, f"trainer.precision={precision}")
    lines = metrics(folder, "train")
    assert lines[-1]["ctc"] < lines[0]["ctc"]
    assert all(t.dtype == torch.float32 for name, t in weights(folder).items() if not name.endswith("step"))


def test_patience_stops_the_run_and_it_stays_stopped(train: Run) -> None:
    options = ["validation.every=1", "validation.patience=2", "schedule.peak=1e-30", "schedule.start=0.0"]
    folder = train("patient", *options)  # nothing is learnt: the first validation is the best, the others equal it
    assert read_json(folder / "run.json")["update"] == 3
    before = (folder / "metrics.jsonl").read_text()
    train("patient", *options)
    assert (folder / "metrics.jsonl").read_text() == before
    train("patient", *options, "validation.patience=4")
    assert read_json(folder / "run.json")["update"] == 5


# --- resuming ---------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(train: Run) -> None:
    folder = train("run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    del before[folder / "config.yaml"]
    train("run")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    del after[folder / "config.yaml"]
    assert after == before


def test_more_updates_continue_a_finished_run(train: Run) -> None:
    constant = ["schedule.shape=constant", "schedule.warmup=3"]
    short = train("short", *constant, "trainer.max_updates=6")
    train("short", *constant, "trainer.max_updates=12")
    whole = train("whole", *constant)
    first, second = latest_checkpoint(short), latest_checkpoint(whole)
    assert first is not None
    assert second is not None
    a, b = load_tensors(first / "model.safetensors"), load_tensors(second / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line["update"] for line in metrics(short, "train")] == list(range(1, 13))
    assert read_json(short / "run.json")["update"] == 12


def test_other_options_are_refused_by_name(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train("run")
    capsys.readouterr()
    train("run", "model.upsampling=3", "seed=5", code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run with other options" in line
    assert "model.upsampling: 2 before, 3 now" in line
    assert "seed: 1 before, 5 now" in line
    train("run", model="autoregressive", code=2)
    assert "model._target_: nat.models.ctc.CTC before" in capsys.readouterr().err
    train("run", "trainer.log_every=7", "validation.batch_size=3")  # these may change


def test_a_run_of_a_nat_with_fewer_options_goes_on(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = train("run", "trainer.max_updates=2") / "config.yaml"
    plain = load_yaml(path)
    del plain["model"]["size"]["initial"], plain["data"]["source_words"]
    path.write_text(OmegaConf.to_yaml(plain), encoding="utf-8")
    train("run", "trainer.max_updates=3")
    assert load_yaml(path)["model"]["size"]["initial"] == "xavier"
    path.write_text(OmegaConf.to_yaml(plain), encoding="utf-8")
    train("run", "trainer.max_updates=4", "model.size.initial=normal", code=2)
    assert "model.size.initial: xavier before, normal now" in capsys.readouterr().err


def test_options_may_change_before_anything_was_trained(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(trainer.Trainer, "_preflight", lambda self: (_ for _ in ()).throw(DataError("early")))
        folder = train("run", "data.tokenizer.vocabulary_size=200", code=2)
    train("run")
    size = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["source_size"]
    assert load_tensors(folder / "model.safetensors")["net.embeddings.source.weight"].size(0) == size
    assert size > 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(
    reference: Path, small: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    arguments = [*small, "model=ctc", f"run_dir={folder}", "trainer.moving_average=0.5", "trainer.save_every=1000"]
    process = workers.start(workers.struck, arguments, str(tmp_path / "log"), folder / "metrics.jsonl", 3, number)
    assert workers.finish(process) == 128 + number, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "saved: the same command resumes" in text
    assert "Traceback" not in text
    path = latest_checkpoint(folder)
    assert path is not None
    assert 0 < read_json(path / "state.json")["state"]["update"] < 12
    assert command(*arguments) == 0
    assert same_weights(folder, reference)


def test_killed_again_and_again_the_run_ends_bit_equal(reference: Path, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = ["trainer.save_every=1", "validation.every=4"]
    arguments = [*small, "model=ctc", f"run_dir={folder}", "trainer.moving_average=0.5", *slow]
    chance = random.Random(7)
    updates = []
    for _ in range(5):
        log, touches = str(tmp_path / "log"), chance.randint(30, 130)
        process = workers.start(workers.struck, arguments, log, folder, touches)
        assert workers.finish(process) == -signal.SIGKILL, Path(log).read_text()
        path = latest_checkpoint(folder)
        updates.append(read_json(path / "state.json")["state"]["update"] if path else 0)
    assert 0 < updates[2] < updates[4] < 12
    assert command(*arguments) == 0
    assert same_weights(folder, reference)
    assert [line["update"] for line in metrics(folder, "train")] == list(range(1, 13))
    assert [line["update"] for line in metrics(folder, "valid")] == [4, 8, 12]
    assert not list(folder.rglob("*.part"))


# --- trouble ----------------------------------------------------------------------------------------


def test_a_run_killed_before_its_first_save_goes_on(
    reference: Path, train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_loop", die)
        with pytest.raises(RuntimeError):
            train("run", "trainer.moving_average=0.5")
    assert same_weights(reference, train("run", "trainer.moving_average=0.5"))


def test_no_rank_looks_for_a_checkpoint_after_the_main_rank_wrote_one(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first barrier stands between looking and writing: a late rank would else resume a run that is new."""
    seen: list[bool] = []
    original = trainer.latest_checkpoint
    monkeypatch.setattr(Ranks, "barrier", lambda ranks: seen.append(original(folder[0]) is not None))
    folder: list[Path] = []

    def look(path: Path) -> Path | None:
        folder[:] = [path]
        return original(path)

    monkeypatch.setattr(trainer, "latest_checkpoint", look)
    train("run", "trainer.max_updates=1")
    assert seen[:2] == [False, True]


def test_gradients_that_are_not_finite_are_skipped_counted_and_at_last_fatal(
    train: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = UpdateStep._accumulate

    def broken_from(first: int, last: int) -> Any:
        def accumulate(self: UpdateStep, batches: Any, num_tokens: int, update: int) -> Any:
            totals = honest(self, batches, num_tokens, update)
            if first <= update <= last:
                next(p for p in self.parallel.parameters if p.grad is not None).grad.fill_(float("nan"))  # type: ignore[union-attr]
            return totals

        return accumulate

    monkeypatch.setattr(UpdateStep, "_accumulate", broken_from(3, 4))
    folder = train("some", "trainer.max_skipped=3")
    assert read_json(folder / "run.json")["skipped"] == 2
    assert "skipped 2" in capsys.readouterr().out
    assert all(torch.isfinite(t).all() for t in weights(folder).values())
    monkeypatch.setattr(UpdateStep, "_accumulate", broken_from(6, 99))
    train("many", "trainer.max_skipped=3", code=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        "nat-train: update 8: the gradient was not finite 3 times in a row (trainer.max_skipped=3); "
        "lower schedule.peak or use precision=fp32"
    )


def test_a_full_disk_keeps_the_earlier_checkpoint(
    train: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, calls = written.save_file, []

    def save_file(tensors: Any, path: Any, *rest: Any) -> None:
        calls.append(path)
        if "update-00000010" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(tensors, path, *rest)

    monkeypatch.setattr(written, "save_file", save_file)
    folder = train("run", code=2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nat-train:")]
    path = folder / "checkpoints" / "update-00000010"
    assert errors == [f"nat-train: {path}: cannot be written (No space left on device); what was saved before is kept"]
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.name == "update-00000008"  # saved before it was validated
    monkeypatch.undo()
    train("run")
    assert same_weights(folder, train("whole"))


def test_a_disk_that_fills_with_curves_is_one_line(
    train: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Any, *rest: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record.SummaryWriter, "add_scalar", full)
    folder = train("run", code=2)
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"nat-train: {folder}/metrics.jsonl: cannot be written (No space left on device)")
    )


def test_memory_splits_are_counted(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from nat.models.ctc import CTC

    honest = CTC.loss

    def loss(self: CTC, batch: Any, *, update: int) -> Any:
        if update == 2 and self.training and len(batch) > 5:
            raise torch.OutOfMemoryError("simulated")
        return honest(self, batch, update=update)

    monkeypatch.setattr(CTC, "loss", loss)
    assert read_json(train("run") / "run.json")["memory_splits"] >= 1


# --- data -------------------------------------------------------------------------------------------


def test_what_attention_cannot_take_is_left_out_by_the_name_of_its_option() -> None:
    kind = {"_target_": "nat.nn.attention.linformer.LinformerAttention", "max_length": 5, "num_keys": 2}
    model = make_model("mask_predict", attention=kind)

    class Corpus:
        def only(self, wanted: Callable[[Batch], np.ndarray], reason: str, key: None) -> tuple[list[bool], str]:
            return wanted(collate([Pair([9] * 5, [9] * 5), Pair([9] * 5, [9] * 6)])).tolist(), reason

    kept, reason = keep_learnable(model, Corpus())  # type: ignore[arg-type, misc]
    assert kept == [True, False]
    assert reason == (
        "that MaskPredict cannot learn from (longer than attention.max_length, or a length difference over "
        "length.max_offset)"
    )


def test_pairs_that_cannot_be_learnt_are_left_out_counted_and_told(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "uneven.tsv"
    good = Path(next(o for o in small if o.startswith("data.train=")).split("=")[1]).read_text().splitlines()[:60]
    long = "Wort für Wort sehr viel länger als das"
    text.write_text("\n".join([*good[:30], f"x\t{long}", *good[30:], f"y\t{long}"]) + "\n")
    folder = tmp_path / "run"
    options = [
        *small,
        f"data.train={text}",
        "trainer.max_updates=2",
        f"run_dir={folder}",
        "data.filters.max_ratio=null",
    ]
    assert command(*options, "model=ctc") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    assert "CTC cannot learn from" in line and "or longer than positions.max_length)" in line
    config = parse(RunConfig, load_yaml(folder / "config.yaml"))
    tokenizers = Tokenizers.load(folder / "tokenizer")
    corpus = prepare(config.data, "train", tokenizers, filtered=True)
    assert isinstance(corpus, TokenizedCorpus)
    model = config.model.build(vocabularies=tokenizers.vocabularies)
    kept = keep_learnable(model, corpus)
    assert isinstance(kept, TokenizedCorpus)
    dropped = set(corpus.lines.tolist()) - set(kept.lines.tolist())
    assert {31, 62} <= dropped
    assert [n for reason, n in kept.report.reasons.items() if "CTC cannot learn from" in reason] == [len(dropped)]
    for pair in kept.pairs(np.arange(len(kept))):
        repeats = sum(a == b for a, b in zip(pair.target, pair.target[1:], strict=False))
        assert len(pair.target) + repeats <= 2 * len(pair.source)


def test_everything_is_learnable_by_the_teacher(small: list[str]) -> None:
    config = parse(DataConfig, compose("train", [*small, "run_dir=x"])["data"], "data")
    from nat.data.corpus import read_corpus
    from nat.data.tokenizer_training import build_tokenizers

    tokenizers = build_tokenizers(config, read_corpus(config, "train"))
    corpus = prepare(config, "train", tokenizers, filtered=True)
    assert keep_learnable(make_model("autoregressive", vocabularies=tokenizers.vocabularies), corpus) is corpus


# --- weights and tokenizers that do not belong together ----------------------------------------------


def swap_tokenizer(folder: Path, other: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(other / "tokenizer", folder / "tokenizer")


@pytest.mark.parametrize("change", ["data.tokenizer.vocabulary_size=200", "data.tokenizer.kind=bpe"])
def test_a_swapped_tokenizer_is_noticed(
    train: Run, reference: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one of the same size, which would translate into nonsense without a word."""
    import nat

    folder = tmp_path / "swapped"
    shutil.copytree(reference, folder)
    nat.load(folder, device="cpu")
    swap_tokenizer(folder, train("other", change, "trainer.max_updates=1"))
    with pytest.raises(DataError) as error:
        nat.load(folder, device="cpu")
    assert str(error.value) == (
        f"{folder}/model.safetensors: was trained with another tokenizer than the one in the folder tokenizer beside it"
    )
    capsys.readouterr()
    train("swapped", "trainer.moving_average=0.5", "trainer.max_updates=20", code=2)
    assert capsys.readouterr().err.splitlines()[-1].startswith("nat-train: ")


def test_init_from_wants_the_same_tokenizer(train: Run, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("other", f"init_from={reference}", "data.tokenizer.vocabulary_size=200", code=2)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"nat-train: init_from={reference}: its tokenizer does not match this run's; "
        f"set data.tokenizer.path={reference}/tokenizer"
    )


def test_init_from_starts_from_every_tensor_that_fits(
    train: Run, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["schedule.peak=1e-30", "schedule.start=0.0", "schedule.warmup=0", "trainer.max_updates=1"]
    folder = train("student", f"init_from={reference}", f"data.tokenizer.path={reference}/tokenizer", *frozen,
                   model="autoregressive")  # fmt: skip
    given, own = load_tensors(reference / "model.safetensors"), load_tensors(folder / "model.safetensors")
    shared = [name for name in own if name in given and own[name].shape == given[name].shape]
    assert f"init_from: {len(shared)} of {len(own)} tensors start from" in capsys.readouterr().err
    assert any(name.startswith("net.encoder.") for name in shared)
    for name in shared:
        assert torch.allclose(own[name], given[name], atol=1e-12)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_weights_are_one_line(reference: Path, tmp_path: Path, damage: str) -> None:
    import nat

    folder = tmp_path / "damaged"
    shutil.copytree(reference, folder)
    path = folder / "model.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError) as error:
        nat.load(folder, device="cpu")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not a run folder"):
        nat.load(tmp_path)
