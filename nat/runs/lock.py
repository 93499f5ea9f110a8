"""One writer of a folder at a time, on shared file systems too.

The lock is a file, made with O_EXCL, that names its owner. The owner touches it every BEAT seconds: one that nobody has
touched for DEAD seconds is a dead owner's and is taken over. On the owner's own machine the process itself is looked
for, so that a killed command goes on at once. flock is not used: some network file systems lack or ignore it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from nat.errors import DataError

LOCK = "lock"
BEAT, DEAD, POLL, SETTLE = 10.0, 60.0, 1.0, 0.1  # seconds


@dataclass(frozen=True)
class Owner:
    """A process. machine: see `machine_id`. started: see `process_start`. key: of this one lock."""

    host: str
    machine: str
    pid: int
    started: str
    since: str
    key: str

    @classmethod
    def here(cls) -> Owner:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), machine_id(), os.getpid(), process_start(os.getpid()), since, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


class FolderLock:
    """The right to write into a folder, from `acquire` to `release`.

    name: what messages call the folder, such as run_dir=runs/ctc.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name, self.owner = folder / LOCK, name, Owner.here()
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> None:
        """Makes the folder if need be. Raises DataError, naming the owner, if another process writes into it, or if it
        cannot be written to."""
        contested = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._make():
                self._wait_for_death()
                self.path.unlink(missing_ok=True)
                contested = True
        except OSError as error:
            raise DataError(f"{self.name}: cannot be written to ({error.strerror})") from None
        if contested:  # another one may have found it dead, too, and removed the new one: the last to make it has it
            time.sleep(SETTLE)
            self.check()
        self._thread.start()

    def check(self) -> None:
        """Raises DataError if the lock was taken over, as from a process that had been stopped for long."""
        owner, _ = self._read()
        if owner != self.owner:
            raise DataError(f"{self.name}: now belongs to {owner or 'nobody'}; this command writes nothing more there")

    def release(self) -> None:
        """Nothing where the lock is not held."""
        if self._thread.ident is None:
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._read()[0] == self.owner:
                self.path.unlink()

    def _make(self) -> bool:
        try:
            with open(self.path, "x", encoding="utf-8") as file:
                json.dump(asdict(self.owner), file)
            return True
        except FileExistsError:
            return False

    def _read(self) -> tuple[Owner | None, int]:
        """The owner that the lock names, None where it names none, and when it was touched (ns). Opened, since that
        is when network file systems look anew."""
        try:
            with open(self.path, "rb") as file:
                touched = os.fstat(file.fileno()).st_mtime_ns
                return Owner(**json.loads(file.read())), touched
        except FileNotFoundError:
            return None, 0
        except (ValueError, TypeError):  # its owner was killed as it made it
            return None, touched

    def _wait_for_death(self) -> None:
        """Returns once the lock is nobody's any more. Raises DataError once its owner shows that it lives."""
        deadline, (owner, first) = time.monotonic() + DEAD, self._read()
        if owner is None or owner.machine != self.owner.machine:
            told = f"waiting {DEAD:.0f} s for a sign of life of {owner or 'its owner'}"
            print(f"{self.name}: locked; {told}", file=sys.stderr, flush=True)
        while True:
            owner, touched = self._read()
            if not touched:  # given back
                return
            if owner is not None and owner.machine and owner.machine == self.owner.machine:
                if process_start(owner.pid) != owner.started:
                    return
                break
            if touched != first:
                break
            if time.monotonic() >= deadline:
                return
            time.sleep(POLL)
        raise DataError(
            f"{self.name}: {owner or 'another process'} is writing into it; wait for its end, or choose another folder"
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with contextlib.suppress(OSError):  # a server that is away for a moment
                if self._read()[0] != self.owner:
                    return
                os.utime(self.path)


def machine_id() -> str:
    """What tells whether two processes see each other's numbers; "" where the system cannot tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_start(number: int) -> str:
    """When a process of this machine began, in the system's own units: another process may have its number later. ""
    if there is none that runs."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # see proc(5): ended, but not yet collected
