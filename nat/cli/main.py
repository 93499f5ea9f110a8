"""What the commands share: compose the configuration, call, turn errors into one line and an exit code."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nat.cli.arguments import help_text, read_arguments, refuse_tokenizer
from nat.cli.streams import discard_output, flush_output, prepare_streams
from nat.composition import compose
from nat.config import to_yaml, trust
from nat.errors import UserError

Work = Callable[[dict[str, Any]], int]


def run_command(
    name: str, help: str, work: Work, arguments: Sequence[str] | None = None, *, reads_runs: bool = True
) -> None:
    """Run a command with `configs/NAME.yaml` and the overrides of the command line; exits.

    reads_runs: it uses runs as they are, each with its own tokenizer. Exit codes: 0 done, 2 something the user can mend
    (one line on standard error), 128 + n stopped by signal n.
    """
    words = sys.argv[1:] if arguments is None else arguments
    warnings.filterwarnings("ignore", module="torch|datasets|hydra")
    logging.getLogger("hydra").setLevel(logging.ERROR)
    code = guarded(name, prepare_streams) or guarded(
        name, lambda: answer(name, help, work, words, reads_runs=reads_runs)
    )
    sys.exit(guarded(name, flush_output) or code)


def guarded(name: str, action: Callable[[], int | None]) -> int:
    """The action's exit code, or that of the error that it ends in, which is told."""
    try:
        return action() or 0
    except UserError as error:
        return tell(name, str(error), UserError.exit_code)
    except KeyboardInterrupt:
        return tell(name, "stopped", 128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output has gone
        discard_output()
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return tell(name, f"{where}{error.strerror or error}", UserError.exit_code)


def answer(name: str, help: str, work: Work, words: Sequence[str], *, reads_runs: bool) -> int:
    """Do what the words say. Returns the exit code."""
    arguments = read_arguments(words)
    if arguments.help:
        print(help_text(name, help))
        return 0
    for package in arguments.trust:
        trust(package)
    if reads_runs:
        refuse_tokenizer(arguments.overrides)
    config = compose(name, arguments.overrides, extra_directory=arguments.config_directory)
    if arguments.show:
        print(to_yaml(config), end="")
        return 0
    return work(config)


def tell(name: str, text: str, code: int) -> int:
    """Each line on standard error. Returns the exit code."""
    for line in text.splitlines():
        print(f"nat-{name}: {line}", file=sys.stderr)
    return code
