"""Configuration: YAML chooses, the class's own `Config` dataclass types and checks.

A component is a class with a nested dataclass `Config`; its YAML names it by `_target_` and lists every
option. `parse` turns plain data into typed configuration and reports all mistakes at once; `Component.build`
makes the object. This is the only module that knows Hydra and OmegaConf.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from nat.errors import ConfigError

REQUIRED: Any = dataclasses.MISSING
T = TypeVar("T")


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
class Component:
    """A class and its checked configuration, ready to be built once its parent knows the rest."""

    target: type
    config: Any

    def build(self, **given: Any) -> Any:
        """`target(config, **given)`; `given` are the dimensions and parts that the parent provides."""
        return self.target(self.config, **given)


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """Check a component's plain description `{_target_: ..., option: value}` and build it."""
    return parse(Component, node).build(**given)


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
    if kind is Component:
        return _convert_component(node, path, errors)
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
    if kind is float and isinstance(node, int) and not isinstance(node, bool):
        return float(node)
    if kind is int and isinstance(node, float) and node.is_integer():
        return int(node)
    if kind is str and isinstance(node, (int, float)) and not isinstance(node, bool):
        return str(node)
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


def _convert_component(node: Any, path: str, errors: list[str]) -> Component | None:
    where = path or "this component"
    if not isinstance(node, Mapping) or "_target_" not in node:
        errors.append(f"{where}={_show(node)}: a component is needed, a mapping with _target_ and its options")
        return None
    try:
        target = locate(str(node["_target_"]))
    except ConfigError as error:
        errors.append(f"{_join(path, '_target_')}={node['_target_']}: {error}")
        return None
    options = {key: value for key, value in node.items() if key != "_target_"}
    config_class = target.Config  # type: ignore[attr-defined]
    return Component(target, _convert(config_class, options, path, errors))


def locate(name: str) -> type:
    """The component class at the dotted path `name`. Raises ConfigError if there is none."""
    module_name, _, class_name = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no such class ({error})") from None
    if not isinstance(target, type) or not dataclasses.is_dataclass(getattr(target, "Config", None)):
        raise ConfigError("this is not a component: it has no nested dataclass Config")
    return target


def _convert_dataclass(kind: Any, node: Any, path: str, errors: list[str]) -> Any:
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        errors.append(f"{path}={_show(node)}: a mapping of options is needed")
        return None
    hints = typing.get_type_hints(kind)
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
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    bounds = f.metadata
    rules = (
        ("minimum", "at least", lambda bound: value >= bound),
        ("above", "more than", lambda bound: value > bound),
        ("maximum", "at most", lambda bound: value <= bound),
        ("below", "less than", lambda bound: value < bound),
    )
    given = [(words, bounds[name], holds) for name, words, holds in rules if bounds.get(name) is not None]
    if not all(holds(bound) for _, bound, holds in given):
        errors.append(f"{path}={value}: must be " + " and ".join(f"{words} {bound}" for words, bound, _ in given))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(node: Any) -> str:
    text = "null" if node is None else str(node)
    return text if len(text) <= 60 else text[:57] + "..."


# --- Hydra -----------------------------------------------------------------------------------------

MISSING = "???"  # stands in a YAML where the user must give a value; left out, so that `parse` asks for it


def config_directory() -> Path:
    """Where the YAML files lie: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def compose(name: str, overrides: Sequence[str], *, extra_directory: Path | None = None) -> dict[str, Any]:
    """The resolved plain data of `configs/NAME.yaml` under Hydra overrides.

    A value override of a key that no YAML lists is let through here and refused by `parse`, which can name
    the nearest option. Raises ConfigError.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    directory = config_directory()
    search = [directory] if extra_directory is None else [directory, extra_directory]
    groups = {str(p.relative_to(d)) for d in search if d.is_dir() for p in d.rglob("*") if p.is_dir()}
    prepared = [_prepare(override, groups) for override in overrides]
    if extra_directory is not None:
        if not extra_directory.is_dir():
            raise ConfigError(f"config directory {extra_directory}: there is no such folder")
        prepared.append(f"hydra.searchpath=[file://{extra_directory.resolve()}]")
    try:
        with initialize_config_dir(str(directory.resolve()), version_base="1.3"):
            plain = OmegaConf.to_container(hydra_compose(name, prepared), resolve=True)
            recipe = _where_known(plain)
            if recipe:  # before the command line, whose overrides come last
                plain = OmegaConf.to_container(hydra_compose(name, [*recipe, *prepared]), resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_one_line(error)) from None
    assert isinstance(plain, dict)
    return _without_missing(plain)


def _without_missing(node: Mapping[Any, Any]) -> dict[str, Any]:
    """The mapping and those inside it, without the keys whose value the user must give, and those of `_where_known`."""
    return {
        str(key): _without_missing(value) if isinstance(value, Mapping) else value
        for key, value in node.items()
        if value != MISSING and not str(key).endswith("?")
    }


def _where_known(node: Any, path: str = "") -> list[str]:
    """The overrides that `name?: value` in a recipe means: `name: value` where what the recipe is for has `name`. So
    one recipe serves methods with a decoder and without."""
    found = []
    for key, value in node.items() if isinstance(node, Mapping) else ():
        name = _join(path, str(key))
        if not name.endswith("?"):
            found += _where_known(value, name)
        elif str(key)[:-1] in node:
            found += [f"++{leaf}={json.dumps(plain)}" for leaf, plain in _leaves(value, name[:-1])]
    return found


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, _join(path, str(key)))


# What Hydra's grammar takes without quotes.
PLAIN_VALUE = re.compile(r"""[\w /\\+.$%*@?|:~-]*""", re.ASCII)


def _prepare(override: str, groups: set[str]) -> str:
    """The override as Hydra wants it: `++` before options, quotes around text such as a path with an umlaut."""
    match = re.match(r"^(\+{0,2})([\w./@-]+)=(.*)$", override, re.DOTALL)
    if not match:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(f"'{override}' is not an override: write key=value, for example trainer.max_updates=100")
        return override
    plus, key, value = match.groups()
    if value[:1] not in ("'", '"', "[", "{") and "${" not in value and not PLAIN_VALUE.fullmatch(value):
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if not plus and key.split("@")[0] not in groups:
        plus = "++"
    return f"{plus}{key}={value}"


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    choice = re.search(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:\nConfig|$)", text, re.S)
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        known = choice.group(3).split()
        return f"{group}={name}: there is no such choice; {nearest(name, known)}; choices: {', '.join(known)}"
    return " ".join(text.split())


def to_yaml(value: Any) -> str:
    """The YAML text of plain data or typed configuration."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_plain(value)))


def save_yaml(value: Any, path: Path) -> None:
    path.write_text(to_yaml(value), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Plain data of a YAML file. Raises ConfigError if it is missing or is not a mapping."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({_one_line(error)})") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: a mapping of options is needed")
    return {str(key): value for key, value in plain.items()}
