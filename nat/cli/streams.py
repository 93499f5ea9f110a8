"""The standard streams: a command never ends because its messages cannot be shown or written."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from nat.errors import DataError


class Messages(io.TextIOWrapper):
    """Standard error. What cannot be written there is dropped."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


class ClosedInput(io.RawIOBase):
    """Standard input where there is none."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise DataError("standard input is closed")


def prepare_streams() -> None:
    """A sign that an output has no code for is written as its number. A closed standard error swallows everything, a
    closed standard input is told when it is read. Raises DataError where standard output is closed."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # keeps the number from the next file that is opened
        sys.stdin = io.TextIOWrapper(io.BufferedReader(ClosedInput()))
    closed = sys.stdout is None
    if closed:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.devnull, "w")))
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        raw = io.FileIO(os.devnull if sys.stderr is None else sys.stderr.fileno(), "w", closefd=sys.stderr is None)
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        sys.stderr = Messages(raw, encoding=encoding, errors="backslashreplace", write_through=True)  # type: ignore[type-var]
    if closed:
        raise DataError("standard output is closed")


def flush_output() -> None:
    """Raises DataError where standard output cannot be written to, a full disk for example."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise DataError(f"standard output: cannot be written ({error.strerror})") from None


def discard_output() -> None:
    """What is still to be written to standard output goes nowhere, so that the end of the process does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
