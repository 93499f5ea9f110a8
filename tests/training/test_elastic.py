"""Ranks that torchrun starts again, and ranks of several nodes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import command, distil, saved_tensors

from nat.files import read_json

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
    one, other = saved_tensors(first), saved_tensors(second)
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


# --- nodes ------------------------------------------------------------------------------------------


@pytest.fixture
def nodes() -> Iterator[list[tuple[str, str]]]:
    """Two network namespaces that see each other: name and address of each."""
    found = [(f"nat{os.getpid()}{end}", f"10.77.0.{end}") for end in (1, 2)]
    (first, _), (second, _) = found
    try:
        for name, _ in found:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        link = ["link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second]
        subprocess.run(["ip", *link], check=True)
        for name, address in found:
            inside = ["ip", "-n", name]
            subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
            for device in ("eth0", "lo"):
                subprocess.run([*inside, "link", "set", device, "up"], check=True)
        yield found
    finally:
        for name, _ in found:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class Cluster:
    """torchrun on every node, with a cache of its own: one rank on the first, two on the second."""

    def __init__(self, nodes: list[tuple[str, str]], folder: Path) -> None:
        self.nodes, self.folder, self.processes = nodes, folder, list[subprocess.Popen[bytes]]()

    def start(self, *words: str, port: int) -> None:
        self.processes = []
        for number, (name, address) in enumerate(self.nodes):
            meeting = ["--nnodes=2", f"--nproc-per-node={number + 1}", "--max-restarts=3", f"--local-addr={address}"]
            meeting += ["--rdzv-backend=c10d", f"--rdzv-endpoint={self.nodes[0][1]}:{port}"]
            meeting += [f"--rdzv-conf=is_host={int(number == 0)}"]
            with open(self.folder / f"{port}-{number}.log", "wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        ["ip", "netns", "exec", name, *TORCHRUN, *meeting, "-m", *words],
                        env=os.environ
                        | {"NAT_CACHE": str(self.folder / f"cache-{number}"), "GLOO_SOCKET_IFNAME": "eth0"},
                        stdout=log,
                        stderr=log,
                    )
                )

    def finish(self) -> None:
        for process in self.processes:
            assert process.wait(300) == 0, "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(60)


@pytest.fixture
def cluster(nodes: list[tuple[str, str]], tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(nodes, tmp_path)
    yield found
    found.close()


def test_two_nodes_train_and_distil(cluster: Cluster, small: list[str], tmp_path: Path) -> None:
    """A rank of the second is killed on the way: each node counts its restarts for itself."""
    options = [*small, *STILL, *BUDGET, "trainer.moving_average=0.5"]
    folder = tmp_path / "nodes"
    cluster.start("nat.cli.train", *options, f"run_dir={folder}", port=29411)
    wait_for_lines(folder, 8, cluster.processes[1])
    os.kill(children(cluster.processes[1].pid)[0], signal.SIGKILL)
    cluster.finish()
    assert read_json(folder / "run.json")["num_ranks"] == 3
    assert command(*options, f"run_dir={tmp_path / 'whole'}") == 0
    assert_same_weights(folder, tmp_path / "whole")
    assert all([*(tmp_path / f"cache-{number}").iterdir()] for number in (0, 1))
    given = [f"teacher={folder}", *(option for option in small if option.startswith("data."))]
    cluster.start("nat.cli.distill", *given, f"output={tmp_path / 'text'}", port=29412)
    cluster.finish()
    assert distil(*given, f"output={tmp_path / 'alone'}") == 0
    one, other = ((tmp_path / name / "train.jsonl").read_bytes() for name in ("text", "alone"))
    assert one == other
