"""Ranks that torchrun starts again, and ranks of several nodes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import command

from nat.files import read_json
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import load_tensors

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
STILL = ["model=ctc", "model.size.dropout=0.0", "optimizer.epsilon=1e-2"]
BUDGET = ["trainer.max_updates=40", "trainer.save_every=3", "validation.every=10"]


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_for_lines(folder: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    while lines_of(folder) < number:
        assert process.poll() is None, "it ended too early"
        time.sleep(0.02)


def assert_same_weights(first: Path, second: Path) -> None:
    states = [latest_checkpoint(folder) for folder in (first, second)]
    for name in ("model.safetensors", "average.safetensors"):
        one, other = (load_tensors(state / name) for state in states if state is not None)
        assert one.keys() == other.keys()
        for key in one:
            assert torch.allclose(one[key], other[key], rtol=0, atol=1e-6), key


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_rank_that_is_killed_at_random_is_started_again(kind: str, small: list[str], tmp_path: Path) -> None:
    """Twice, one of two ranks: they end with the weights of a run that nothing disturbed."""
    options = [*small, *STILL, *BUDGET, "trainer.moving_average=0.5", f"trainer.parallel={kind}"]
    seed = random.SystemRandom().randrange(1 << 30)
    chance, folder, log = random.Random(seed), tmp_path / "killed", tmp_path / "log"
    elastic = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=3", "-m", "nat.cli.train"]
    with open(log, "wb") as file:
        process = subprocess.Popen([*elastic, *options, f"run_dir={folder}"], stdout=file, stderr=file)
    for number in (chance.randrange(3, 12), chance.randrange(20, 32)):
        wait_for_lines(folder, number, process)
        time.sleep(chance.random() * 0.2)
        os.kill(chance.choice(children(process.pid)), signal.SIGKILL)
        time.sleep(0.5)
    assert process.wait(500) == 0, f"seed {seed}\n{log.read_text()}"
    assert read_json(folder / "run.json")["update"] == 40
    assert command(*options, f"run_dir={tmp_path / 'whole'}") == 0
    assert_same_weights(folder, tmp_path / "whole")
