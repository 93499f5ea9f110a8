"""How a command ends: an error is told in one line and becomes an exit code."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

from nat.cli.streams import discard_output
from nat.errors import UserError


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
    except (MemoryError, RuntimeError) as error:
        text = str(error) or ("out of memory" if isinstance(error, MemoryError) else "")
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", text):
            raise
        return tell(name, f"smaller sizes are needed: {text.splitlines()[0]}", UserError.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return tell(name, f"{where}{error.strerror or error}", UserError.exit_code)


def tell(name: str, text: str, code: int) -> int:
    """Each line on standard error. Returns the exit code."""
    for line in text.splitlines():
        print(f"nat-{name}: {line}", file=sys.stderr)
    return code
