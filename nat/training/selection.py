"""The k best checkpoints, their average, and which weights the run folder finally offers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nat.files import write_json
from nat.runs.weights import WEIGHTS, load_tensors, save_tensors


def average_weights(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor over several checkpoints, summed in float64."""
    return {
        name: (sum(part[name].double() for part in parts) / len(parts)).to(parts[0][name].dtype)  # type: ignore[union-attr]
        for name in parts[0]
    }


class BestCheckpoints:
    """Keeps the `keep` best weights under RUN_DIR/best and the best of all as RUN_DIR/model.safetensors.

    entries: [{update, value}], the best first; part of the training state, so that a resumed run continues it.
    """

    def __init__(
        self, folder: Path, *, keep: int, smaller_is_better: bool, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.keep, self.sign = folder, keep, -1.0 if smaller_is_better else 1.0
        self.metadata = dict(metadata or {})
        self.entries: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float] | None:
        return self.entries[0] if self.entries else None

    def path(self, update: int) -> Path:
        return self.folder / "best" / f"update-{update:08d}"

    def offer(self, update: int, value: float, weights: Mapping[str, Tensor]) -> bool:
        """Keep these weights if they are among the best; True if they are the best of all."""
        entries = [entry for entry in self.entries if entry["update"] != update]
        entries.append({"update": update, "value": value})
        # of equals the later
        entries.sort(key=lambda entry: (self.sign * entry["value"], entry["update"]), reverse=True)
        dropped, self.entries = entries[self.keep :], entries[: self.keep]
        if any(entry["update"] == update for entry in self.entries):
            save_tensors(weights, self.path(update) / WEIGHTS, self.metadata)
            write_json(self.path(update) / "score.json", {"update": update, "value": value})
        for entry in dropped:
            shutil.rmtree(self.path(int(entry["update"])), ignore_errors=True)
        is_best = self.entries[0]["update"] == update
        if is_best:
            self.choose(weights)
        return is_best

    def choose(self, weights: Mapping[str, Tensor]) -> None:
        """Offer these weights as RUN_DIR/model.safetensors."""
        save_tensors(weights, self.folder / WEIGHTS, self.metadata)

    def resume(self, entries: Sequence[dict[str, float]]) -> None:
        """Continue with the entries of a training state: what a killed run has kept or dropped since then is
        forgotten, and RUN_DIR/model.safetensors is again the best of them."""
        self.entries = [entry for entry in entries if (self.path(int(entry["update"])) / WEIGHTS).is_file()]
        kept = {self.path(int(entry["update"])) for entry in self.entries}
        for path in (self.folder / "best").glob("update-*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        if self.best is not None:
            self.choose(load_tensors(self.path(int(self.best["update"])) / WEIGHTS))

    def average(self, device: torch.device) -> dict[str, Tensor]:
        """The mean of the kept weights."""
        parts = [load_tensors(self.path(int(entry["update"])) / WEIGHTS, device) for entry in self.entries]
        return average_weights(parts)


class SwappedWeights:
    """While entered, the model has other weights (None: its own)."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor] | None) -> None:
        self.model, self.weights = model, weights
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.weights is not None:
            self.own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.weights)

    def __exit__(self, *error: object) -> None:
        if self.weights is not None:
            self.model.load_state_dict(self.own)
