"""Files of the run folder: whole or not there; the best weights and their average."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_model
from torch import Tensor, nn

from nat import files
from nat.errors import DataError
from nat.files import read_json, write_json, write_text
from nat.runs import weights as written
from nat.runs.folder import latest_checkpoint, saved_states
from nat.runs.weights import check_tokenizer, load_tensors, load_weights, save_tensors
from nat.training import parallel
from nat.training.averaging import MovingAverage, SwappedWeights, average_weights
from nat.training.optimizer import Adam
from nat.training.parallel import Parallel
from nat.training.record import RunRecord
from nat.training.resume import (
    Checkpoint,
    TrainingState,
    flatten_optimizer,
    load_optimizer,
    read_training_state,
    unflatten_optimizer,
)
from nat.training.selection import BestCheckpoints


def weights(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), value), "b": torch.tensor([value, -value])}


def checkpoint_of(
    folder: Path, model: nn.Module, optimizer: Adam, average: dict[str, Tensor] | None = None, **options: int
) -> Checkpoint:
    moving = MovingAverage(0.5)
    moving.weights = average
    keys = {"tokenizer": "t", "corpus": "c", "measure": "m"}
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Checkpoint(folder, Parallel(model), optimizer, scaler, moving, keys, **options)  # type: ignore[arg-type]


def save(folder: Path, update: int, *given: Any, **options: int) -> None:
    """The training state of an update; what else is given, as to `checkpoint_of`."""
    with checkpoint_of(folder, *given, **options) as checkpoint:
        checkpoint.save(at(update), [])


def at(update: int) -> TrainingState:
    return replace(TrainingState.at_start(), update=update)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- atomic writes ----------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(weights(1.0), path)
    monkeypatch.setattr(written, "save_file", full_disk)
    with pytest.raises(DataError) as error:
        save_tensors(weights(2.0), path)
    assert str(error.value) == f"{path}: cannot be written (No space left on device); what was saved before is kept"
    assert torch.equal(load_tensors(path)["a"], weights(1.0)["a"])
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_text_and_json_are_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": "ü"})
    assert read_json(path) == {"a": "ü"}
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_text(path, "new")
    assert read_json(path) == {"a": "ü"}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_path_below_a_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_text(tmp_path / "file" / "x" / "y", "text")


def test_programming_errors_are_not_disguised(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        files.write_atomically(tmp_path / "x", broken)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not permitted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    model = nn.Linear(100, 100)
    optimizer = Adam(Adam.Config(), parameters=model.parameters())
    save(tiny_disk, 1, model, optimizer)
    big = nn.Linear(300, 300)
    with pytest.raises(DataError, match=r"update-00000002: cannot be written .*No space left on device"):
        save(tiny_disk, 2, big, Adam(Adam.Config(), parameters=big.parameters()))
    path = latest_checkpoint(tiny_disk)
    assert path is not None
    assert path.name == "update-00000001"
    load_weights(model, path / "model.safetensors")
    assert read_json(path / "state.json")["state"]["update"] == 1


# --- damaged files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 20, 100])
def test_truncated_weights_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(weights(1.0), path)
    path.write_bytes(path.read_bytes()[:keep])
    for read in (load_tensors, lambda p: check_tokenizer(p, "x")):
        with pytest.raises(DataError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: damaged or truncated (")
        assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (load_tensors, lambda p: check_tokenizer(p, "x")):
        with pytest.raises(DataError, match="there is no such checkpoint file"):
            read(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="there is no such file"):
        read_json(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(DataError, match="damaged"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "does not fit this model: this file has no tensor bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)}, "the model has no tensor x"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, "weight is (2, 4), the model needs (2, 3)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, given: dict[str, Tensor], message: str) -> None:
    model, path = nn.Linear(3, 2), tmp_path / "w.safetensors"
    before = model.weight.clone()
    save_tensors(given, path)
    with pytest.raises(DataError) as error:
        load_weights(model, path)
    assert message in str(error.value)
    assert torch.equal(model.weight, before)


def test_the_tokenizer_of_weights_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(weights(1.0), path, {"tokenizer": "abc"})
    check_tokenizer(path, "abc")
    with pytest.raises(DataError, match="was trained with another tokenizer"):
        check_tokenizer(path, "abd")
    save_tensors(weights(1.0), path)  # of an older version: unknown, accepted
    check_tokenizer(path, "abd")


# --- training state ---------------------------------------------------------------------------------


def trained() -> tuple[nn.Linear, Adam]:
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = Adam(Adam.Config(weight_decay=0.1), parameters=model.parameters())
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    return model, optimizer


def test_an_optimiser_survives_flattening_and_json() -> None:
    model, optimizer = trained()
    tensors, numbers = flatten_optimizer(optimizer.state_dict())
    other = Adam(Adam.Config(), parameters=model.parameters())
    other.load_state_dict(unflatten_optimizer(tensors, json.loads(json.dumps(numbers))))
    first, second = optimizer.state_dict(), other.state_dict()
    assert first["state"].keys() == second["state"].keys()
    for index, slots in first["state"].items():
        for name, value in slots.items():
            assert torch.equal(value, second["state"][index][name])
    assert [g["weight_decay"] for g in second["param_groups"]] == [0.1, 0.0]
    assert [g["lr"] for g in second["param_groups"]] == [0.01, 0.01]


def test_the_state_before_the_first_update_can_be_read(tmp_path: Path) -> None:
    """An optimiser that has not stepped has no tensors: a file of nothing must still be a file."""
    model = nn.Linear(2, 2)
    optimizer = Adam(Adam.Config(), parameters=model.parameters())
    save(tmp_path, 0, model, optimizer)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert load_tensors(path / "optimizer.safetensors") == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": {}}, "state.update: a value is needed"),
        ({"state": {"update": "x"}}, "state.update=x: a whole number is needed"),
        ({"state": {"position": -1}}, "state.position=-1: must be at least 0"),
        ({"best": [{"update": 4}]}, "value: a value is needed"),
        ({"best": 5}, "best=5: a list is needed"),
        ({"corpus": None}, "corpus="),
        ({"more": 1}, "more: no such option"),
    ],
)
def test_a_damaged_state_is_one_line(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    path = tmp_path / "checkpoints" / "update-00000001"
    saved = read_json(path / "state.json")
    assert read_training_state(path).state.update == 1
    whole = saved["state"] if changes.get("state") else {}
    write_json(path / "state.json", saved | changes | ({"state": whole | changes["state"]} if whole else {}))
    with pytest.raises(DataError) as error:
        read_training_state(path)
    assert str(error.value).startswith(f"{path}/state.json: damaged, or of another version of nat (")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "5", "{}", "null"])
def test_a_state_that_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(DataError, match=r"state\.json: damaged"):
        read_training_state(tmp_path)


def refused(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> str:
    """Why the optimiser of `trained` does not take a state."""
    _, optimizer = trained()
    before = {name: value.clone() for name, value in flatten_optimizer(optimizer.state_dict())[0].items()}
    save_tensors(tensors, folder / "optimizer.safetensors")
    with pytest.raises(DataError) as error:
        load_optimizer(optimizer, folder, numbers)
    after = flatten_optimizer(optimizer.state_dict())[0]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    told = str(error.value)
    assert told.startswith(f"{folder}/optimizer.safetensors: does not fit this model's optimiser (")
    return told.partition("(")[2].removesuffix(")")


def test_an_optimiser_state_of_another_model_is_refused_by_its_shape(tmp_path: Path) -> None:
    """torch itself ends in a segmentation fault."""
    tensors, numbers = flatten_optimizer(trained()[1].state_dict())
    groups = numbers["param_groups"]
    assert refused(tmp_path, tensors | {"0.exp_avg": torch.zeros(5, 4)}, numbers) == (
        "0.exp_avg is (5, 4), the parameter (3, 4)"
    )
    other = {name.replace("1.", "7."): value for name, value in tensors.items()}
    assert refused(tmp_path, other, numbers).startswith("parameter 7 has ")
    less = {name: value for name, value in tensors.items() if name != "1.exp_avg_sq"}
    assert refused(tmp_path, less, numbers).startswith("parameter 1 has ")
    assert refused(tmp_path, tensors, numbers | {"param_groups": groups[:1]}) == "1 parameters in 1 groups"
    changed = [groups[0] | {"betas": ["x", 0.9]}, groups[1]]
    assert refused(tmp_path, tensors, numbers | {"param_groups": changed}) == "betas=['x', 0.9]"


@pytest.mark.parametrize("numbers", [{}, {"state": 5, "param_groups": []}, {"state": {}, "param_groups": [5]}])
def test_a_damaged_optimiser_state_is_refused(tmp_path: Path, numbers: dict[str, Any]) -> None:
    assert refused(tmp_path, flatten_optimizer(trained()[1].state_dict())[0], numbers).startswith("damaged: ")


def test_only_the_newest_training_state_is_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert latest_checkpoint(tmp_path) is None
    for update in (2, 9, 10, 100):
        save(tmp_path, update, model, optimizer)
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"update-{update:08d}"]
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "update-00000100"


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    for update in (2, 9, 10, 100, 100):
        save(tmp_path, update, model, optimizer, keep=3)
    assert [path.name for path in saved_states(tmp_path)] == [f"update-{update:08d}" for update in (9, 10, 100)]
    save(tmp_path, 101, model, optimizer)
    assert [path.name for path in saved_states(tmp_path)] == ["update-00000101"]


def test_training_goes_on_while_a_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the end before the next one; it is of the moment at which it was asked for."""
    honest, may_write = parallel.write_tensors, threading.Event()
    monkeypatch.setattr(parallel, "write_tensors", lambda *given: may_write.wait(20) and honest(*given))
    model, optimizer = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with checkpoint_of(tmp_path, model, optimizer) as checkpoint:
        checkpoint.save(at(1), [])
        with torch.no_grad():
            model.weight.zero_()
        assert saved_states(tmp_path) == []
        may_write.set()
        checkpoint.finish()
        found = load_tensors(saved_states(tmp_path)[0] / "model.safetensors")
        assert all(torch.equal(found[name], value) for name, value in before.items())
        monkeypatch.setattr(parallel, "write_tensors", full_disk)
        checkpoint.save(at(2), [])
        with pytest.raises(DataError, match=r"update-00000002: cannot be written \(No space left on device\)"):
            checkpoint.save(at(3), [])
    assert [path.name for path in saved_states(tmp_path)] == ["update-00000001"]


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    half = tmp_path / "checkpoints" / ".update-00000002.part"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "update-00000001"
    save(tmp_path, 3, model, optimizer, weights(1.0))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["update-00000003"]


# --- best checkpoints and averages ------------------------------------------------------------------


def test_average_is_the_mean_of_each_tensor() -> None:
    mean = average_weights([weights(1.0), weights(2.0), weights(6.0)])
    assert torch.allclose(mean["a"], torch.full((2, 3), 3.0))
    assert mean["b"].tolist() == [3.0, -3.0]
    assert mean["a"].dtype == torch.float32


def test_the_moving_average_is_that_of_a_loop() -> None:
    model, moving, none = make_model("ctc"), MovingAverage(0.7), MovingAverage(0.0)
    expected: dict[str, Tensor] = {}
    for update in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        current = {name: value.clone() for name, value in model.state_dict().items()}
        mixed = {name: 0.7 * expected[name] + 0.3 * value for name, value in current.items()} if update else current
        expected = {name: mixed[name] if value.is_floating_point() else value for name, value in current.items()}
        moving.update(model)
        none.update(model)
    assert none.weights is None
    assert moving.weights is not None
    assert moving.weights.keys() == expected.keys()
    for name, value in moving.weights.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(("smaller", "kept"), [(False, [30, 10]), (True, [20, 40])])
def test_the_best_are_kept_and_offered(tmp_path: Path, smaller: bool, kept: list[int]) -> None:
    best = BestCheckpoints(tmp_path, keep=2, smaller_is_better=smaller)
    values = {10: 3.0, 20: 1.0, 30: 5.0, 40: 2.0}
    is_best = [best.offer(update, value, weights(value)) for update, value in values.items()]
    best.settle()
    assert [entry.update for entry in best.entries] == kept
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [f"update-{u:08d}" for u in sorted(kept)]
    assert torch.equal(load_tensors(tmp_path / "model.safetensors")["a"], weights(values[kept[0]])["a"])
    assert is_best == ([True, True, False, False] if smaller else [True, False, True, False])
    expected = sum(values[update] for update in kept) / 2
    assert torch.allclose(best.average(torch.device("cpu"))["a"], torch.full((2, 3), expected))


@pytest.mark.parametrize(
    "values", [(math.nan, 3.0, 2.0), (3.0, math.nan, 2.0), (3.0, 2.0, math.inf), (3, -math.inf, 2)]
)
@pytest.mark.parametrize("smaller", [False, True])
def test_a_value_that_is_not_finite_is_never_the_best(tmp_path: Path, values: tuple[float, ...], smaller: bool) -> None:
    best = BestCheckpoints(tmp_path, keep=2, smaller_is_better=smaller)
    for update, value in enumerate(values, start=1):
        is_better = best.is_better(value)
        assert best.offer(update, value, weights(value)) == is_better
    finite = sorted((value for value in values if math.isfinite(value)), reverse=not smaller)
    assert [entry.value for entry in best.entries] == finite
    assert best.best is not None
    assert torch.equal(load_tensors(tmp_path / "model.safetensors")["a"], weights(finite[0])["a"])


def test_a_resumed_run_forgets_what_was_kept_after_its_checkpoint(tmp_path: Path) -> None:
    best = BestCheckpoints(tmp_path, keep=2, smaller_is_better=False)
    best.offer(1, 1.0, weights(1.0))
    best.offer(2, 2.0, weights(2.0))
    saved = list(best.entries)
    best.offer(3, 3.0, weights(3.0))  # instead of update 1; then the run is killed
    again = BestCheckpoints(tmp_path, keep=2, smaller_is_better=False)
    again.resume(saved)
    assert [entry.update for entry in again.entries] == [2, 1]
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == ["update-00000001", "update-00000002"]
    assert torch.equal(load_tensors(tmp_path / "model.safetensors")["a"], weights(2.0)["a"])


def test_swapped_weights_come_back() -> None:
    model = make_model("ctc")
    own = {name: value.clone() for name, value in model.state_dict().items()}
    other = {name: value + 1 for name, value in own.items()}

    def holds(expected: dict[str, Tensor]) -> bool:
        return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())

    with SwappedWeights(model, other):
        assert holds(other)
    assert holds(own)
    with SwappedWeights(model, None):
        assert holds(own)


def test_record_is_json_even_where_a_loss_is_not_a_number(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, update=0)
    record.write(
        "train", {"update": 1}, {"loss": float("nan"), "gradient_norm": float("inf"), "tokens": 3, "text": "a"}
    )
    record.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "kind": "train", "update": 1, "loss": None, "gradient_norm": None, "tokens": 3, "text": "a"
    }  # fmt: skip
