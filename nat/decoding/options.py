"""The options that commands share: what they write, what they compute on, and how they decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import torch

from nat.config import merge, option, parse
from nat.data.corpus import DataConfig
from nat.decoding.translator import Translator
from nat.errors import DataError
from nat.runs.outputs import Output, check_outputs, json_object

MOST_THREADS = 1024  # more than any machine has cores; far more than that ends the process


class Device(Enum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """Of a command that reads and writes files."""

    output: str | None = option(None, "JSON file of the figures; null: none is written")
    overwrite: bool = option(False, "replace files that are no earlier output of this command")

    first_keys: ClassVar[tuple[str, ...]] = ()  # of the JSON object in `output`

    @property
    def inputs(self) -> Iterable[str | None]:
        """The files that are read."""
        return ()

    @property
    def runs(self) -> Iterable[str | None]:
        """The run folders that are read."""
        return ()

    @property
    def outputs(self) -> dict[str, Output]:
        """The files that will be written, by the option that names them."""
        if self.output is None:
            return {}
        return {"output": Output(Path(self.output), json_object(*self.first_keys))}

    def prepare(self) -> None:
        """What comes before all work. Raises ConfigError or DataError where an output cannot be written."""
        check_outputs(self.outputs, inputs=self.inputs, runs=self.runs, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Of a command that decodes with one run or several: on what, which text and how."""

    device: Device = option(Device.AUTO, "auto (a GPU if there is one), cpu or cuda")
    num_threads: int | None = option(
        None, "CPU threads of torch; null: torch's choice", minimum=1, maximum=MOST_THREADS
    )
    data: dict[str, Any] = field(default_factory=dict, metadata={"help": "options over those of the run's corpus"})
    decoding: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "batch_size, max_tokens, cuda_graphs, precision and the method's options"},
    )

    def use_threads(self) -> None:
        """torch computes on as many threads from here on."""
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)


@dataclass(frozen=True, kw_only=True)
class DecodingCommandConfig(CommandConfig, DecodingConfig):
    """Of a command that decodes, and writes what it finds."""

    def prepare(self) -> None:
        """As `CommandConfig.prepare`, with the threads."""
        super().prepare()
        self.use_threads()


def data_options(translator: Translator, changes: Mapping[str, Any]) -> DataConfig:
    """Those of the run's own corpus, with `changes`, read as a whole. Raises ConfigError or DataError."""
    stored = translator.config.get("data")
    if not isinstance(stored, Mapping):
        raise DataError(f"{translator.folder}/config.yaml: has no data options; give source=FILE")
    return dataclasses.replace(parse(DataConfig, merge(stored, changes), "data"), streaming=False)
