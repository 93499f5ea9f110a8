"""The words of a command line: options, which begin with a dash, and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nat.composition import config_directory
from nat.errors import ConfigError

COMMON_HELP = """  --config-dir FOLDER  more YAML files, laid out as those of nat (model/, data/, experiment/ ...)
  --trust PACKAGE      components of this Python package may be built too; without it, those of nat alone
  --cfg                print the resolved configuration and stop
"""
SWITCHES = {"--help": "help", "-h": "help", "--cfg": "show"}


@dataclass
class Arguments:
    """trust: packages whose components may be built."""

    overrides: list[str] = field(default_factory=list)
    config_directory: Path | None = None
    trust: list[str] = field(default_factory=list)
    help: bool = False
    show: bool = False


def read_arguments(words: Sequence[str]) -> Arguments:
    """Raises ConfigError for an option that there is not, or that lacks its value."""
    arguments, rest = Arguments(), iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            arguments.overrides.append(word)
        elif word in SWITCHES:
            setattr(arguments, SWITCHES[word], True)
        elif name in ("--config-dir", "--trust"):
            value = value if equals else next(rest, "")
            if not value:
                raise ConfigError(f"{name}: a {'folder' if name == '--config-dir' else 'package'} is needed")
            if name == "--trust":
                arguments.trust.append(value)
            else:
                arguments.config_directory = Path(value).expanduser()
        else:
            raise ConfigError(
                f"{word}: no such option; options are --help, --cfg, --config-dir FOLDER and --trust PACKAGE"
            )
    return arguments


def refuse_tokenizer(overrides: Sequence[str]) -> None:
    """A run is used with the tokenizer that it was trained with. Raises ConfigError."""
    for override in overrides:
        if override.lstrip("+~").startswith("data.tokenizer"):
            raise ConfigError(f"{override}: the tokenizer is the run's own and cannot be changed")


def help_text(name: str, help: str) -> str:
    """What the command says of itself, the groups' choices and its YAML, which explains every option."""
    directory = config_directory()
    text = (directory / f"{name}.yaml").read_text(encoding="utf-8")
    lines = ["\nchoices:"] if "defaults:" in text else []
    for group in sorted(p for p in directory.iterdir() if p.is_dir()):
        names = sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
        if name == "train" or f"- {group.name}:" in text:
            lines.append(f"  {group.name}=" + "|".join(names))
    lines += [f"\noptions ({directory / name}.yaml):", text]
    return help + COMMON_HELP + "\n".join(lines)
