"""The precision of matrix products, in training and in decoding."""

from __future__ import annotations

import contextlib
from enum import Enum

import torch

from nat.errors import ConfigError


class Precision(Enum):
    """What torch multiplies in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.value]


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Matrix products in the given precision; weights, sums and losses stay in float32."""
    if precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision.dtype)


def choose_precision(name: str | None, device: torch.device, *, option: str = "precision") -> Precision:
    """fp32 (also None), bf16, fp16, or auto: bf16 on a GPU that computes it, else fp32. Raises ConfigError, naming the
    option, for another name, and for fp16 on a CPU, which has no fast products of it."""
    if name == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision.BF16 if on_gpu else Precision.FP32
    known = [precision.value for precision in Precision]
    if name is not None and name not in known:
        raise ConfigError(f"{option}={name}: allowed are {', '.join((*known, 'auto'))}")
    if name == Precision.FP16.value and device.type == "cpu":
        raise ConfigError(f"{option}=fp16: not on a CPU; use fp32, bf16 or auto")
    return Precision(name or "fp32")
