"""What lies in the cache folder, and how to be rid of it: `nat-cache`."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from nat.config import option
from nat.data.cache import cache_directory, unwritable
from nat.errors import ConfigError
from nat.table import markdown_table

DAY = 86_400.0  # seconds
NAME = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.(part|pieces)")  # see `digest`


class Kind(Enum):
    """Folders of the cache."""

    TEXT = "text"  # sentence pairs, as they were read
    TOKENS = "tokens"  # their token ids
    TOKENIZERS = "tokenizers"
    LEARNABLE = "learnable"  # which pairs a model can learn from
    ENGINES = "engines"  # teachers of transformers, converted for CTranslate2
    WEB = "web"  # ONNX Runtime Web, for exports that are pages
    HUB = "hub"  # data sets of the Hugging Face hub
    ALL = "all"


@dataclass(frozen=True)
class CacheConfig:
    """Everything that `configs/cache.yaml` holds."""

    cache: str | None = option(None, "cache folder; null: $NAT_CACHE or ~/.cache/nat")
    clear: list[Kind] = option(
        [], "what is removed: text, tokens, tokenizers, learnable, engines, web, hub, or all; []: nothing"
    )
    unused_days: float = option(0.0, "with clear: only what was not used for so many days", minimum=0)

    def __post_init__(self) -> None:
        if self.unused_days and not self.clear:
            raise ConfigError(f"unused_days={self.unused_days:g}: has no effect without clear")


@dataclass(frozen=True)
class Entry:
    """A folder of the cache. size: bytes. used: when it was made or last used, in seconds since 1970."""

    path: Path
    size: int
    used: float

    @property
    def kind(self) -> str:
        return self.path.parent.name

    @property
    def is_unfinished(self) -> bool:
        return self.path.name.startswith(".")

    @property
    def lock(self) -> Path:
        """Of who builds it."""
        return self.path.with_name(f".{self.path.stem.lstrip('.')}.lock")


def list_or_clear(config: CacheConfig) -> str:
    """Remove what is to be removed; a table of what was, or of all that is there. What is being built stays, and a
    command that reads what is removed goes on. Raises DataError where the folder cannot be written."""
    cache = cache_directory(config.cache)
    found = entries(cache)
    if config.clear:
        kinds = {kind.value for kind in config.clear}
        before = time.time() - config.unused_days * DAY
        wanted = [item for item in found if ("all" in kinds or item.kind in kinds) and item.used <= before]
        try:
            found = [item for item in wanted if remove(item)]
        except OSError as error:
            raise unwritable(cache, error) from None
    total = sum(item.size for item in found)
    does = "removed from" if config.clear else "in"
    return f"{describe(found)}\n\n{total / 1e6:,.1f} MB {does} {cache}\n"


def entries(cache: Path) -> list[Entry]:
    """All folders of the cache, the largest first, finished or not. A folder of another name is somebody else's."""
    paths = (path for kind in Kind for path in (cache / kind.value).glob("*"))
    folders = (path for path in paths if NAME.fullmatch(path.name) and path.is_dir())
    found = [Entry(path, size(path), path.stat().st_mtime) for path in folders]
    return sorted(found, key=lambda entry: (-entry.size, entry.path))


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(entry: Entry) -> bool:
    """Whether it was removed: a folder that is being built is not."""
    with suppress(Timeout):
        with FileLock(entry.lock, timeout=0):
            shutil.rmtree(entry.path)
        return True
    return False


def describe(found: Sequence[Entry]) -> str:
    rows = [
        [
            entry.kind,
            entry.path.name.lstrip(".").partition(".")[0],
            f"{entry.size / 1e6:,.1f}",
            f"{max(0.0, time.time() - entry.used) / DAY:.1f}",
            "unfinished" if entry.is_unfinished else "",
        ]
        for entry in found
    ]
    return markdown_table(["", "key", "MB", "days unused", ""], rows, text=(0, 1, 4))
