"""Memory: a model that this machine cannot hold is refused before its weights are allocated; what a process takes."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nat.errors import ConfigError

FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}


class Allowance(TorchFunctionMode):
    """While it is entered, no more numbers can be made than the machine's memory holds.

    copies: how many numbers there will be for each weight; 4 in training, for the gradient and Adam's two means. Raises
    ConfigError in the place of the allocation that goes beyond.
    """

    def __init__(self, *, copies: int) -> None:
        super().__init__()
        self.memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.copies, self.count = copies, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FACTORIES and args:
            self.count += math.prod(args[0] if isinstance(args[0], (tuple, list)) else args)
            if self.count * self.copies * 4 > self.memory:
                raise ConfigError(
                    f"model: {self.count:,} numbers or more; with {self.copies} copies of 4 bytes they exceed this "
                    f"machine's memory of {self.memory / 2**30:.1f} GB"
                )
        return func(*args, **(kwargs or {}))


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors took on a GPU, or this process of the machine's memory, since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
