"""What arrives together is translated together: one queue and one worker thread for each model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nat.serving.models import LineTranslator, Options


class Full(Exception):
    """So many lines wait that no more are taken."""


@dataclass(frozen=True)
class Job:
    line: str
    options: Options
    done: asyncio.Future[str]


class Batcher:
    """A line's translation does not depend on what it is translated with, so that a batch is whatever is there.

    observe: hears of the size of every batch.
    """

    def __init__(
        self,
        translator: LineTranslator,
        *,
        max_batch: int,
        wait_seconds: float,
        max_waiting: int,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        self.translator, self.observe = translator, observe
        self.max_batch, self.wait_seconds, self.max_waiting = max_batch, wait_seconds, max_waiting
        self.jobs: asyncio.Queue[Job] = asyncio.Queue()
        self.worker = ThreadPoolExecutor(1)

    async def translate(self, lines: Sequence[str], options: Options) -> list[str]:
        """In input order; a blank line stays as it is. Raises Full, and what the translator raises for these lines."""
        filled = [i for i, line in enumerate(lines) if line.strip()]
        if self.jobs.qsize() + len(filled) > self.max_waiting:
            raise Full
        loop = asyncio.get_running_loop()
        jobs = [Job(lines[i], options, loop.create_future()) for i in filled]
        for job in jobs:
            self.jobs.put_nowait(job)
        try:
            answers = await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:  # whoever asked is gone: what still waits is left out
                job.done.cancel()
        results = list(lines)
        for i, answer in zip(filled, answers, strict=True):
            results[i] = answer
        return results

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [job for job in await self._gathered() if not job.done.done()]
            if not batch:
                continue
            self.observe(len(batch))
            work = loop.run_in_executor(self.worker, self._translated, batch)
            try:
                answers = await work
            except Exception as error:  # of the model: those who asked hear of it, the others are served
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            for job, answer in zip(batch, answers, strict=True):
                if not job.done.done():
                    job.done.set_result(answer)

    def _translated(self, batch: Sequence[Job]) -> list[str]:
        return self.translator.translate([job.line for job in batch], [job.options for job in batch])

    async def _gathered(self) -> list[Job]:
        """A first job, and what comes within the time to wait after it."""
        batch = [await self.jobs.get()]
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait_seconds
        while len(batch) < self.max_batch:
            if not self.jobs.empty():
                batch.append(self.jobs.get_nowait())
                continue
            left = end - loop.time()
            if left <= 0:
                break
            try:
                batch.append(await asyncio.wait_for(self.jobs.get(), left))
            except TimeoutError:
                break
        return batch
