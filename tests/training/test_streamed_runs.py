"""Runs that read their text as a stream: gone on with exactly, alone and by ranks with files of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import workers
from builders import command
from safetensors.torch import load_file
from torch import Tensor

from nat.data.batching import Update
from nat.data.pairs import Pair
from nat.files import read_json
from nat.runs.folder import latest_checkpoint
from nat.training.distributed import Ranks
from nat.training.step import UpdateStep

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def options(small: list[str], tmp_path: Path) -> list[str]:
    """Of a run on 4 files of different lengths."""
    given = next(option for option in small if option.startswith("data.train=")).partition("=")[2]
    lines = Path(given).read_text().splitlines(keepends=True)
    for number, (first, end) in enumerate([(0, 20), (20, 50), (50, 110), (110, 150)]):
        (tmp_path / f"part-{number}.tsv").write_text("".join(lines[first:end]))
    stream = [f"data.train={tmp_path}/part-*.tsv", "data.streaming=true", "data.shuffle_buffer=20", "data.limit=null"]
    return [
        *small,
        "model=ctc",
        "trainer.tokens_per_update=120",
        "trainer.save_every=3",
        "schedule={shape: constant, warmup: 1}",
        *stream,
    ]


def weights(folder: Path) -> dict[str, Tensor]:
    path = latest_checkpoint(folder)
    assert path is not None
    return load_file(path / "model.safetensors")


def assert_same(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stream_is_gone_on_with_exactly(options: list[str], tmp_path: Path) -> None:
    assert command(*options, f"run_dir={tmp_path / 'whole'}", "trainer.max_updates=34") == 0
    for number in (7, 34):
        assert command(*options, f"run_dir={tmp_path / 'parts'}", f"trainer.max_updates={number}") == 0
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert read_json(tmp_path / "parts" / "run.json")["epoch"] > 0


def test_tokens_of_all_ranks_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(self: Ranks, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor *= 2

    monkeypatch.setattr(Ranks, "sum_tensors", double)
    step = object.__new__(UpdateStep)
    step.ranks = Ranks()
    whole = Update.of([Pair([7], [8, 9]), Pair([7], [8])])
    assert step._num_tokens(whole) == 3
    assert step._num_tokens(Update(whole.table, whole.rows, is_share=True)) == 6


# --- several ranks ---------------------------------------------------------------------------------

RunRanks = Callable[..., list[int]]


@pytest.fixture
def run_ranks(options: list[str], tmp_path: Path) -> RunRanks:
    """Runs two ranks; their exit codes."""

    def run(folder: str, *overrides: str, num_ranks: int = 2) -> list[int]:
        port, log = workers.free_port(), str(tmp_path / "log")
        arguments = [*options, f"run_dir={tmp_path / folder}", *overrides]
        ranks = [
            workers.start(workers.command, arguments, log, workers.rank_environment(rank, num_ranks, port))
            for rank in range(num_ranks)
        ]
        return [workers.finish(rank) for rank in ranks]

    return run


@pytest.mark.slow
def test_ranks_with_files_of_their_own_go_on_exactly(
    run_ranks: RunRanks, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks("whole", "trainer.max_updates=34") == [0, 0], (tmp_path / "log").read_text()
    for number in (7, 34):
        assert run_ranks("parts", f"trainer.max_updates={number}") == [0, 0], (tmp_path / "log").read_text()
    assert_same(tmp_path / "whole", tmp_path / "parts")
    names = {path.name for path in (tmp_path / "parts" / "stream").iterdir()}
    assert names == {"rank-0-of-2.jsonl", "rank-1-of-2.jsonl"}
    assert command(*options, f"run_dir={tmp_path / 'parts'}", "trainer.max_updates=36") == 2
    assert "was parted among 2 ranks, and now would be among 1; " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_objective_is_that_of_all_ranks_pairs(
    parallel: str, run_ranks: RunRanks, options: list[str], tmp_path: Path
) -> None:
    """An update of all pairs there are is the same, however they are parted."""
    whole = ["trainer.max_updates=1", "trainer.tokens_per_update=100000", "model.size.dropout=0"]
    assert run_ranks("two", *whole, f"trainer.parallel={parallel}") == [0, 0], (tmp_path / "log").read_text()
    assert command(*options, *whole, f"run_dir={tmp_path / 'one'}") == 0
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    one, two = (next(line for line in map(json.loads, file) if line["kind"] == "train") for file in lines)
    assert one["tokens"] == two["tokens"] > 1000
    for name in ("ctc", "gradient_norm"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)
