"""The package onnxruntime: whether it is there, and sessions of its graphs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nat.errors import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ENGINE, PACKAGE = "onnx", "onnxruntime"


def require(package: str) -> None:
    """Raises ConfigError where it is not installed."""
    try:
        missing = find_spec(package) is None
    except ValueError:  # half imported, or kept from being imported
        missing = True
    if missing:
        raise ConfigError(f"engine={ENGINE}: the package {package} is missing; pip install 'nat-translation[{ENGINE}]'")


def open_session(path: Path) -> InferenceSession:
    """Raises ConfigError where the package is missing or cannot read the graph."""
    require(PACKAGE)
    from nat.engines import translate

    try:
        return translate.open_session(str(path))
    except Exception as error:  # the package's own kinds have no ancestor in common
        raise ConfigError(f"{path}: {PACKAGE} cannot read this graph ({' '.join(str(error).split())})") from None


def run(session: InferenceSession, output: str, **inputs: Tensor) -> Tensor:
    """One output of a graph, for inputs on the CPU."""
    (found,) = session.run([output], {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(found)
