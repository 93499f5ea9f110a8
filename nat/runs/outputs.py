"""Where commands write: checked before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nat.errors import ConfigError, DataError


def check_outputs(paths: Mapping[str, Path], *, inputs: Iterable[str | None] = ()) -> None:
    """The files (by the option that names them) can be written, differ, and are none of the inputs.
    Raises ConfigError or DataError."""
    taken = {Path(path).resolve(): "an input" for path in inputs if path is not None}
    for name, path in paths.items():
        where = path.resolve()
        if where in taken:
            raise ConfigError(f"{name}={path}: this is {taken[where]}, choose another file")
        taken[where] = f"also the file of {name}"
        if path.exists() and not path.is_file():
            raise DataError(f"{name}={path}: cannot be written (it is no ordinary file)")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise DataError(f"{name}={path}: cannot be written ({folder} is not a folder)")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DataError(f"{name}={path}: cannot be written (no permission for {folder})")
