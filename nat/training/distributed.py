"""Ranks under torchrun: every rank sees the same updates and takes its share of each; see `nat.training.parallel`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nat.errors import ConfigError
from nat.runs.device import environment_number
from nat.training.meeting import Meeting, fresh

T = TypeVar("T")
TIMEOUT = 30.0  # minutes


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. meeting: None where it is alone."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    meeting: Meeting | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def from_environment(cls, device: torch.device, *, timeout: float = TIMEOUT) -> Ranks:
        """Join the process group that torchrun describes; a lone process needs none. device: this rank's. timeout:
        minutes that a rank waits for the others within an update. Raises ConfigError where the description is not
        whole, or the others cannot be reached."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        num_ranks = environment_number("WORLD_SIZE", 1)
        if num_ranks == 1:
            return cls()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE={num_ranks}: {', '.join(missing)} is not set; start several ranks by torchrun, or unset "
                "WORLD_SIZE"
            )
        rank, local_rank = environment_number("RANK", 0), environment_number("LOCAL_RANK", 0)
        if not 0 <= rank < num_ranks:
            raise ConfigError(f"RANK={rank}: WORLD_SIZE={num_ranks} ranks are 0 to {num_ranks - 1}")
        try:
            limit = timedelta(minutes=timeout)
            store, _, _ = next(dist.rendezvous("env://"))
            store = fresh(store, rank=rank, num_ranks=num_ranks, timeout=limit)
            if not dist.is_initialized():
                dist.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    store=dist.PrefixStore("group", store),
                    rank=rank,
                    world_size=num_ranks,
                    timeout=limit,
                )
        except (ValueError, RuntimeError) as error:  # its reason is the first line, then a trace
            raise ConfigError(f"WORLD_SIZE={num_ranks}: no process group ({str(error).splitlines()[0]})") from None
        store = dist.PrefixStore("meeting", store)
        meeting = Meeting(store, rank=rank, num_ranks=num_ranks, local_rank=local_rank)
        return cls(rank, num_ranks, local_rank, meeting)

    def barrier(self) -> None:
        """Wait until all ranks are here, for as long as it takes."""
        if self.meeting is not None:
            self.meeting.wait()

    def main_first(self, work: Callable[[], T]) -> T:
        """The main rank works first (and fills caches), the others after it. All fail if it fails."""
        return work() if self.meeting is None else self.meeting.in_turn(work)

    def claims(self, total: int) -> Iterable[int]:
        """Numbers below `total`, each for one rank alone."""
        return range(total) if self.meeting is None else self.meeting.claims(total)

    def done_by_others(self, units: int) -> int:
        """units: of work that this rank has done since it last said so. All that the others have done."""
        return 0 if self.meeting is None else self.meeting.done_by_others(units)

    def sum_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, in place; one message for all of a type."""
        if self.num_ranks == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        device = torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")
        for group in groups.values():
            flat = torch.cat([tensor.reshape(-1).to(device) for tensor in group])
            self.finish_sum(self.start_sum(flat))
            for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def start_sum(self, tensor: Tensor) -> dist.Work:
        """Begin to replace a tensor by its sum over ranks, in place, while other work goes on; see `finish_sum`."""
        with self._meeting():
            work: dist.Work = dist.all_reduce(tensor, async_op=True)
        return work

    def finish_sum(self, work: dist.Work) -> None:
        """The sum is there for all that follows."""
        with self._meeting():
            work.wait()

    @contextlib.contextmanager
    def _meeting(self) -> Iterator[None]:
        """Raises ConfigError, naming the rank that is behind, where the others do not come."""
        assert self.meeting is not None
        self.meeting.show_life()
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"the ranks did not meet: {self.meeting.behind()} ({reason})") from None

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        count = torch.tensor(float(flag))
        self.sum_tensors([count])
        return bool(count.item())

    def agree(self, number: int, place: str) -> None:
        """Raises ConfigError where ranks found different numbers at a place."""
        total = torch.tensor(number)
        self.sum_tensors([total])
        if self.any(self.num_ranks * number != int(total)):
            raise ConfigError(f"{place}: ranks see different files there; all nodes need one and the same folder")

    def close(self) -> None:
        if self.num_ranks > 1 and dist.is_initialized():
            dist.destroy_process_group()
