"""Standard streams that are closed, full or know only ASCII: a command does its work and says what it can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import os, sys
from nat.cli.main import Command, run_command
from nat.errors import DataError

def work(config):
    mode = config["run_dir"]
    if mode == "read":
        list(sys.stdin.buffer)
    if mode == "fail":
        raise DataError("fehlt: ü")
    for number in range(3):
        print(f"Fortschritt ü {number}", file=sys.stderr, flush=True)
    print("x" * 100_000 if mode == "long" else "Übersicht", end="\\n")
    with open("done", "w") as done:
        assert done.fileno() > 2  # it is no standard stream
    return 0

run_command(Command("lm", "", work))
"""


@pytest.mark.parametrize(
    ("mode", "streams", "code", "message", "finished"),
    [
        ("short", "2>&-", 0, None, True),
        ("short", "2>/dev/full", 0, None, True),
        ("fail", "2>&-", 2, None, False),
        ("short", ">&-", 2, "standard output is closed", False),
        ("short", ">/dev/full", 2, "standard output: cannot be written (No space left on device)", True),
        ("long", ">/dev/full", 2, "No space left on device", False),
        ("fail", ">/dev/full", 2, "fehlt: ü", False),
        ("read", "<&-", 2, "standard input is closed", False),
        ("short", "<&-", 0, None, True),
        ("short", "<&- >&- 2>&-", 2, None, False),
        ("short", "| true", 0, None, True),
    ],
)
def test_closed_and_full_streams(
    mode: str, streams: str, code: int, message: str | None, finished: bool, tmp_path: Path
) -> None:
    command = f'"{sys.executable}" -c "$0" run_dir={mode} {streams}'
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", command, COMMAND], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == code
    assert done.stdout == ("Übersicht\n" if finished and streams.startswith(("2>", "<&-")) else "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Fortschritt")]
    assert lines == ([] if message is None else [f"nat-lm: {message}"])
    assert (tmp_path / "done").exists() == finished


def test_what_ascii_cannot_show_is_written_as_numbers(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", COMMAND, "run_dir=short"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\\xdcbersicht\n")
    assert done.stderr.startswith("Fortschritt \\xfc 0\n")
