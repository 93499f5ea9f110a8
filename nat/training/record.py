"""What a run tells of itself while it trains: metrics.jsonl, TensorBoard, samples.json."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from nat.errors import DataError
from nat.files import to_json, write_json, write_text
from nat.runs.metrics import METRICS, read_metrics


class RunRecord:
    """The curves of one run folder, opened to go on after `update`: what a killed run recorded beyond it is
    dropped, since it is done again. Raises DataError if metrics.jsonl is damaged."""

    def __init__(self, folder: Path, *, update: int, again: Collection[str] = ()) -> None:
        """again: kinds of lines that are dropped at `update` itself, too."""
        self.folder, self.metrics = folder, folder / METRICS
        ends = {kind: update - 1 for kind in again}
        kept = [point for point in read_metrics(folder) if point["update"] <= ends.get(point["kind"], update)]
        write_text(self.metrics, "".join(to_json(point) + "\n" for point in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)

    def write(self, kind: str, where: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and its numbers in TensorBoard as kind/NAME.

        where: the update, and what else tells how far the run is. Raises DataError if the disk is full.
        """
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(to_json({"kind": kind, **where, **values}) + "\n")
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{kind}/{name}", value, where["update"])
        except OSError as error:
            raise DataError(
                f"{self.metrics}: cannot be written ({error.strerror}); what was saved before is kept"
            ) from None

    def write_samples(self, samples: Sequence[Mapping[str, Any]], *, update: int) -> None:
        """Sample translations, with their passes where there are any: the newest in samples.json, all of them in
        TensorBoard."""
        for i, sample in enumerate(samples):
            lines = [f"{name}: {value}" for name, value in sample.items() if name != "passes"]
            # as code: the symbols, <blank>, would be taken for HTML
            lines += [f"pass {number}: `` {text} ``" for number, text in enumerate(sample.get("passes", ()), start=1)]
            self.board.add_text(f"sample/{i}", "\n\n".join(lines), update)
        write_json(self.folder / "samples.json", list(samples))

    def write_options(self, options: Mapping[str, Any], scores: Mapping[str, Any], *, update: int) -> None:
        """A run's options, as plain nested data, and its final scores, as hyper-parameters in TensorBoard, where runs
        can be set side by side. They stand in the run's own folder (`SummaryWriter.add_hparams` would make a run within
        the run)."""
        numbers = {
            f"final/{name}": float(value)
            for name, value in scores.items()
            if is_number(value) and name not in ("update", "epoch", "seconds")
        }
        writer = self.board.file_writer
        assert writer is not None
        for summary in hparams(dict(flattened(options)), numbers):
            writer.add_summary(summary)
        for name, value in numbers.items():
            self.board.add_scalar(name, value, update)

    def validation(self, update: int) -> dict[str, Any]:
        """What was written of the validation of an update; {} if it was not."""
        points = [p for p in read_metrics(self.folder) if p["kind"] == "valid" and p["update"] == update]
        return points[-1] if points else {}

    def close(self) -> None:
        self.board.close()


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def flattened(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str | float]]:
    """("trainer.max_updates", 100): numbers and text, which TensorBoard takes. A component's class goes by its name
    alone."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{path}{key}.")
        elif key == "_target_":
            yield path.removesuffix("."), str(value).rpartition(".")[2]
        elif isinstance(value, (str, float, int)) and not isinstance(value, bool):
            yield f"{path}{key}", value
        else:
            yield f"{path}{key}", json.dumps(value, ensure_ascii=False)
