"""Where ranks wait for one another for as long as it takes, and share out work: the store that torchrun runs.

A collective (`all_reduce`, `barrier`) gives up after the group's timeout, and the whole job with it; a corpus may take
longer to prepare, or a validation to decode.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from nat.errors import ConfigError

T = TypeVar("T")
SHORTEST_LOOK, LONGEST_LOOK = 0.005, 1.0  # seconds between two looks at the store
PATIENCE = 30.0  # seconds until a rank says what it waits for
FAREWELL = 60.0  # seconds that a rank which failed waits for the others to hear of it
GONE = "the main rank is not there any more"
DONE, FAILED = "done", "failed"


def fresh(store: dist.Store, *, rank: int, num_ranks: int, timeout: timedelta) -> dist.Store:
    """A part of the store in which all ranks meet now and that none has written to: torchrun starts ranks again with
    the same store, full of what those before them wrote, and counts its attempts on each node differently.

    Each rank leaves a name that nobody had; the main rank answers to that name with its own, until it is heard. Raises
    RuntimeError where a rank does not come in time.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    store.set(f"name of rank {rank}", own)
    if rank:
        store.wait([own], timeout)
        main = store.get(own).decode()
        store.set(f"{main} {rank}", "")
        return dist.PrefixStore(main, store)
    for other in range(1, num_ranks):
        while not store.check([f"{own} {other}"]):
            if store.check([f"name of rank {other}"]):  # perhaps that of an earlier attempt
                store.set(store.get(f"name of rank {other}").decode(), own)
            if time.monotonic() > end:
                raise RuntimeError(f"rank {other} did not come")
            time.sleep(SHORTEST_LOOK)
    return dist.PrefixStore(own, store)


class Meeting:
    """One rank's view of the store. All ranks call the same methods in the same order."""

    def __init__(self, store: dist.Store, *, rank: int, num_ranks: int, local_rank: int) -> None:
        self.store, self.rank, self.num_ranks = store, rank, num_ranks
        self.node = os.environ.get("GROUP_RANK", "")  # as torchrun counts them
        self.leads = rank == 0 or local_rank == 0
        self.number = self.num_meetings = self.done = 0
        self.shown = -math.inf  # when it last showed life

    def show_life(self, *, now: bool = False) -> None:
        """Count one more collective, and say so to the others: now, or once a second."""
        self.num_meetings += 1
        if now or time.monotonic() > self.shown + LONGEST_LOOK:
            self.store.set(f"life {self.rank}", str(self.num_meetings))
            self.shown = time.monotonic()

    def behind(self) -> str:
        """Which rank was not heard of for longest, in words."""
        try:
            self.show_life(now=True)
            time.sleep(LONGEST_LOOK)  # the others say so too
            counts = [int(self.store.get(key)) if self.store.check([key]) else 0 for key in self._lives()]
        except RuntimeError:
            return GONE
        time.sleep(3 * LONGEST_LOOK if self.rank == 0 else 0.0)  # the others look, too
        return f"rank {counts.index(min(counts))} was not heard of any more"

    def _lives(self) -> list[str]:
        return [f"life {rank}" for rank in range(self.num_ranks)]

    def wait(self) -> None:
        """Until all ranks are here. The main rank, whose process may hold the store, is the last to leave."""
        key = self._next("wait")
        self.store.add(key, 1)
        self._until(lambda: self._count(key) == self.num_ranks, "the others")
        self.store.add(f"{key}/left", 1)
        if self.rank == 0:
            self._until(lambda: self._count(f"{key}/left") == self.num_ranks, "the others")

    def in_turn(self, work: Callable[[], T]) -> T:
        """The main rank works first, then the first rank of every other node, whose caches may be its own, then all
        others. Raises ConfigError where the rank that this one waited for failed."""
        key = self._next("turn")
        if self.rank:
            self._wait_for(f"{key}/main" if self.leads else f"{key}/node {self.node}")
        try:
            result = work()
        except BaseException:
            self._tell(key, FAILED)
            self._take_leave(key)
            raise
        self._tell(key, DONE)
        return result

    def claims(self, total: int) -> Iterator[int]:
        """Numbers below `total`, each claimed by one rank alone, whenever one is ready for the next."""
        key = self._next("claim")
        while (number := self.store.add(key, 1) - 1) < total:
            yield number

    def done_by_others(self, units: int) -> int:
        """As `Ranks.done_by_others`."""
        self.done += units
        return self.store.add("done", units) - self.done

    def _next(self, name: str) -> str:
        self.number += 1
        return f"{name} {self.number}"

    def _count(self, key: str) -> int:
        return self.store.add(key, 0)

    def _tell(self, key: str, outcome: str) -> None:
        """What became of this rank's turn, to those that wait for it."""
        if self.leads:
            self.store.set(f"{key}/node {self.node}", outcome)
        if self.rank == 0:
            self.store.set(f"{key}/main", outcome)

    def _wait_for(self, key: str) -> None:
        self._until(lambda: self.store.check([key]), "the first rank, which prepares what all need")
        if self.store.get(key).decode() == FAILED:
            turn = key.rpartition("/")[0]
            self._tell(turn, FAILED)
            self.store.add(f"{turn}/heard", 1)
            raise ConfigError("the main rank failed; see its message")

    def _take_leave(self, key: str) -> None:
        """Where this process holds the store, the others must hear of a failure before it ends."""
        end = time.monotonic() + FAREWELL
        if self.rank == 0:
            self._until(
                lambda: self._count(f"{key}/heard") == self.num_ranks - 1 or time.monotonic() > end, "the others"
            )

    def _until(self, is_met: Callable[[], bool], whom: str) -> None:
        began, pause, told = time.monotonic(), SHORTEST_LOOK, False
        while not self._is_met(is_met):
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_LOOK)
            if not told and self.rank <= 1 and time.monotonic() > began + PATIENCE:
                print(f"rank {self.rank} of {self.num_ranks} waits for {whom}", file=sys.stderr, flush=True)
                told = True

    def _is_met(self, condition: Callable[[], bool]) -> bool:
        """Raises ConfigError where the process that holds the store has ended."""
        try:
            return condition()
        except RuntimeError:
            raise ConfigError(f"rank {self.rank} of {self.num_ranks}: {GONE}") from None
