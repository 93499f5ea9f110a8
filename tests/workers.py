"""Processes that tests start: commands that are killed, ranks that talk to one another.

They come from one server process that has imported everything, so that each starts in a moment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nat.training.run", "nat.cli.train", "workers"])


def start(target: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def finish(process: ForkServerProcess, seconds: float = 120.0) -> int:
    """Its exit code, once it has ended."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the process did not end within {seconds} s")
    return process.exitcode


def command(arguments: list[str], log: str, environment: dict[str, str] | None = None) -> None:
    """nat-train with its output in a file. Exits with its code."""
    with logged(log):
        os.environ.update(environment or {})
        from nat.cli.train import main

        main(arguments)


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


def rank_gradients(rank: int, num_ranks: int, port: str, name: str, cases: list[Any], folder: str) -> None:
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
                result, tensors = gradients(model, pairs, max_tokens=max_tokens, ranks=ranks)
                found.append((result.totals.counts(), result.gradient_norm, tensors))
            torch.save(found, Path(folder) / f"{rank}.pt")
        finally:
            ranks.close()
