"""Files that are whole or not there: every write of nat goes through here."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nat.errors import DataError

LARGEST = 1e300
KINDS = {float: "a number", str: "text", list: "a list", dict: "an object"}


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` fills a file or folder beside `path`, which then takes its place, with the rights of any new file.

    Raises DataError, leaving what was there, if the disk is full or the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)  # of a run that was killed here
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)  # what the umask leaves
        part.unlink()
        write(part)
        _settle(part, mode)
        _take_place(part, path)
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
    write_text(path, to_json(value, indent=1) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Plain data as JSON. A number that is not finite, which JSON does not know, is null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_json(path: Path) -> Any:
    """Raises DataError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged or unreadable ({error})") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError if the file is missing or damaged."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged or unreadable (it is not a JSON object)")
    return value


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, type], place: Path | str) -> None:
    """Those of `kinds` that are there are of their kind; float: any number that a float can hold. Raises DataError
    naming the place, the value and what it should be."""
    for name, kind in kinds.items():
        value: Any = values.get(name)
        is_number = type(value) in (int, float) and -LARGEST <= value <= LARGEST  # not NaN, and true is no number
        if name in values and not (is_number if kind is float else isinstance(value, kind)):
            raise DataError(f"{place}: damaged or unreadable ({name} is not {KINDS[kind]}: {value!r:.40})")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _take_place(part: Path, path: Path) -> None:
    """A folder that is full cannot be replaced at once: it steps aside first."""
    if not (part.is_dir() and path.is_dir()):
        os.replace(part, path)
        return
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    os.replace(path, old)
    os.replace(part, path)
    _remove(old)


def _settle(path: Path, mode: int) -> None:
    """All files under a path readable to whom they should be (safetensors gives 0600), and on the disk, so that the
    rename cannot be seen before the content."""
    for file in (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        file.chmod(mode)
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
