"""nat: train, distil and decode non-autoregressive translation models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nat.threads import prepare_threads

__version__ = "0.1.0"

prepare_threads()

if TYPE_CHECKING:
    from nat.decoding.history import SentenceHistory, read_history
    from nat.decoding.requests import Request
    from nat.decoding.translator import Translator
    from nat.engines.opening import load

__all__ = ["Request", "SentenceHistory", "Translator", "__version__", "load", "read_history"]


def __getattr__(name: str) -> object:
    """`nat.load` without making every import of the package pay for torch."""
    if name == "load":
        from nat.engines.opening import load

        return load
    if name == "Translator":
        from nat.decoding.translator import Translator

        return Translator
    if name in ("SentenceHistory", "read_history"):
        from nat.decoding import history

        return getattr(history, name)
    if name == "Request":
        from nat.decoding.requests import Request

        return Request
    raise AttributeError(f"module 'nat' has no attribute '{name}'")
