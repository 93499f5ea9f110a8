"""The precision of matrix products, in training and in decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum

import torch

from nat.config import parse
from nat.errors import ConfigError

TF32 = "tf32"


class Precision(Enum):
    """What torch multiplies in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.value]


class AnyPrecision(Enum):
    """What a user may ask for where something decodes. auto: bf16 on a GPU that computes it, else fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    AUTO = "auto"


def choose_precision(asked: str | AnyPrecision | None, device: torch.device, *, option: str = "precision") -> Precision:
    """None is fp32. Raises ConfigError, naming the option, for an unknown name, and for fp16 on a CPU, which has no
    fast products of it."""
    chosen = parse(AnyPrecision, asked or AnyPrecision.FP32, option)
    if chosen is AnyPrecision.AUTO:
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision.BF16 if on_gpu else Precision.FP32
    if chosen is AnyPrecision.FP16 and device.type == "cpu":
        raise ConfigError(f"{option}=fp16: not on a CPU; use fp32, bf16 or auto")
    return Precision(chosen.value)


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Matrix products in the given precision; weights, sums and losses stay in float32."""
    if precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision.dtype)


def has_tf32(device: torch.device) -> bool:
    """Whether the GPU rounds factors of float32 to 10 bits of mantissa, for a product several times as fast."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def precision_name(precision: Precision, device: torch.device) -> str:
    """What `decoding_in` multiplies in, for reports."""
    return TF32 if precision is Precision.FP32 and has_tf32(device) else precision.value


@contextlib.contextmanager
def decoding_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """As `autocast`, and with fp32 in TF32 where the GPU has it: decoding adds up no gradients."""
    before = torch.get_float32_matmul_precision()
    if precision_name(precision, device) == TF32:
        torch.set_float32_matmul_precision("high")
    try:
        with autocast(precision, device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
