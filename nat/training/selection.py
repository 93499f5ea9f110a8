"""The k best checkpoints, and which weights the run folder finally offers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from nat.config import option
from nat.files import write_json
from nat.runs.weights import WEIGHTS, load_tensors, save_tensors
from nat.training.averaging import average_weights


@dataclass(frozen=True)
class Kept:
    """Weights under RUN_DIR/best. value: of the validation metric."""

    update: int = option(minimum=0)
    value: float = option()


class BestCheckpoints:
    """Keeps the `keep` best weights under RUN_DIR/best and the best of all as RUN_DIR/model.safetensors.

    entries: the best first; part of the training state, so that a resumed run continues it.
    """

    def __init__(
        self, folder: Path, *, keep: int, smaller_is_better: bool, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.keep, self.sign = folder, keep, -1.0 if smaller_is_better else 1.0
        self.metadata = dict(metadata or {})
        self.entries: list[Kept] = []

    @property
    def best(self) -> Kept | None:
        return self.entries[0] if self.entries else None

    def is_better(self, value: float) -> bool:
        """Than the best so far. A value that is not finite never is."""
        return isfinite(value) and (self.best is None or self.sign * value > self.sign * self.best.value)

    def offer(self, update: int, value: float, weights: Mapping[str, Tensor]) -> bool:
        """Keep these weights if they are among the best; True if they are the best of all. What is kept no more stays
        on the disk until `settle`."""
        if not isfinite(value):
            return False
        entries = [entry for entry in self.entries if entry.update != update] + [Kept(update, value)]
        entries.sort(key=lambda entry: (self.sign * entry.value, entry.update), reverse=True)  # of equals the later
        self.entries = entries[: self.keep]
        if any(entry.update == update for entry in self.entries):
            save_tensors(weights, self.path(update) / WEIGHTS, self.metadata)
            write_json(self.path(update) / "score.json", {"update": update, "value": value})
        is_best = self.entries[0].update == update
        if is_best:
            self.choose(weights)
        return is_best

    def settle(self) -> None:
        """Remove what is kept no more: once the training state no longer names it."""
        kept = {self.path(entry.update) for entry in self.entries}
        for path in (self.folder / "best").glob("update-*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def choose(self, weights: Mapping[str, Tensor]) -> None:
        """Offer these weights as RUN_DIR/model.safetensors."""
        save_tensors(weights, self.folder / WEIGHTS, self.metadata)

    def resume(self, entries: Sequence[Kept]) -> None:
        """Continue with the entries of a training state: what a killed run has kept since then is forgotten, and
        RUN_DIR/model.safetensors is again the best of them."""
        self.entries = [entry for entry in entries if (self.path(entry.update) / WEIGHTS).is_file()]
        self.settle()
        if self.best is not None:
            self.choose(load_tensors(self.path(self.best.update) / WEIGHTS))

    def score_anew(self, score: Callable[[dict[str, Tensor]], float]) -> None:
        """The values of the kept weights by another measure."""
        entries, self.entries = self.entries, []
        for entry in entries:
            weights = load_tensors(self.path(entry.update) / WEIGHTS)
            self.offer(entry.update, score(weights), weights)

    def average(self, device: torch.device) -> dict[str, Tensor]:
        """The mean of the kept weights."""
        return average_weights([load_tensors(self.path(entry.update) / WEIGHTS, device) for entry in self.entries])

    def path(self, update: int) -> Path:
        return self.folder / "best" / f"update-{update:08d}"
