"""One part of a long check: a command in a process of its own, with a limit of time, and its figures in one JSON file.

python -m nat.bench.part FIGURES.json ALL_SECONDS NAME SECONDS COMMAND WORD ...

The word RESULT in the command becomes a path at which it may leave a JSON file, whatever is there when it ends is kept.
After each part FIGURES.json is written anew, so that a check that is cut off keeps what it has; what a part prints goes
into FIGURES.log, the end of it onto standard output too. A part that fails or takes too long stops no other; none
starts once all of them together have taken ALL_SECONDS.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat.errors import DataError
from nat.files import read_json, write_json

RESULT = "RESULT"
GRACE = 5.0  # seconds between a friendly and an unfriendly end
LEAST = 10.0  # seconds left in which a part may still begin
SHOWN = 1800  # signs of a part's output that are shown
KEPT = 4000  # signs of a failed part's errors that are kept with the figures


@dataclass(frozen=True)
class Part:
    """What became of a command. output: its standard output; errors: its standard error."""

    status: str  # "ok", "failed" or "too long"
    seconds: float
    code: int
    output: str
    errors: str
    figures: Any = None

    def record(self) -> dict[str, Any]:
        """Plain data: the figures, or why there are none."""
        record: dict[str, Any] = {"status": self.status, "seconds": round(self.seconds, 1), "code": self.code}
        if self.status != "ok":
            record |= {"output": self.output[-KEPT:], "errors": self.errors[-KEPT:]}
        return record | {"figures": self.figures}


def run_part(command: Sequence[str], *, seconds: float) -> Part:
    """Runs a command, and ends it with all its processes where it takes longer."""
    with tempfile.TemporaryDirectory(prefix="nat-part-") as folder:
        result, output, errors = (Path(folder) / name for name in ("result.json", "output", "errors"))
        words = [word.replace(RESULT, str(result)) for word in command]
        began = time.monotonic()
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                code, status = process.wait(seconds), "ok"
            except subprocess.TimeoutExpired:
                code, status = end(process), "too long"
        took = time.monotonic() - began
        figures = None
        with contextlib.suppress(DataError):  # it left none
            figures = read_json(result)
        shown, told = (path.read_text(encoding="utf-8", errors="replace") for path in (output, errors))
    return Part(status if status != "ok" or code == 0 else "failed", took, code, shown, told, figures)


def end(process: subprocess.Popen[bytes]) -> int:
    """Ends a process and those that it started; its exit code."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    return process.returncode


def add_part(path: Path, name: str, command: Sequence[str], *, seconds: float, all_seconds: float) -> str:
    """Runs a part and adds it to the figures; what to show of it."""
    check: dict[str, Any] = read_json(path) if path.exists() else {"began": time.time(), "parts": {}}
    left = check["began"] + all_seconds - time.time()
    if left < LEAST:
        check["parts"][name] = {"status": "left out", "errors": f"{all_seconds:g} s were used up"}
        write_json(path, check)
        return f"== {name}: left out, {all_seconds:g} s were used up\n"
    part = run_part(command, seconds=min(seconds, left))
    check["parts"][name] = part.record() | {"command": list(command)}
    write_json(path, check)
    with path.with_suffix(".log").open("a", encoding="utf-8") as log:
        log.write(f"== {name}: {' '.join(command)}\n{part.output}{part.errors}\n")
    shown = part.output[-SHOWN:]
    if part.status != "ok":
        shown += part.errors[-SHOWN // 2 :]
    return f"== {name}: {part.status}, {part.seconds:.0f} s\n{shown}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nat.bench.part", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("figures", type=Path, metavar="FIGURES.json")
    parser.add_argument("all_seconds", type=float, help="limit of all parts together")
    parser.add_argument("name")
    parser.add_argument("seconds", type=float, help="limit of this part")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    part = parser.parse_args(arguments)
    shown = add_part(part.figures, part.name, part.command, seconds=part.seconds, all_seconds=part.all_seconds)
    print(shown, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
