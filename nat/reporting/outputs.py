"""Files of lines, one for each system of a report or study."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from nat.files import write_text

LONGEST = 200  # bytes; file systems allow 255, of which suffixes and a part's name take some


def file_names(names: Sequence[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """The file of each system, without its suffix: its name without what a file's name cannot hold. Where that is
    `taken` or another's, capital letters or not, a number follows. The same systems have the same files in any order.
    """
    plain = {name: plain_name(name) for name in names}
    used = {file.casefold() for file in taken}
    files = {}
    for name in sorted(names, key=lambda name: (plain[name] != name, name)):  # a name that needs no change stays
        numbered = (f"{plain[name]}-{number}" for number in count(2))
        files[name] = next(file for file in chain([plain[name]], numbered) if file.casefold() not in used)
        used.add(files[name].casefold())
    return files


def plain_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).encode()[:LONGEST].decode(errors="ignore") or "_"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Raises DataError where it cannot be written."""
    write_text(path, "".join(f"{line}\n" for line in lines))
