"""ONNX graphs of a single pass for machines of every kind, browsers among them: the same tokens everywhere.

Here ONNX Runtime opens them as any other export. They also write the log-probability of each symbol.
"""

from __future__ import annotations

from pathlib import Path

from nat.decoding.translator import Translator
from nat.engines import onnx
from nat.engines.base import ComputeType
from nat.engines.onnx_operators import PORTABLE
from nat.engines.onnx_session import ENGINE
from nat.errors import ConfigError

PACKAGES, open_written, longest_source = onnx.PACKAGES, onnx.open_written, onnx.longest_source


def check(translator: Translator) -> None:
    """As `Tool.check`."""
    if not isinstance(translator.model, tuple(onnx.SINGLE_PASS)):
        raise ConfigError(
            f"engine={ENGINE}: {translator.folder} holds a {type(translator.model).__name__} model; "
            f"only {onnx.named(onnx.SINGLE_PASS)} become one graph, which a browser can compute"
        )
    onnx.check(translator)


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """As `Tool.write`."""
    onnx.write_single(translator, folder, kind, PORTABLE)
