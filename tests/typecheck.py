"""The run-time check of shape annotations, for jaxtyping's import hook (tests only)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])


def check(function: F) -> F:
    """beartype, without hints that mention Self: it knows those only where it decorates a whole class."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if "Self" not in str(hint)}
    return beartype(function)
