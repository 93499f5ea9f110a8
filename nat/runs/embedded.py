"""The models that come with nat: run folders in data/models/, named embedded:NAME wherever a run folder is named."""

from __future__ import annotations

from pathlib import Path

from nat.config import nearest
from nat.data.readers import embedded_directory
from nat.errors import ConfigError

PREFIX, FOLDER = "embedded:", "models"


def run_folder(name: str | Path) -> Path:
    """The folder that the name of a run means. Raises ConfigError where no model of that name comes with nat."""
    text = str(name)
    if not text.startswith(PREFIX):
        return Path(name)
    wanted, folder = text.removeprefix(PREFIX), embedded_directory() / FOLDER
    known = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if wanted not in known:
        raise ConfigError(f"{text}: no such model comes with nat, {nearest(wanted, known)}")
    return folder / wanted
