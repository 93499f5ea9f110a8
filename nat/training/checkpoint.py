"""The training state of a run, to resume from: written whole or not at all, see `nat.runs.folder`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nat.files import write_atomically, write_json
from nat.runs.weights import WEIGHTS, on_cpu, write_tensors


def save_training_state(
    folder: Path,
    update: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    average: Mapping[str, Tensor] | None,
) -> None:
    """`checkpoints/update-N`, complete or not at all; older ones are removed once it stands. The tensors of an
    update are what they are: saving it again renews only its plain data."""
    tensors, numbers = flatten_optimizer(optimizer.state_dict())
    path = folder / "checkpoints" / f"update-{update:08d}"
    plain = {"optimizer": numbers, **state}
    if path.is_dir():
        write_json(path / "state.json", plain)
        return

    def write(part: Path) -> None:
        part.mkdir()
        write_tensors({name: on_cpu(value) for name, value in model.state_dict().items()}, part / WEIGHTS)
        write_tensors(tensors, part / "optimizer.safetensors")
        if average is not None:
            write_tensors({name: on_cpu(value) for name, value in average.items()}, part / "average.safetensors")
        (part / "state.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")

    write_atomically(path, write)
    for old in (*path.parent.glob("update-*"), *path.parent.glob(".update-*.part")):
        if old != path:
            shutil.rmtree(old, ignore_errors=True)


def flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as named tensors and plain data."""
    tensors, numbers = {}, {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().contiguous().cpu()
            else:
                numbers[f"{index}.{name}"] = value
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": numbers, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers["state"]}.items():
        index, _, slot = name.partition(".")
        state.setdefault(int(index), {})[slot] = value
    return {"state": state, "param_groups": numbers["param_groups"]}
