"""The configuration of a command: the YAML files of `configs/` and the user's own under the words of the command line.

Hydra composes; this is the only module that knows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nat.config import load_yaml, nearest, why_unreadable
from nat.errors import ConfigError

MISSING = "???"  # stands in a YAML where the user must give a value; left out, so that `parse` asks for it


def config_directory() -> Path:
    """Where the YAML files lie: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def compose(name: str, words: Sequence[str], *, extra_directory: Path | None = None) -> dict[str, Any]:
    """The resolved plain data of `configs/NAME.yaml` under overrides, the words of a command line.

    A value override of a key that no YAML lists is let through here and refused by `parse`, which can name
    the nearest option. A text that begins with ~/ is a path in the home folder. Raises ConfigError.
    """
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    with hydra_session(words, extra_directory) as overrides:
        plain = OmegaConf.to_container(hydra_compose(name, overrides), resolve=True)
        recipe = _where_known(plain)
        if recipe:  # before the command line, whose overrides come last
            plain = OmegaConf.to_container(hydra_compose(name, [*recipe, *overrides]), resolve=True)
    composed = _finished(plain)
    assert isinstance(composed, dict)
    return composed


@contextlib.contextmanager
def hydra_session(words: Sequence[str], extra_directory: Path | None) -> Iterator[list[str]]:
    """Hydra, ready to compose, and `words` in its grammar. What Hydra, OmegaConf or YAML object to becomes a
    ConfigError."""
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    directory = config_directory()
    if extra_directory is not None and not extra_directory.is_dir():
        raise ConfigError(f"config directory {extra_directory}: there is no such folder")
    search = [directory] if extra_directory is None else [directory, extra_directory]
    groups = {str(p.relative_to(d)) for d in search for p in d.rglob("*") if p.is_dir()}
    try:
        overrides = [as_override(word, groups) for word in words]
        if extra_directory is not None:
            overrides.append(f"hydra.searchpath=[{_quoted(f'file://{extra_directory.resolve()}')}]")
        with initialize_config_dir(str(directory.resolve()), version_base="1.3"):
            yield overrides
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{error.problem_mark.name}{why_unreadable(error)}" if error.problem_mark else str(error)
        ) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        for path in sorted(extra_directory.rglob("*.yaml")) if extra_directory is not None else ():
            load_yaml(path)  # is it to blame? Then this names it
        raise ConfigError(_one_line(error)) from None


def _finished(node: Any) -> Any:
    """Without the keys whose value the user must give, and those of `_where_known`; ~ is the home folder."""
    if isinstance(node, Mapping):
        return {
            str(key): _finished(value) for key, value in node.items() if value != MISSING and not str(key).endswith("?")
        }
    if isinstance(node, list):
        return [_finished(item) for item in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~") else node


def _where_known(node: Any, path: str = "") -> list[str]:
    """The overrides that `name?: value` in a recipe means: `name: value` where what the recipe is for has `name`. So
    one recipe serves methods with a decoder and without."""
    overrides = []
    for key, value in node.items() if isinstance(node, Mapping) else ():
        name = f"{path}{key}"
        if not name.endswith("?"):
            overrides += _where_known(value, f"{name}.")
        elif str(key)[:-1] in node:
            overrides += [f"++{leaf}={json.dumps(plain)}" for leaf, plain in _leaves(value, name[:-1])]
    return overrides


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}")


def _one_line(error: Exception) -> str:
    text = "nested too deeply" if isinstance(error, RecursionError) else str(error).strip()
    choice = re.search(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:\nConfig|$)", text, re.S)
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        known = choice.group(3).split()
        return f"{group}={name}: there is no such choice; {nearest(name, known)}; choices: {', '.join(known)}"
    return " ".join(text.split())


# --- The words of a command line in Hydra's grammar ------------------------------------------------

OVERRIDE = re.compile(r"(\+{0,2})([\w./@-]+)=(.*)", re.DOTALL)
PLAIN = re.compile(r"[\w /+.$%*@?|:-]*", re.ASCII)  # what Hydra takes as text without quotes
QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=[],:}]|$)""", re.DOTALL)
CLOSING = {"[": "]", "{": "}"}


def as_override(word: str, groups: set[str]) -> str:
    """The word as Hydra wants it: `++` before options, quotes around text, so that a value may hold any character.
    Raises ConfigError."""
    match = OVERRIDE.fullmatch(word)
    if not match:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is not an override: write key=value, for example trainer.max_updates=100")
        return word
    plus, key, value = match.groups()
    if not value.strip():
        raise ConfigError(f"{key}=: a value is needed")
    if not plus and key.split("@")[0] not in groups:
        plus = "++"
    return f"{plus}{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    """The value, with quotes around every text that Hydra would not take as it stands, in lists and mappings too. What
    is in quotes, or holds an interpolation, is left as it is."""
    text = value.strip()
    if CLOSING.get(text[:1]) == text[-1:] and (parts := _elements(text[1:-1])) is not None:
        if text[0] == "[":
            return f"[{','.join(_quoted(part.strip()) for part in parts)}]"
        pairs = [part.partition(":") for part in parts]
        if all(colon for _, colon, _ in pairs):
            return f"{{{','.join(f'{key}:{_quoted(item.strip())}' for key, _, item in pairs)}}}"
    if QUOTED.fullmatch(text) or "${" in text or PLAIN.fullmatch(text):
        return value
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.single).with_quotes()


def _elements(text: str) -> list[str] | None:
    """What stands between the commas that are in no quotes and no brackets; None where brackets do not close."""
    parts, open_brackets, start, place = [], [], 0, 0
    while place < len(text):
        at_start = text[start:place].rstrip()[-1:] in ("", "[", "{", ",", ":")
        if at_start and (quoted := QUOTED.match(text, place)):
            place = quoted.end()
            continue
        sign = text[place]
        if sign in CLOSING:
            open_brackets.append(CLOSING[sign])
        elif sign in CLOSING.values():
            if not open_brackets or open_brackets.pop() != sign:
                return None
        elif sign == "," and not open_brackets:
            parts.append(text[start:place])
            start = place + 1
        place += 1
    parts.append(text[start:])
    return None if open_brackets else parts if text.strip() else []
