"""The run-time check of shape annotations, for jaxtyping's import hook (tests only).

Of calls that look alike (the same types, shapes and dtypes go in and come out) the first is checked: a test that trains
or decodes pays for a shape once, not at every step.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

import jaxtyping
from beartype.door import die_if_unbearable
from jaxtyping import jaxtyped
from torch import Tensor

Function = Callable[..., Any]
SHAPES = re.compile(r"\b(Tensor|ndarray)\b")
UNCHECKED = re.compile(r"\b(NextToken|StepState|Prior)\b")  # protocols, for mypy alone


def install() -> None:
    """Puts `checked` where the hook looks for the decorator of every function and class."""
    jaxtyping.jaxtyped = lambda **_: checked


def checked(thing: Any) -> Any:
    """The function with the shapes of its calls checked; of a dataclass those of its fields."""
    if not inspect.isclass(thing):
        return checked_function(thing)
    if "__dataclass_fields__" in vars(thing):
        thing.__init__ = checked_function(thing.__init__)  # type: ignore[misc]
    return thing


def checked_function(function: Function) -> Function:
    if not any(SHAPES.search(str(hint)) for hint in function.__annotations__.values()):
        return function
    key = function.__module__, function.__qualname__, function.__code__
    contract = contracts.setdefault(key, Contract(function))

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        before = look(given), look(named)
        if before not in contract.kept:
            contract.check(given, named)
        result = function(*given, **named)
        after = before, look(result)
        if after not in contract.kept:
            contract.check(given, named, {"return": result})
            contract.kept.update((before, after))
        return result

    return call


def look(value: Any) -> Any:
    """All that a check depends on."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, tuple | list):
        return type(value), *map(look, value)
    if isinstance(value, dict):
        return type(value), *((key, look(item)) for key, item in value.items())
    return type(value), getattr(value, "shape", None), getattr(value, "dtype", None)  # of an array


class Contract:
    """What a function's annotations promise. kept: the looks of calls that were checked."""

    def __init__(self, function: Function) -> None:
        self.function, self.kept = function, set[Any]()

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @property
    def names(self) -> dict[str, Any]:
        """Those of the class that the function belongs to, and Self."""
        owner: Any = None
        for name in self.function.__qualname__.split(".")[:-1]:
            owner = self.function.__globals__.get(name) if owner is None else vars(owner).get(name)
            if not inspect.isclass(owner):  # within a function
                return {}
        return {} if owner is None else vars(owner) | {"Self": owner}

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """By the names of parameters, and `return`."""

        def bare() -> None: ...

        annotations = self.function.__annotations__
        bare.__annotations__ = {name: hint for name, hint in annotations.items() if not UNCHECKED.search(str(hint))}
        return typing.get_type_hints(bare, self.function.__globals__, self.names, include_extras=True)

    def check(self, given: Any, named: Any, result: dict[str, Any] | None = None) -> None:
        """Raises where a value is not what its annotation says, a dimension being the same in all of them."""
        values = self.signature.bind(*given, **named).arguments | (result or {})
        with jaxtyped("context"):
            for name, hint in self.hints.items():
                for value in self.each(name, values):
                    die_if_unbearable(value, hint, exception_prefix=f"in {self.function.__qualname__}, {name}: ")

    def each(self, name: str, values: dict[str, Any]) -> Iterable[Any]:
        """The values that an annotation is of."""
        parameter = self.signature.parameters.get(name)
        if name not in values:  # left to its default
            return ()
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
            return values[name]  # type: ignore[no-any-return]
        if parameter is not None and parameter.kind is parameter.VAR_KEYWORD:
            return values[name].values()  # type: ignore[no-any-return]
        return (values[name],)


# By code, since a nested function is made anew at every call; constructors of equal fields have equal code.
contracts: dict[tuple[str, str, CodeType], Contract] = {}
