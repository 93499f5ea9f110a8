"""What the commands share: compose the configuration, call, turn errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nat.composition import compose, config_directory
from nat.config import to_yaml
from nat.errors import ConfigError, UserError


def run_command(
    name: str, help: str, work: Callable[[dict[str, Any]], int], arguments: list[str] | None = None
) -> None:
    """Run a command with `configs/NAME.yaml` and the overrides of the command line; exits.

    Exit codes: 0 done, 2 something the user can mend (one line on standard error), 128 + n stopped by signal n.
    """
    words = sys.argv[1:] if arguments is None else arguments
    warnings.filterwarnings("ignore", module="torch|datasets|hydra")
    logging.getLogger("hydra").setLevel(logging.ERROR)
    try:
        if "--help" in words or "-h" in words:
            print(help + choices(name))
            code = 0
        else:
            extra, show, overrides = split_arguments(words)
            config = compose(name, overrides, extra_directory=extra)
            code = print_config(config) if show else work(config)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"nat-{name}: {line}", file=sys.stderr)
        code = UserError.exit_code
    except KeyboardInterrupt:
        print(f"nat-{name}: stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def split_arguments(words: list[str]) -> tuple[Path | None, bool, list[str]]:
    """--config-dir FOLDER, --cfg, and the overrides."""
    extra, show, overrides = None, False, []
    rest = iter(words)
    for word in rest:
        if word == "--cfg":
            show = True
        elif word == "--config-dir" or word.startswith("--config-dir="):
            value = word.partition("=")[2] or next(rest, None)
            if value is None:
                raise ConfigError("--config-dir: a folder is needed")
            extra = Path(value)
        elif word.startswith("-"):
            raise ConfigError(f"{word}: no such option; options are --help, --cfg and --config-dir FOLDER")
        else:
            overrides.append(word)
    return extra, show, overrides


def choices(name: str) -> str:
    """The groups' choices and the command's YAML, which explains every option."""
    directory = config_directory()
    text = (directory / f"{name}.yaml").read_text(encoding="utf-8")
    lines = ["\nchoices:"] if "defaults:" in text else []
    for group in sorted(p for p in directory.iterdir() if p.is_dir()):
        names = sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
        if name == "train" or f"- {group.name}:" in text:
            lines.append(f"  {group.name}=" + "|".join(names))
    lines += [f"\noptions ({directory / name}.yaml):", text]
    return "\n".join(lines)


def print_config(config: dict[str, Any]) -> int:
    print(to_yaml(config), end="")
    return 0
