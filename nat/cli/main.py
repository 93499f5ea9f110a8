"""What the commands share: read the words, compose the configuration, call."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nat.cli.arguments import read_arguments, refuse_tokenizer
from nat.cli.exits import guarded
from nat.cli.help import help_text
from nat.cli.streams import flush_output, prepare_streams
from nat.composition import complete, compose, print_config, print_info, sweep
from nat.config import to_yaml, trust
from nat.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """A command of the name nat-NAME with `configs/NAME.yaml`.

    work: what it does with its configuration; gives the exit code. job: one run of a sweep; gives what a sweeper
    judges. reads_runs: it uses runs as they are, each with its own tokenizer.
    """

    name: str
    help: str
    work: Callable[[dict[str, Any]], int]
    job: Callable[[dict[str, Any]], Any] | None = None
    reads_runs: bool = True


def run_command(command: Command, arguments: Sequence[str] | None = None) -> None:
    """Run a command with the words of the command line, or these; exits.

    Exit codes: 0 done, 2 something the user can mend (one line on standard error), 128 + n stopped by signal n.
    """
    words = sys.argv[1:] if arguments is None else arguments
    warnings.filterwarnings("ignore", module="torch|datasets|hydra")
    logging.getLogger("hydra").setLevel(logging.ERROR)
    code = guarded(command.name, prepare_streams) or guarded(command.name, lambda: answer(command, words))
    sys.exit(guarded(command.name, flush_output) or code)


def answer(command: Command, words: Sequence[str]) -> int:
    """Do what the words say. Returns the exit code."""
    arguments = read_arguments(words)
    name, overrides, folder = command.name, arguments.overrides, arguments.config_directory
    if arguments.help:
        print(help_text(name, command.help))
        return 0
    for package in arguments.trust:
        trust(package)
    if command.reads_runs:
        refuse_tokenizer(overrides)
    if arguments.complete:
        complete(name, overrides)
    elif arguments.info is not None:
        print_info(name, overrides, folder, kind=arguments.info)
    elif arguments.cfg == "nat":
        print(to_yaml(compose(name, overrides, extra_directory=folder)), end="")
    elif arguments.cfg is not None:
        print_config(name, overrides, folder, kind=arguments.cfg, resolve=arguments.resolve)
    elif arguments.multirun:
        if command.job is None:
            raise ConfigError("--multirun: is for nat-train, whose runs have folders of their own")
        sweep(name, overrides, command.job, folder)
    else:
        return command.work(compose(name, overrides, extra_directory=folder))
    return 0
