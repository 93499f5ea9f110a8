"""Which engine computes a run's translations, in which precision and which batches: read and refused here alone.

torch computes whatever was trained, on any device. ctranslate2 computes autoregressive runs, onnx most of the others on
a CPU, both in float32 or with products of 8-bit integers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from nat.config import parse
from nat.decoding.batch_options import USUAL, BatchOptions
from nat.decoding.translator import Translator
from nat.engines import ctranslate2, hub_ctranslate2, onnx
from nat.engines.base import ComputeType, EngineTranslator
from nat.engines.hub_teacher import HubModel
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.runs.precision import choose_precision

PRECISION, CUDA_GRAPHS = "precision", "cuda_graphs"
OF_EVERY_METHOD: dict[str, Any] = vars(USUAL) | {CUDA_GRAPHS: False, PRECISION: None}  # of `decoding`, and its defaults


class Engine(Enum):
    TORCH = "torch"
    CTRANSLATE2 = "ctranslate2"
    ONNX = "onnx"


class Tool(Protocol):
    """What the module of an engine other than torch offers."""

    @property
    def PACKAGES(self) -> Sequence[str]:
        """That a folder is made and computed with."""
        ...

    def check(self, translator: Translator) -> None:
        """Raises ConfigError where a package is missing, and where the run's model cannot be served."""
        ...

    def write(self, translator: Translator, folder: Path, kind: ComputeType) -> None:
        """What the engine reads of a run that `check` takes, into a folder that exists."""
        ...

    def open_written(self, translator: Translator, folder: Path, kind: ComputeType) -> EngineTranslator:
        """The translator with its model computed from what `write` wrote. Raises ConfigError where the package is
        missing, or cannot serve the device."""
        ...

    def longest_source(self, model: TranslationModel) -> int | None:
        """The most tokens of a sentence; None where there is no limit."""
        ...


TOOLS: dict[Engine, Tool] = {Engine.CTRANSLATE2: ctranslate2, Engine.ONNX: onnx}
HUB_TOOLS: dict[Engine, Tool] = {Engine.CTRANSLATE2: hub_ctranslate2, Engine.ONNX: onnx}  # of a teacher of transformers


def decoding_options(
    translator: Translator, options: Mapping[str, Any], engine: Engine = Engine.TORCH
) -> tuple[Translator, DecodingOptions, BatchOptions]:
    """From what `decoding` holds: the translator as it is to be computed, the method's options, those of the batches.
    Raises ConfigError by name."""
    own = {name: value for name, value in options.items() if name not in OF_EVERY_METHOD}
    of_batches = {f.name: options[f.name] for f in fields(BatchOptions) if f.name in options}
    batches = parse(BatchOptions, of_batches, "decoding")
    graphs = parse(bool, options.get(CUDA_GRAPHS, False), f"decoding.{CUDA_GRAPHS}")
    computed = with_engine(translator, engine, options.get(PRECISION))
    decoding = computed.decoding(own)
    return computed.with_cuda_graphs(decoding) if graphs else computed, decoding, batches


def with_engine(translator: Translator, engine: Engine, precision: Any = None) -> Translator:
    """The translator as `engine` computes it. precision: the value of decoding.precision; None: fp32. Raises
    ConfigError for an engine that is not installed or cannot compute the run, and for a precision that it does not
    know."""
    name = f"decoding.{PRECISION}"
    if engine is Engine.TORCH:
        return translator.in_precision(choose_precision(precision, translator.device, option=name))
    if isinstance(translator, EngineTranslator):
        raise ConfigError(
            f"engine={engine.value}: {translator.folder} is an export, which {translator.engine} computes"
        )
    return accelerate(translator, engine, parse(ComputeType, precision or ComputeType.FP32.value, name))


def accelerate(translator: Translator, engine: Engine, kind: ComputeType = ComputeType.FP32) -> EngineTranslator:
    """The same run in an engine other than torch, from a folder that is left behind by nobody."""
    tool = (HUB_TOOLS if isinstance(translator.model, HubModel) else TOOLS)[engine]
    tool.check(translator)
    with tempfile.TemporaryDirectory(prefix=f"nat-{engine.value}-") as folder:
        tool.write(translator, Path(folder), kind)
        return tool.open_written(translator, Path(folder), kind)
