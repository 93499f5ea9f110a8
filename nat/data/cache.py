"""The cache folder: keys made of content, one writer at a time, nothing half-written taken as good."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from nat.errors import DataError


def cache_directory(configured: str | None) -> Path:
    """The folder named by `data.cache`, else by the variable NAT_CACHE, else ~/.cache/nat."""
    return Path(configured or os.environ.get("NAT_CACHE") or "~/.cache/nat").expanduser()


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits; parts are hashed with their lengths, so that ("ab", "c") differs from ("a", "bc")."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


@contextmanager
def writing(cache: Path, name: str) -> Iterator[Path]:
    """Holds the lock of `cache/name` and yields that path, its parent made.

    Ranks that prepare the same thing at once wait here for the first and then find it ready.
    Raises DataError if the cache cannot be written.
    """
    target = cache / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            yield target
    except OSError as error:
        raise unwritable(cache, error) from None


def unwritable(cache: Path, error: OSError) -> DataError:
    """What to tell the user when the cache folder refuses."""
    reason = error.strerror or str(error)
    return DataError(f"the cache folder {cache} cannot be written ({reason}): choose another with data.cache")
