"""Files that are whole or not there: every write of nat goes through here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nat.errors import DataError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` fills a file or folder beside `path`, which then takes its place.

    Raises DataError, leaving what was there, if the disk is full or the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)  # of a run that was killed here
        write(part)
        _sync(part)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            _remove(part)
        if not isinstance(error, OSError):
            raise
        reason = (error.strerror or str(error)).splitlines()[0]
        raise DataError(f"{path}: cannot be written ({reason}); what was saved before is kept") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: a reader, or a crash, sees the old text or the new one."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises DataError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or unreadable ({error})") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """To the disk, so that the rename cannot be seen before the content."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
