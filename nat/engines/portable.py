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
from nat.models.crf import CRF

SCORED = tuple(kind for kind in onnx.SINGLE_PASS if kind is not CRF)  # whose graphs can write log-probabilities
PACKAGES, open_written, longest_source = onnx.PACKAGES, onnx.open_written, onnx.longest_source


def check(translator: Translator) -> None:
    """As `Tool.check`."""
    if not isinstance(translator.model, SCORED):
        raise ConfigError(
            f"engine={ENGINE}: {translator.folder} holds a {type(translator.model).__name__} model; "
            f"only {onnx.named(SCORED)} become one graph with scores, which a browser can compute"
        )
    onnx.check(translator)


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """As `Tool.write`."""
    onnx.write_single(translator, folder, kind, PORTABLE)
