"""The device that a command computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nat.errors import ConfigError


def choose_device(name: str, *, option: str = "device") -> torch.device:
    """auto, cpu or cuda -> a device; under torchrun each rank's own GPU. Raises ConfigError, naming the option,
    for another name, or where cuda is asked for and there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"{option}={name}: allowed are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option}=cuda: torch sees no GPU here; use cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", environment_number("LOCAL_RANK", 0))


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Inside, where asked for, the same work on the same GPU gives the same bits: torch takes operators whose sums have
    one order, and warns of one that has none. A CPU needs no asking."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for, before its first product
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def environment_number(name: str, default: int) -> int:
    """A variable that torchrun sets. Raises ConfigError where it is no whole number, or below 0."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text}: this variable is the number of a rank, or of ranks")
    return int(text)
