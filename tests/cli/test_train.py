"""nat-train as users type it: every mistake is a line, exit code 2, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import command, saved_tensors
from torch import Tensor

from nat.files import read_json


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["trainer.max_udpates=3"], ["trainer.max_udpates: no such option, did you mean 'max_updates'?"]),
        (["trainer.max_updates=many"], ["trainer.max_updates=many: a whole number is needed"]),
        (["trainer.max_updates=0"], ["trainer.max_updates=0: must be at least 1"]),
        (["trainer.device=gpu"], ["trainer.device=gpu: allowed are auto, cpu, cuda"]),
        (["trainer.precision=fp8"], ["trainer.precision=fp8: allowed are fp32, bf16, fp16"]),
        (["validation.metric=ter"], ["validation.metric=ter: allowed are bleu, chrf, loss"]),
        (["model=ctx"], ["model=ctx: there is no such choice; did you mean 'ctc'?; choices: autoregressive, crf, ctc"]),
        (["attention=ful"], ["attention=ful: there is no such choice; did you mean 'full'?; choices: "]),
        (["validation.decoding={beams: 3}"], ["validation.decoding.beams: no such option, "]),
        (["validation.decoding={beam_size: 0}"], ["validation.decoding.beam_size=0: must be at least 1"]),
        (
            ["validation.decoding={length_penalty: 1.0}"],
            ["validation.decoding.length_penalty=1.0: has no effect with beam_size=1 (greedy)"],
        ),
        (["data.train=null"], ["data.train: a location is needed to train, for example a .tsv file"]),
        (["data.train=nowhere.tsv"], ["nowhere.tsv"]),
        (["data.train=text.docx"], ["data.train=text.docx: cannot tell the format"]),
        (["model.size.num_heads=5"], ["num_heads=5: must divide dim=16"]),
        (["init_from=nowhere"], ["nowhere/tokenizer"]),
        (["seed=-1", "trainer.max_updates=x", "zzz=1"], ["seed=-1", "trainer.max_updates=x", "zzz: no such option"]),
        (["--verbose"], ["--verbose: no such option; known: --cfg, --config-dir, --help, "]),
        (["--multi"], ["--multi: no such option; did you mean '--multirun'?"]),
        (["--resolve"], ["--resolve: goes with --cfg job, hydra or all"]),
        (["hydra.run.dir=x"], ["hydra.run.dir=x: has no effect; run_dir=FOLDER names a run's folder"]),
        (["hydra/launcher=basic"], ["hydra/launcher=basic: has no effect"]),
        (["hydra.mode=MULTIRUN", "--multirun"], ["hydra.mode=MULTIRUN: has no effect"]),
        (["model=ctc,ctx", "--multirun"], ["model=ctx: there is no such choice"]),
        (["--trust="], ["--trust: a package is needed"]),
        (["--trust", "nosuch"], ["trust=nosuch: there is no such package"]),
        (["run_dir="], ["run_dir=: a value is needed"]),
        (["run_dir=''"], ["run_dir=: a value is needed"]),
        (["--config-dir"], ["--config-dir: a folder is needed"]),
        (["tiny"], ["'tiny' is not an override: write key=value"]),
    ],
)
def test_each_mistake_is_one_line(
    overrides: list[str], lines: list[str], small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*small, f"run_dir={tmp_path / 'run'}", *overrides) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    found = [line for line in told.splitlines() if not line.startswith(("train: ", "valid: "))]
    assert len(found) == len(lines)
    for expected in lines:
        assert any(line.startswith("nat-train: ") and expected in line for line in found), found


def test_a_run_folder_that_cannot_be_written_is_told_at_once(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "x", tmp_path / "file"):
        assert command(*small, f"run_dir={folder}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"nat-train: run_dir={folder}: cannot be written to (")


def test_a_missing_run_dir_is_asked_for(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*small) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nat-train: run_dir: a value is needed")


def test_help_lists_choices_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert "usage: nat-train" in text
    assert "model=autoregressive|crf|ctc" in text
    assert "tokens_per_update: 65536" in text


def test_cfg_prints_the_configuration_and_does_nothing(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*small, f"run_dir={tmp_path / 'run'}", "--cfg") == 0
    assert "tokens_per_update: 300" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_last_line_sums_up(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*small, f"run_dir={tmp_path / 'run'}", "trainer.max_updates=2") == 0
    assert capsys.readouterr().out.startswith("done: 2 updates, ")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_torchrun_with_two_ranks_ends_where_one_does(parallel: str, small: list[str], tmp_path: Path) -> None:
    """And a rank alone goes on from what they saved, and they, of parts, from what one saved."""
    still = ["model.size.dropout=0.0", "optimizer.epsilon=1e-2", "trainer.moving_average=0.5"]
    options = [*small, "model=autoregressive", *still, f"trainer.parallel={parallel}"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "nat.cli.train",
    ]
    two, one = tmp_path / "two", tmp_path / "one"

    def together(folder: Path, updates: int) -> str:
        words = [*torchrun, *options, f"run_dir={folder}", f"trainer.max_updates={updates}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert together(two, 6).count("done: 6 updates") == 1
    assert read_json(two / "run.json")["num_ranks"] == 2
    shards = two / "checkpoints" / "update-00000006"
    assert len([*shards.glob("shard-*.safetensors")]) == (2 if parallel == "fsdp" else 0)
    assert command(*options, f"run_dir={one}", "trainer.max_updates=6") == 0
    assert_same(saved_tensors(two), saved_tensors(one))
    assert command(*options, f"run_dir={two}", "trainer.max_updates=9") == 0
    if parallel == "fsdp":
        together(one, 9)
    else:  # both kinds of runs save the same files
        assert command(*options, f"run_dir={one}", "trainer.max_updates=9") == 0
    assert_same(saved_tensors(two), saved_tensors(one))


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], atol=1e-5), name
