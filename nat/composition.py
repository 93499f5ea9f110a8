"""The configuration of a command: the YAML files of `configs/` and the user's own under the words of the command line.

Hydra composes; this is the only module that knows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nat.config import nearest
from nat.errors import ConfigError

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
        name = f"{path}.{key}".lstrip(".")
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
        yield from _leaves(value, f"{path}.{key}".lstrip("."))


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
