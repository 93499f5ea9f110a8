"""Which engine computes a run's translations, in which precision and which batches: read and refused here alone.

torch computes whatever was trained, on any device. ctranslate2 computes autoregressive runs, in float32 or with
products of 8-bit integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from nat.config import parse
from nat.decoding.batch_options import BatchOptions
from nat.decoding.translator import Translator
from nat.engines.ctranslate2 import ComputeType, accelerate
from nat.models.options import DecodingOptions
from nat.runs.precision import choose_precision

PRECISION = "precision"
OF_EVERY_METHOD = frozenset({PRECISION, *(f.name for f in fields(BatchOptions))})  # of what `decoding` holds


class Engine(Enum):
    TORCH = "torch"
    CTRANSLATE2 = "ctranslate2"


def decoding_options(
    translator: Translator, options: Mapping[str, Any], engine: Engine = Engine.TORCH
) -> tuple[Translator, DecodingOptions, BatchOptions]:
    """From what `decoding` holds: the translator as it is to be computed, the method's options, those of the batches.
    Raises ConfigError by name."""
    own = {name: value for name, value in options.items() if name not in OF_EVERY_METHOD}
    of_batches = {name: options[name] for name in OF_EVERY_METHOD & options.keys() if name != PRECISION}
    batches = parse(BatchOptions, of_batches, "decoding")
    computed = with_engine(translator, engine, options.get(PRECISION))
    return computed, computed.decoding(own), batches


def with_engine(translator: Translator, engine: Engine, precision: Any = None) -> Translator:
    """The translator as `engine` computes it. precision: the value of decoding.precision; None: fp32. Raises
    ConfigError for an engine that is not installed or cannot compute the run, and for a precision that it does not
    know."""
    name = f"decoding.{PRECISION}"
    match engine:
        case Engine.TORCH:
            return translator.in_precision(choose_precision(precision, translator.device, option=name))
        case Engine.CTRANSLATE2:
            return accelerate(translator, parse(ComputeType, precision or ComputeType.FP32.value, name))
