"""The words of a command line: options, which begin with a dash, and overrides."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nat.config import nearest
from nat.errors import ConfigError

SWITCHES = {
    "--help": "help", "-h": "help", "--resolve": "resolve", "--multirun": "multirun", "-m": "multirun",
    "--shell-completion": "complete", "-sc": "complete",
}  # fmt: skip
VALUES = {"--config-dir": "a folder", "-cd": "a folder", "--trust": "a package"}
KINDS = {  # options that may be followed by one of these words, with what they mean alone
    "--cfg": ("nat", "job", "hydra", "all"),
    "-c": ("nat", "job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


@dataclass
class Arguments:
    """trust: packages whose components may be built. cfg, info: kinds of what is printed instead of work."""

    overrides: list[str] = field(default_factory=list)
    config_directory: Path | None = None
    trust: list[str] = field(default_factory=list)
    help: bool = False
    cfg: str | None = None
    resolve: bool = False
    info: str | None = None
    complete: bool = False
    multirun: bool = False


def read_arguments(words: Sequence[str]) -> Arguments:
    """Raises ConfigError for an option that there is not, or that lacks its value."""
    arguments, rest = Arguments(), deque(words)
    while rest:
        word = rest.popleft()
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            arguments.overrides.append(word)
        elif word in SWITCHES:
            setattr(arguments, SWITCHES[word], True)
        elif name in KINDS and (not equals or value in KINDS[name]):
            kind = value or (rest.popleft() if rest and rest[0] in KINDS[name] else KINDS[name][0])
            setattr(arguments, "info" if name in ("--info", "-i") else "cfg", kind)
        elif name in VALUES:
            value = value if equals or not rest else rest.popleft()
            if not value:
                raise ConfigError(f"{name}: {VALUES[name]} is needed")
            if name == "--trust":
                arguments.trust.append(value)
            else:
                arguments.config_directory = Path(value).expanduser()
        else:
            known = sorted(option for option in (*SWITCHES, *VALUES, *KINDS) if option.startswith("--"))
            raise ConfigError(f"{word}: no such option; {nearest(word, known)}")
    if arguments.resolve and arguments.cfg in (None, "nat"):
        raise ConfigError("--resolve: goes with --cfg job, hydra or all; --cfg alone resolves")
    return arguments


def refuse_tokenizer(overrides: Sequence[str]) -> None:
    """A run is used with the tokenizer that it was trained with. Raises ConfigError."""
    for override in overrides:
        if override.lstrip("+~").startswith("data.tokenizer"):
            raise ConfigError(f"{override}: the tokenizer is the run's own and cannot be changed")
