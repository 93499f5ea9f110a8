"""What a run tells of itself while it trains: metrics.jsonl, TensorBoard, samples.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

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
        numbers = {f"final/{name}": float(value) for name, value in scores.items() if is_number(value)}
        writer = self.board.file_writer
        assert writer is not None
        for summary in hparams(dict(flattened(options)), numbers):
            writer.add_summary(summary)
        for name, value in numbers.items():
            self.board.add_scalar(name, value, update)

    def values(self, kind: str, *, update: int) -> dict[str, Any]:
        """The last line of this kind at an update; {} if there is none."""
        lines = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line["kind"] == kind and line["update"] == update]
        return found[-1] if found else {}

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


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and finite(value)


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
