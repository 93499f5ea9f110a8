"""One writer of a folder: the living keep it, the dead lose it, on this machine and on others."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nat.errors import DataError
from nat.runs import lock
from nat.runs.lock import FolderLock, Owner, process_start


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.02, "DEAD": 0.5, "POLL": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)


def locked_by(folder: Path, owner: Owner) -> Path:
    (folder / "lock").write_text(json.dumps(asdict(owner)))
    return folder / "lock"


def living() -> Owner:
    """The process that started this one."""
    return replace(Owner.here(), pid=os.getppid(), started=process_start(os.getppid()))


def elsewhere() -> Owner:
    return replace(Owner.here(), host="node7", machine="another", pid=42)


def test_the_lock_is_there_while_it_is_held(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "new" / "run", "run_dir=run")
    first.release()  # nothing to give back
    first.acquire()
    first.check()
    path = tmp_path / "new" / "run" / "lock"
    touched = path.stat().st_mtime_ns
    time.sleep(0.2)
    assert path.stat().st_mtime_ns > touched
    first.release()
    assert not path.exists()
    FolderLock(tmp_path / "new" / "run", "run_dir=run").acquire()


def test_a_second_one_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    owner = living()
    before = locked_by(tmp_path, owner).read_text()
    with pytest.raises(DataError) as error:
        FolderLock(tmp_path, "run_dir=run").acquire()
    assert str(error.value) == (
        f"run_dir=run: process {owner.pid} on {owner.host} (since {owner.since}) is writing into it; wait for its end, "
        "or choose another folder"
    )
    assert (tmp_path / "lock").read_text() == before


def test_within_one_process_too(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path, "a"), FolderLock(tmp_path, "a")
    first.acquire()
    with pytest.raises(DataError, match=f"process {os.getpid()} on "):
        second.acquire()
    second.release()
    first.check()
    first.release()
    second.acquire()
    second.release()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    owner = replace(Owner.here(), pid=child.pid, started=process_start(child.pid))
    locked_by(tmp_path, owner)
    with pytest.raises(DataError):
        FolderLock(tmp_path, "a").acquire()
    child.kill()
    while process_start(child.pid):  # not collected: it stays as a zombie
        time.sleep(0.01)
    began = time.monotonic()
    mine = FolderLock(tmp_path, "a")
    mine.acquire()
    assert time.monotonic() - began < 0.4
    mine.release()
    child.wait()
    locked_by(tmp_path, replace(living(), started="1"))  # its number has gone to another process
    mine = FolderLock(tmp_path, "a")
    mine.acquire()
    mine.release()


@pytest.mark.parametrize("damaged", [None, "", "[]"])
def test_a_lock_of_another_machine_that_nobody_touches_is_taken_over(
    tmp_path: Path, damaged: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = locked_by(tmp_path, elsewhere())
    if damaged is not None:  # its owner was killed as it made it
        path.write_text(damaged)
    began = time.monotonic()
    mine = FolderLock(tmp_path, "a")
    mine.acquire()
    assert time.monotonic() - began >= 0.5
    assert "waiting" in capsys.readouterr().err
    mine.check()
    mine.release()


def test_a_lock_of_another_machine_that_is_touched_is_respected(tmp_path: Path) -> None:
    path = locked_by(tmp_path, elsewhere())
    timer = threading.Timer(0.1, os.utime, [path])
    timer.start()
    with pytest.raises(DataError, match="process 42 on node7"):
        FolderLock(tmp_path, "a").acquire()
    timer.join()


def test_who_lost_the_lock_writes_no_more_and_touches_nothing(tmp_path: Path) -> None:
    mine = FolderLock(tmp_path, "run_dir=a")
    mine.acquire()
    path = locked_by(tmp_path, elsewhere())
    with pytest.raises(DataError, match="run_dir=a: now belongs to process 42 on node7"):
        mine.check()
    touched = path.stat().st_mtime_ns
    time.sleep(0.1)
    assert path.stat().st_mtime_ns == touched
    mine.release()
    assert path.exists()
    path.unlink()
    with pytest.raises(DataError, match="now belongs to nobody"):
        mine.check()


def test_of_many_who_find_it_dead_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked_by(tmp_path, replace(living(), started="1"))
    locks = [FolderLock(tmp_path, "a") for _ in range(8)]
    failures: list[DataError] = []
    honest, together, have_seen = FolderLock._wait_for_death, threading.Barrier(8), set[FolderLock]()

    def wait_for_death(self: FolderLock) -> None:
        honest(self)
        if self not in have_seen:  # nobody removes it before all have found it dead
            have_seen.add(self)
            together.wait()

    monkeypatch.setattr(FolderLock, "_wait_for_death", wait_for_death)

    def run(mine: FolderLock) -> None:
        try:
            mine.acquire()
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[mine]) for mine in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 7
    for mine in locks:
        mine.release()
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="run_dir=x: cannot be written to"):
        FolderLock(tmp_path / "file" / "run", "run_dir=x").acquire()
