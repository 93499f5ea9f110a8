"""Processes that tests start: commands that are killed, ranks that talk to one another.

They come from one server process that has imported everything, so that each starts in a moment.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nat.training.run", "nat.cli.train", "nat.cli.distill", "workers"])


def start(target: Callable[..., Any], *arguments: Any, **options: Any) -> ForkServerProcess:
    process = CONTEXT.Process(target=target, args=arguments, kwargs=options, daemon=True)
    process.start()
    return process


def finish(process: ForkServerProcess, seconds: float = 120.0) -> int:
    """Its exit code, once it has ended."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the process did not end within {seconds} s")
    return process.exitcode


def command(
    arguments: list[str], log: str, environment: dict[str, str] | None = None, module: str = "nat.cli.train"
) -> None:
    """A command (nat-train) with its output in a file. Exits with its code."""
    with logged(log):
        os.environ.update(environment or {})
        importlib.import_module(module).main(arguments)


def struck(
    arguments: list[str],
    log: str,
    folder: Path,
    number: int,
    blow: signal.Signals = signal.SIGKILL,
    module: str = "nat.cli.train",
    environment: dict[str, str] | None = None,
) -> None:
    """A command that a signal hits as it is about to touch `folder` for the `number`-th time.

    To touch is to open, move or remove a file there or to make a folder; a file that is written anew is left empty, as
    it is between its opening and its first byte. Unlike a signal from outside after some time, this hits the same
    place on a quick machine and on a busy one.
    """
    left = number

    def strike(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event in TOUCHES and str(values[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                if event == "open" and values[2] & os.O_TRUNC:
                    Path(values[0]).write_bytes(b"")
                os.kill(os.getpid(), blow)

    sys.addaudithook(strike)
    command(arguments, log, environment, module)


TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir")


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    with open(path, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def rank_environment(rank: int, num_ranks: int, port: str) -> dict[str, str]:
    """What torchrun would set."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def rank_gradients(
    rank: int, num_ranks: int, port: str, name: str, parallel: str, cases: list[Any], folder: str
) -> None:
    """One rank's view of the gradients and sums of each case (pairs, max_tokens); written to FOLDER/RANK.pt."""
    with logged(f"{folder}/{rank}.log"):
        os.environ.update(rank_environment(rank, num_ranks, port))
        import torch
        from builders import gradients, make_model

        from nat.training.distributed import Ranks

        ranks = Ranks.from_environment(torch.device("cpu"))
        try:
            found = []
            for pairs, max_tokens in cases:
                model = make_model(name, dtype=torch.float64)
                result, tensors = gradients(model, pairs, max_tokens=max_tokens, ranks=ranks, parallel=parallel)
                found.append((result.totals.counts(), result.gradient_norm, tensors))
            torch.save(found, Path(folder) / f"{rank}.pt")
        finally:
            ranks.close()
