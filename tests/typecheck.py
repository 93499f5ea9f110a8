"""The run-time check of shape annotations, for jaxtyping's import hook (tests only)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])
# Self beartype knows only where it decorates a whole class; the others are protocols, for mypy alone.
UNCHECKED = re.compile(r"\b(Self|NextToken|StepState|Prior)\b")


def check(function: F) -> F:
    """beartype, without the hints that it cannot check."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if not UNCHECKED.search(str(hint))}
    return beartype(function)
