"""Ranks that wait for one another on a store, and not in collectives that give up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import workers

from nat.errors import ConfigError
from nat.training import distributed, meeting
from nat.training.distributed import Ranks
from nat.training.meeting import Meeting


def together(places: list[tuple[int, str]], work: Callable[[Meeting], Any]) -> list[Any]:
    """What `work` gives to each rank, or the error that it raises: all at once, as threads. places: of each rank, its
    number on its node, and the node."""
    store = dist.HashStore()
    answers: list[Any] = [None] * len(places)

    def run(rank: int) -> None:
        local_rank, node = places[rank]
        mine = Meeting(store, rank=rank, num_ranks=len(places), local_rank=local_rank)
        mine.node = node
        try:
            answers[rank] = work(mine)
        except Exception as error:
            answers[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    return answers


ONE_NODE = [(0, "0"), (1, "0"), (2, "0")]
TWO_NODES = [(0, "0"), (1, "0"), (0, "1"), (1, "1")]


def test_ranks_that_are_started_again_find_nothing_of_those_before_them() -> None:
    """Of whom some came, and some had a rank's name but never met; the rank that comes last is another each time."""
    store = dist.HashStore()
    for attempt in range(4):
        found: list[dist.Store | None] = [None] * 3

        def come(rank: int, attempt: int, found: list[dist.Store | None]) -> None:
            time.sleep(0.05 * ((rank + attempt) % 3))
            mine = meeting.fresh(store, rank=rank, num_ranks=3, timeout=timedelta(seconds=20))
            assert not mine.check(["here"])
            found[rank] = mine

        threads = [threading.Thread(target=come, args=(rank, attempt, found)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        first, *others = (mine for mine in found if mine is not None)
        assert len(others) == 2
        first.set("here", str(attempt))
        assert [mine.get("here") for mine in others] == [str(attempt).encode()] * 2
        store.set("name of rank 1", f"of attempt {attempt}, which ended at once")


def test_a_rank_that_does_not_come_is_told() -> None:
    with pytest.raises(RuntimeError, match="rank 1 did not come"):
        meeting.fresh(dist.HashStore(), rank=0, num_ranks=2, timeout=timedelta(seconds=0.05))


def test_nobody_goes_on_before_all_are_there() -> None:
    arrived: list[int] = []

    def work(mine: Meeting) -> int:
        time.sleep(0.05 * mine.rank)
        arrived.append(mine.rank)
        mine.wait()
        return len(arrived)

    assert together(ONE_NODE, work) == [3, 3, 3]


def test_the_main_rank_leaves_last() -> None:
    left: list[int] = []

    def work(mine: Meeting) -> None:
        mine.wait()
        left.append(mine.rank)

    for _ in range(5):
        left.clear()
        together(ONE_NODE, work)
        assert left[-1] == 0


def test_turns_by_nodes() -> None:
    spans: dict[int, tuple[float, float]] = {}

    def work(mine: Meeting) -> int:
        def prepare() -> int:
            began = time.monotonic()
            time.sleep(0.05)
            spans[mine.rank] = began, time.monotonic()
            return 10 * mine.rank

        return mine.in_turn(prepare)

    assert together(TWO_NODES, work) == [0, 10, 20, 30]
    for earlier, later in ((0, 1), (0, 2), (2, 3)):
        assert spans[earlier][1] <= spans[later][0]


@pytest.mark.parametrize("places", [ONE_NODE, TWO_NODES])
def test_all_fail_where_the_main_rank_fails(places: list[tuple[int, str]]) -> None:
    def work(mine: Meeting) -> None:
        def prepare() -> None:
            raise ValueError("no such file")

        mine.in_turn(prepare)

    main, *others = together(places, work)
    assert isinstance(main, ValueError)
    assert {str(error) for error in others} == {"the main rank failed; see its message"}


def test_each_number_is_claimed_once_and_all_are_counted() -> None:
    def work(mine: Meeting) -> tuple[list[int], int]:
        numbers = []
        for number in mine.claims(20):
            numbers.append(number)
            time.sleep(0.001)
        mine.done_by_others(len(numbers))
        mine.wait()
        return numbers, len(numbers) + mine.done_by_others(0)

    answers = together(ONE_NODE, work)
    assert sorted(number for numbers, _ in answers for number in numbers) == list(range(20))
    assert [count for _, count in answers] == [20, 20, 20]


def test_who_waits_long_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(meeting, "PATIENCE", 0.1)

    def work(mine: Meeting) -> None:
        mine.in_turn(lambda: time.sleep(0.5 if mine.rank == 0 else 0.0))

    together(ONE_NODE, work)
    assert capsys.readouterr().err == "rank 1 of 3 waits for the first rank, which prepares what all need\n"


def test_a_store_that_is_gone_is_one_sentence() -> None:
    class Gone(dist.HashStore):
        def add(self, key: str, number: int) -> int:
            raise dist.DistNetworkError("Connection reset by peer")

    mine = Meeting(dist.HashStore(), rank=1, num_ranks=2, local_rank=1)
    gone = Gone()
    with pytest.raises(ConfigError, match="rank 1 of 2: the main rank is not there any more"):
        mine._until(lambda: gone.add("x", 0) == 2, "the others")


# --- processes ----------------------------------------------------------------------------------------


def prepare_for_long(rank: int, port: str, folder: str) -> None:
    """The main rank prepares for longer than the group's timeout; then all meet."""
    with workers.logged(f"{folder}/{rank}.log"):
        os.environ.update(workers.rank_environment(rank, 2, port))
        ranks = Ranks.from_environment(torch.device("cpu"), timeout=1 / 60)
        ranks.main_first(lambda: time.sleep(2.5 if rank == 0 else 0.0))
        time.sleep(2.5 if rank == 1 else 0.0)  # as if it validated
        ranks.barrier()
        assert ranks.any(rank == 1)
        ranks.agree(7, "runs/ctc")
        with pytest.raises(ConfigError, match="runs/ctc: ranks see different files there; all nodes need one and the"):
            ranks.agree(7 + rank, "runs/ctc")
        ranks.barrier()
        ranks.close()


def fall_behind(rank: int, port: str, folder: str) -> None:
    with workers.logged(f"{folder}/{rank}.log"):
        os.environ.update(workers.rank_environment(rank, 3, port))
        ranks = Ranks.from_environment(torch.device("cpu"), timeout=1 / 60)
        assert not ranks.any(False)
        if rank == 1:
            time.sleep(8.0)
            return
        with pytest.raises(ConfigError) as error:
            ranks.any(False)
        (Path(folder) / f"{rank}.txt").write_text(str(error.value))


def test_preparing_for_longer_than_the_timeout_kills_nobody(tmp_path: Path) -> None:
    port = workers.free_port()
    processes = [workers.start(prepare_for_long, rank, port, str(tmp_path)) for rank in range(2)]
    for rank, process in enumerate(processes):
        assert workers.finish(process) == 0, (tmp_path / f"{rank}.log").read_text()


def test_the_rank_that_is_behind_is_named(tmp_path: Path) -> None:
    port = workers.free_port()
    processes = [workers.start(fall_behind, rank, port, str(tmp_path)) for rank in range(3)]
    for rank in (0, 2):
        assert workers.finish(processes[rank]) == 0, (tmp_path / f"{rank}.log").read_text()
    processes[1].kill()
    text = (tmp_path / "0.txt").read_text()
    assert text.startswith("the ranks did not meet: rank 1 was not heard of any more (")
    assert "\n" not in text


def test_the_timeout_is_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    for name, value in workers.rank_environment(0, 2, workers.free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(distributed, "fresh", lambda store, **_: store)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: seen.update(options))
    Ranks.from_environment(torch.device("cpu"), timeout=7.0)
    assert seen["timeout"] == timedelta(minutes=7)
