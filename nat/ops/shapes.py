"""Whether a shape may depend on values."""

from __future__ import annotations

import torch
from torch import Tensor


def are_fixed(tensor: Tensor) -> bool:
    """True where shapes must not depend on values of this tensor: on a GPU the host would have to wait for them, and in
    compiled code they would break the graph. Elsewhere they save work: what is left out is not computed."""
    return tensor.is_cuda or torch.compiler.is_compiling()


def nothing_in(where: Tensor) -> bool:
    """Whether no position is True, so that work on them can be left out; False where it would have to be waited for."""
    return not are_fixed(where) and not bool(where.any())
