"""Files of the run folder: whole or not there; the best weights and their average."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
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
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import check_tokenizer, load_tensors, load_weights, save_tensors
from nat.training.checkpoint import flatten_optimizer, save_training_state, unflatten_optimizer
from nat.training.optimizer import Adam
from nat.training.record import RunRecord
from nat.training.selection import BestCheckpoints, SwappedWeights, average_weights


def weights(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), value), "b": torch.tensor([value, -value])}


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
    save_training_state(tiny_disk, 1, model, optimizer, {"update": 1}, None)
    big = nn.Linear(300, 300)
    with pytest.raises(DataError, match=r"update-00000002: cannot be written .*No space left on device"):
        save_training_state(tiny_disk, 2, big, Adam(Adam.Config(), parameters=big.parameters()), {"update": 2}, None)
    path = latest_checkpoint(tiny_disk)
    assert path is not None
    assert path.name == "update-00000001"
    load_weights(model, path / "model.safetensors")
    assert read_json(path / "state.json")["update"] == 1


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
    save_training_state(tmp_path, 0, model, optimizer, {"update": 0}, None)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert load_tensors(path / "optimizer.safetensors") == {}


def test_only_the_newest_training_state_is_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert latest_checkpoint(tmp_path) is None
    for update in (2, 9, 10, 100):
        save_training_state(tmp_path, update, model, optimizer, {"update": update}, None)
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"update-{update:08d}"]
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "update-00000100"


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_training_state(tmp_path, 1, model, optimizer, {"update": 1}, None)
    half = tmp_path / "checkpoints" / ".update-00000002.part"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "update-00000001"
    save_training_state(tmp_path, 3, model, optimizer, {"update": 3}, weights(1.0))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["update-00000003"]


# --- best checkpoints and averages ------------------------------------------------------------------


def test_average_is_the_mean_of_each_tensor() -> None:
    mean = average_weights([weights(1.0), weights(2.0), weights(6.0)])
    assert torch.allclose(mean["a"], torch.full((2, 3), 3.0))
    assert mean["b"].tolist() == [3.0, -3.0]
    assert mean["a"].dtype == torch.float32


@pytest.mark.parametrize(("smaller", "kept"), [(False, [30, 10]), (True, [20, 40])])
def test_the_best_are_kept_and_offered(tmp_path: Path, smaller: bool, kept: list[int]) -> None:
    best = BestCheckpoints(tmp_path, keep=2, smaller_is_better=smaller)
    values = {10: 3.0, 20: 1.0, 30: 5.0, 40: 2.0}
    is_best = [best.offer(update, value, weights(value)) for update, value in values.items()]
    assert [int(entry["update"]) for entry in best.entries] == kept
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [f"update-{u:08d}" for u in sorted(kept)]
    assert torch.equal(load_tensors(tmp_path / "model.safetensors")["a"], weights(values[kept[0]])["a"])
    assert is_best == ([True, True, False, False] if smaller else [True, False, True, False])
    expected = sum(values[update] for update in kept) / 2
    assert torch.allclose(best.average(torch.device("cpu"))["a"], torch.full((2, 3), expected))


def test_a_resumed_run_forgets_what_was_kept_after_its_checkpoint(tmp_path: Path) -> None:
    best = BestCheckpoints(tmp_path, keep=2, smaller_is_better=False)
    best.offer(1, 1.0, weights(1.0))
    best.offer(2, 2.0, weights(2.0))
    saved = list(best.entries)
    best.offer(3, 3.0, weights(3.0))  # drops update 1; then the run is killed
    again = BestCheckpoints(tmp_path, keep=2, smaller_is_better=False)
    again.resume(saved)
    assert [entry["update"] for entry in again.entries] == [2]
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["update-00000002"]
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
