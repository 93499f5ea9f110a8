"""nat-cache, as a user runs it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from builders import command
from filelock import FileLock

from nat.data.cache import digest

KEY, OTHER, LIVE = (digest(name) for name in ("one", "other", "live"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A table that was not used for ten days, another, an unfinished one, and what is somebody else's."""
    folder = tmp_path / "cache"
    for name, size in ((f"text/{KEY}", 3_000_000), (f"tokens/{OTHER}", 1_000_000), (f"tokens/.{LIVE}.pieces", 500_000)):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(b"x" * size)
    (folder / "text" / "mine").mkdir()
    long_ago = time.time() - 10 * 86_400
    os.utime(folder / "text" / KEY, (long_ago, long_ago))
    return folder


def left(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.glob("*/*") if path.is_dir()}


def test_it_lists_the_largest_first(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"cache={cache}", name="cache") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        f"| text | {KEY} | 3.0 | 10.0 | |",
        f"| tokens | {OTHER} | 1.0 | 0.0 | |",
        f"| tokens | {LIVE} | 0.5 | 0.0 | unfinished |",
        "",
        f"4.5 MB in {cache}",
    ]


@pytest.mark.parametrize(
    ("words", "removed"),
    [
        (["clear=all"], {f"text/{KEY}", f"tokens/{OTHER}", f"tokens/.{LIVE}.pieces"}),
        (["clear=tokens"], {f"tokens/{OTHER}", f"tokens/.{LIVE}.pieces"}),
        (["clear=[text,tokens]", "unused_days=3"], {f"text/{KEY}"}),
        (["clear=hub"], set()),
    ],
)
def test_it_removes_what_is_asked_for(
    cache: Path, words: list[str], removed: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(cache)
    assert command(f"cache={cache}", *words, name="cache") == 0
    assert before - left(cache) == removed
    assert f"MB removed from {cache}" in capsys.readouterr().out


def test_what_is_being_built_stays(cache: Path) -> None:
    with FileLock(cache / "tokens" / f".{LIVE}.lock"):
        assert command(f"cache={cache}", "clear=all", name="cache") == 0
    assert left(cache) == {f"tokens/.{LIVE}.pieces", "text/mine"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clear=[everything]"], "clear[0]=everything: allowed are text"),
        (["unused_days=3"], "unused_days=3: has no effect without clear"),
    ],
)
def test_impossible_options(cache: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"cache={cache}", *words, name="cache") == 2
    assert message in capsys.readouterr().err


def test_an_empty_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"cache={tmp_path}/none", name="cache") == 0
    assert f"0.0 MB in {tmp_path}/none" in capsys.readouterr().out
