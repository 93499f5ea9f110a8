"""A run as a folder for others: its weights and what made them, without checkpoints and without paths of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nat.config import load_yaml, save_yaml
from nat.data.tokenizer import Tokenizers
from nat.files import write_json
from nat.runs.folder import read_component, run_summary
from nat.runs.weights import WEIGHTS, check_tokenizer, load_fitting, write_tensors

PLACES = ("train", "valid", "test")  # options of `data` that name text


def write_portable(run: Path, folder: Path, *, name: str, dtype: torch.dtype | None = None) -> None:
    """Write `folder`, which does not exist. name: of the run from now on. dtype: of its weights; None: as they are.
    Raises DataError, before anything is written, where it is no run, or a damaged one: its weights are read once, and
    held against the model that it describes."""
    component, tokenizers = read_component(run), Tokenizers.load(run / "tokenizer")
    check_tokenizer(run / WEIGHTS, tokenizers.fingerprint)
    with torch.device("meta"):
        expected = component.build(vocabularies=tokenizers.vocabularies).state_dict()
    weights = {key: converted(tensor, dtype) for key, tensor in load_fitting(run / WEIGHTS, expected).items()}
    folder.mkdir()
    tokenizers.save(folder / "tokenizer")
    save_yaml(portable_options(load_yaml(run / "config.yaml"), name), folder / "config.yaml")
    write_tensors(weights, folder / WEIGHTS, {"tokenizer": tokenizers.fingerprint})
    stored = {} if dtype is None else {"stored_in": str(dtype).removeprefix("torch.")}
    write_json(folder / "run.json", run_summary(run) | stored)


def converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def portable_options(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Text that comes with nat, and of the hub, keeps its name; a file of this machine is told by its last part."""
    data = dict(config.get("data") or {})
    for split in PLACES:
        if split in data:
            data[split] = without_folder(data[split])
    if data.get("cache"):
        data["cache"] = None
    if isinstance(data.get("tokenizer"), dict):
        data["tokenizer"] = data["tokenizer"] | {"path": None, "source_model": None, "target_model": None}
    return config | {"data": data, "init_from": None, "run_dir": name}


def without_folder(location: Any) -> Any:
    if isinstance(location, list):
        return [without_folder(part) for part in location]
    if not isinstance(location, str) or location.startswith(("embedded:", "hub:", "task:")):
        return location
    return Path(location).name
