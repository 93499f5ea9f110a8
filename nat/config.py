"""Configuration: YAML chooses, the class's own `Config` dataclass types and checks.

A component is a class with a nested dataclass `Config`; its YAML names it by `_target_` and lists every
option. `parse` turns plain data into typed configuration and reports all mistakes at once; `Component.build`
makes the object. What a saved config.yaml says is plain data: nothing in it is resolved, and it can name components of
`nat` and of packages that the user trusts, no other code.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader  # YAML of numbers and text as Hydra reads it

from nat.errors import ConfigError

REQUIRED: Any = dataclasses.MISSING
LARGEST = 2**63 - 1  # whole numbers that torch and numpy take
T = TypeVar("T")
C = TypeVar("C")


def option(
    default: Any = REQUIRED,
    help: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with a help line and, for numbers, the allowed range (`minimum` and `maximum`
    are allowed themselves, `above` and `below` are not)."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "above": above, "below": below}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Component(Generic[C]):
    """A class and its checked configuration, ready to be built once its parent knows the rest. An option that is a
    `Component[Kind]` takes subclasses of Kind alone."""

    target: type[C]
    config: Any

    def build(self, **provided: Any) -> Any:
        """`target(config, **provided)`; `provided` are the dimensions and parts that come from the parent."""
        return self.target(self.config, **provided)  # type: ignore[call-arg]


def build(node: Mapping[str, Any], **provided: Any) -> Any:
    """Check a component's plain description `{_target_: ..., option: value}` and build it."""
    return parse(Component, node).build(**provided)


def parse(kind: type[T], node: Any, path: str = "") -> T:
    """Plain data -> `kind` (a dataclass, Component, Enum, list, number, ...).

    Raises ConfigError with one line for every unknown key, wrong type and impossible value.
    """
    errors: list[str] = []
    value = _convert(kind, node, path, errors)
    if errors:
        raise ConfigError("\n".join(errors))
    return value


def to_plain(value: Any) -> Any:
    """The inverse of `parse`: what goes into a saved config.yaml."""
    if isinstance(value, Component):
        return {"_target_": f"{value.target.__module__}.{value.target.__qualname__}"} | to_plain(value.config)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mappings within mappings too."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = merge(before, value)
        merged[key] = value
    return merged


def nearest(name: str, known: Sequence[str]) -> str:
    """' Did you mean X?' or the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(sorted(known)) if known else "nothing is known here"


def _convert(kind: Any, node: Any, path: str, errors: list[str]) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(kind, node, path, errors)
    if kind is Any:
        return node
    if kind is Component or origin is Component:
        return _convert_component(node, path, errors, *typing.get_args(kind))
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, node, path, errors)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(node)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in kind)
            errors.append(f"{path}={_show(node)}: allowed are {allowed}")
            return None
    if origin is list:
        if not isinstance(node, (list, tuple)):
            errors.append(f"{path}={_show(node)}: a list is needed, for example [{_show(node)}]")
            return None
        (item,) = typing.get_args(kind)
        return [_convert(item, value, f"{path}[{i}]", errors) for i, value in enumerate(node)]
    if origin is dict or kind is dict:
        if not isinstance(node, Mapping):
            errors.append(f"{path}={_show(node)}: a mapping is needed")
            return None
        return dict(node)
    return _convert_scalar(kind, node, path, errors)


def _convert_scalar(kind: type, node: Any, path: str, errors: list[str]) -> Any:
    if isinstance(node, (int, float)) and not abs(node) <= LARGEST and not (kind is float and isfinite(node)):
        errors.append(f"{path}={_show(node)}: must be {'finite' if kind is float else f'at most {LARGEST}'}")
        return None
    if kind is float and isinstance(node, int) and not isinstance(node, bool):
        return float(node)
    if kind is int and isinstance(node, float) and node.is_integer():
        return int(node)
    if kind is str and isinstance(node, (int, float)) and not isinstance(node, bool):
        return str(node)
    if kind is str and isinstance(node, str) and not node.strip():
        errors.append(f"{path}=: a value is needed")  # such as a shell variable that is not set
        return None
    if kind is str and isinstance(node, str) and "\0" in node:
        errors.append(f"{path}={node!r}: no text or path has a NUL character")
        return None
    if isinstance(node, kind) and not (kind in (int, float) and isinstance(node, bool)):
        return node
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    errors.append(f"{path}={_show(node)}: {words.get(kind, kind.__name__)} is needed")
    return None


def _convert_union(kind: Any, node: Any, path: str, errors: list[str]) -> Any:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if node is None and len(members) < len(typing.get_args(kind)):
        return None
    attempts = []
    for member in members:
        attempt: list[str] = []
        value = _convert(member, node, path, attempt)
        if not attempt:
            return value
        attempts.append(attempt)
    errors.extend(attempts[0])
    return None


def _convert_component(node: Any, path: str, errors: list[str], base: type = object) -> Component[Any] | None:
    where = path or "this component"
    if not isinstance(node, Mapping) or "_target_" not in node:
        errors.append(f"{where}={_show(node)}: a component is needed, a mapping with _target_ and its options")
        return None
    try:
        target = locate(str(node["_target_"]))
    except ConfigError as error:
        errors.append(f"{_join(path, '_target_')}={node['_target_']}: {error}")
        return None
    if not issubclass(target, base):
        errors.append(f"{_join(path, '_target_')}={node['_target_']}: a kind of {base.__name__} is needed")
        return None
    options = {key: value for key, value in node.items() if key != "_target_"}
    config_class = target.Config  # type: ignore[attr-defined]
    return Component(target, _convert(config_class, options, path, errors))


# Packages whose components may be built. What the user types adds to them, a file never does.
TRUSTED = {"nat"}


def trust(package: str) -> None:
    """From now on, components of this package may be built, in this process. Raises ConfigError if there is none."""
    if not is_dotted_name(package) or importlib.util.find_spec(package.partition(".")[0]) is None:
        raise ConfigError(f"trust={package}: there is no such package; install it, or add its folder to PYTHONPATH")
    TRUSTED.add(package)


def is_dotted_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def locate(name: str) -> type:
    """The component class at the dotted path `name`, of a trusted package. Raises ConfigError if there is none."""
    if not is_trusted(name):
        package = name.partition(".")[0]
        raise ConfigError(
            f"components of {package} are built only where you trust that package: "
            f"--trust {package}, or nat.load(..., trust=['{package}'])"
        )
    module_name, _, class_name = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no such class ({error})") from None
    if not isinstance(target, type) or not dataclasses.is_dataclass(getattr(target, "Config", None)):
        raise ConfigError("this is not a component: it has no nested dataclass Config")
    if not is_trusted(f"{target.__module__}."):
        raise ConfigError(f"this is a class of {target.__module__}, not a component")
    return target


def is_trusted(name: str) -> bool:
    return any(name.startswith(f"{package}.") for package in TRUSTED)


@functools.cache  # evaluated text, several times as long as all the rest of a conversion
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert_dataclass(kind: Any, node: Any, path: str, errors: list[str]) -> Any:
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        errors.append(f"{path}={_show(node)}: a mapping of options is needed")
        return None
    hints = _hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if f.init}
    before = len(errors)
    values = {}
    for key, value in node.items():
        if key not in known:
            errors.append(f"{_join(path, str(key))}: no such option, {nearest(str(key), list(known))}")
            continue
        count = len(errors)
        values[key] = _convert(hints[key], value, _join(path, key), errors)
        if len(errors) == count:
            _check_range(known[key], values[key], _join(path, key), errors)
    for name, f in known.items():
        if f.default is REQUIRED and f.default_factory is REQUIRED and name not in node:
            help = f.metadata.get("help", "")
            errors.append(f"{_join(path, name)}: a value is needed" + (f" ({help})" if help else ""))
    if len(errors) > before:
        return None
    try:
        return kind(**values)
    except ConfigError as error:  # relations between fields are checked in __post_init__
        errors.extend(_join(path, line) for line in str(error).splitlines())
        return None


def _check_range(f: dataclasses.Field[Any], value: Any, path: str, errors: list[str]) -> None:
    if isinstance(value, list):
        for number, item in enumerate(value):
            _check_range(f, item, f"{path}[{number}]", errors)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    bounds = f.metadata
    rules = (
        ("minimum", "at least", lambda bound: value >= bound),
        ("above", "more than", lambda bound: value > bound),
        ("maximum", "at most", lambda bound: value <= bound),
        ("below", "less than", lambda bound: value < bound),
    )
    limits = [(words, bounds[name], holds) for name, words, holds in rules if bounds.get(name) is not None]
    if not all(holds(bound) for _, bound, holds in limits):
        errors.append(f"{path}={value}: must be " + " and ".join(f"{words} {bound}" for words, bound, _ in limits))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(node: Any) -> str:
    text = "null" if node is None else " ".join(str(node).splitlines())
    return text if len(text) <= 60 else text[:57] + "..."


# --- YAML ------------------------------------------------------------------------------------------


class PlainLoader(get_yaml_loader()):  # type: ignore[misc]
    """Mappings, lists and scalars. Aliases, of which a short file makes endless data, are refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read", self.peek_event().start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def to_yaml(value: Any) -> str:
    """The YAML text of plain data or typed configuration."""
    text: str = yaml.dump(to_plain(value), Dumper=get_omega_conf_dumper(), allow_unicode=True, sort_keys=False)
    return text


def save_yaml(value: Any, path: Path) -> None:
    path.write_text(to_yaml(value), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Plain data of a YAML file, as it stands there: no interpolation is resolved.
    Raises ConfigError, naming file and line, if it is missing, damaged or no mapping."""
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}{why_unreadable(error)}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: a mapping of options is needed")
    return {str(key): value for key, value in plain.items()}


def why_unreadable(error: Exception) -> str:
    """', line 3: cannot be read (what is wrong)'."""
    mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif isinstance(error, OSError):
        reason = error.strerror
    text = " ".join(str(reason or error).split())
    return f"{'' if mark is None else f', line {mark.line + 1}'}: cannot be read ({text})"
