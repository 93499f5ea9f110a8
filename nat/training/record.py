"""What a run tells of itself while it trains: metrics.jsonl, TensorBoard, samples.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nat.errors import DataError
from nat.files import write_json, write_text


class RunRecord:
    """The curves of one run folder, opened to go on after `update`: what a killed run recorded beyond it is
    dropped, since those updates are made again."""

    def __init__(self, folder: Path, *, update: int) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self._forget_after(update)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)

    def write(self, kind: str, where: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and its numbers in TensorBoard as kind/NAME.

        where: the update, and what else tells how far the run is. A number that is not finite, which JSON does
        not know, is null. Raises DataError if the disk is full.
        """
        known = {
            name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()
        }
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, **where, **known}) + "\n")
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{kind}/{name}", value, where["update"])
        except OSError as error:
            raise DataError(
                f"{self.metrics}: cannot be written ({error.strerror}); what was saved before is kept"
            ) from None

    def write_samples(self, samples: Sequence[Mapping[str, str]], *, update: int) -> None:
        """Sample translations: the newest in samples.json, all of them in TensorBoard."""
        for i, sample in enumerate(samples):
            text = "\n\n".join(f"{name}: {value}" for name, value in sample.items())
            self.board.add_text(f"sample/{i}", text, update)
        write_json(self.folder / "samples.json", list(samples))

    def close(self) -> None:
        self.board.close()

    def _forget_after(self, update: int) -> None:
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["update"] <= update:
                    kept.append(line + "\n")
            except ValueError:
                pass  # the line that was being written when the run was killed
        write_text(self.metrics, "".join(kept))


def finite(value: object) -> bool:
    return not isinstance(value, float) or isfinite(value)
