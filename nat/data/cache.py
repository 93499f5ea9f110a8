"""The cache folder: keys made of content, one writer at a time, nothing half-written taken as good.

A name in it is KIND/KEY, a folder. Beside it, while it is built, lie .KEY.part or .KEY.pieces and .KEY.lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from nat.errors import DataError

T = TypeVar("T")
KEPT = 86_400.0  # seconds that the pieces of a killed build are kept


def cache_directory(configured: str | None) -> Path:
    """The folder named by `data.cache`, else by the variable NAT_CACHE, else ~/.cache/nat. Raises DataError where
    there is no home folder for it."""
    folder = os.path.expanduser(configured or os.environ.get("NAT_CACHE") or "~/.cache/nat")
    if folder.startswith("~"):
        raise DataError(f"the cache folder {folder}: this user has no home; name another with data.cache or NAT_CACHE")
    return Path(folder)


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits; parts are hashed with their lengths, so that ("ab", "c") differs from ("a", "bc")."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def cached(
    cache: Path, name: str, build: Callable[[Path], Any], load: Callable[[Path], T], *, resumable: bool = False
) -> T:
    """What `load` reads of the folder cache/name. Where that is missing, damaged or of another nat (`load` raises
    DataError), `build` fills a folder first, which then takes its place.

    resumable: `build` goes on from what it finds in its folder: what a killed one left stays for a day. Else its
    folder is empty, and what killed ones have left is cleared. Ranks that prepare the same thing at once wait here for
    the first and then find it ready. Raises DataError if the cache cannot be written.
    """
    target = cache / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_dead_builds(cache)
        with FileLock(_beside(target, "lock")):
            if target.is_dir():
                with suppress(DataError):
                    found = load(target)
                    os.utime(target)  # the time of its last use
                    return found
            _build(target, build, "pieces" if resumable else "part")
            return load(target)
    except OSError as error:
        raise unwritable(cache, error) from None


def _build(target: Path, build: Callable[[Path], Any], suffix: str) -> None:
    part = _beside(target, suffix)
    try:
        part.mkdir(exist_ok=suffix == "pieces")
        build(part)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    except BaseException as error:
        if suffix == "part" or isinstance(error, Exception):  # what was interrupted can go on
            shutil.rmtree(part, ignore_errors=True)
        raise


def _clear_dead_builds(cache: Path) -> None:
    """A live build holds its lock; a killed one has lost it."""
    for part in (*cache.glob("*/.*.part"), *cache.glob("*/.*.pieces")):
        with suppress(Timeout, FileNotFoundError), FileLock(part.with_suffix(".lock"), timeout=0):
            if part.suffix == ".part" or time.time() - part.stat().st_mtime > KEPT:
                shutil.rmtree(part, ignore_errors=True)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def unwritable(cache: Path, error: OSError) -> DataError:
    """What to tell the user when the cache folder refuses."""
    reason = error.strerror or str(error)
    return DataError(f"the cache folder {cache} cannot be written ({reason}): choose another with data.cache")
