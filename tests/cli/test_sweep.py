"""What people know of Hydra: sweeps, --cfg, --info, shell completion."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from builders import command
from hydra._internal.hydra import Hydra

from nat.cli import train as train_command
from nat.composition import is_swept, run_name, sweep
from nat.config import load_yaml
from nat.errors import ConfigError, UserError
from nat.files import read_json


def test_a_sweep_trains_every_combination_in_a_folder_of_its_name(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["trainer.max_updates=1", "validation.max_sentences=2"]
    assert command(*small, *quick, "--multirun", "model=ctc,vanilla", "seed=1,2", "run_dir=runs/sweep") == 0
    folders = sorted(path.name for path in Path("runs/sweep").iterdir() if path.is_dir())
    assert folders == ["model=ctc,seed=1", "model=ctc,seed=2", "model=vanilla,seed=1", "model=vanilla,seed=2"]
    for name in folders:
        config = load_yaml(Path("runs/sweep", name, "config.yaml"))
        assert config["run_dir"] == f"runs/sweep/{name}"
        assert f"model={config['model']['_target_'].split('.')[2]},seed={config['seed']}" == name
        assert read_json(Path("runs/sweep", name, "run.json"))["update"] == 1
    assert not list(Path("runs/sweep").rglob(".hydra")) + list(Path("runs/sweep").rglob("*.log"))
    output = capsys.readouterr()
    assert output.out.count("done: 1 updates") == 4
    assert "nat-train: runs/sweep/model=ctc,seed=1\n" in output.err


def jobs_of(*words: str, extra: Path | None = None) -> list[dict[str, Any]]:
    """The configurations of a sweep."""
    configs: list[dict[str, Any]] = []

    def job(config: dict[str, Any]) -> float:
        configs.append(config)
        return 0.0

    sweep("train", words, job, extra)
    return configs


def test_values_are_those_of_single_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [
        "run_dir=~/a b",
        "data.train=[ä.en,b=c.de]",
        "trainer.max_updates=choice(5,6)",
        "data.valid=x y.tsv,'c,d.tsv'",
    ]
    configs = jobs_of(*words, "validation.decoding.beam_size=3", "init_from=~/old")
    assert [(c["trainer"]["max_updates"], c["data"]["valid"]) for c in configs] == [
        (5, "x y.tsv"), (5, "c,d.tsv"), (6, "x y.tsv"), (6, "c,d.tsv"),
    ]  # fmt: skip
    assert all(
        c["data"]["train"] == ["ä.en", "b=c.de"] and c["validation"]["decoding"]["beam_size"] == 3 for c in configs
    )
    assert configs[0]["run_dir"] == f"{tmp_path}/a b/data.valid=x y.tsv,trainer.max_updates=5"
    assert configs[0]["init_from"] == f"{tmp_path}/old"


def test_hydras_own_names_and_parameters_count(tmp_path: Path) -> None:
    words = [
        f"hydra.sweep.dir={tmp_path}",
        "hydra.sweep.subdir='${hydra.job.num}'",
        "run_dir=unused",
        "seed=range(1,3)",
    ]
    assert [c["run_dir"] for c in jobs_of(*words)] == [f"{tmp_path}/0", f"{tmp_path}/1"]
    (tmp_path / "experiment").mkdir()
    recipe = "# @package _global_\nhydra: {sweeper: {params: {seed: '3,4', model: ctc}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(recipe)
    configs = jobs_of(f"run_dir={tmp_path}", "experiment=mine", extra=tmp_path)
    assert [c["run_dir"] for c in configs] == [f"{tmp_path}/model=ctc,seed={seed}" for seed in (3, 4)]
    assert [c["run_dir"] for c in jobs_of(f"run_dir={tmp_path}")] == [f"{tmp_path}/"]


def test_a_job_that_fails_is_told_and_the_others_run(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trainer.max_updates=1", "validation.max_sentences=2", "trainer.clip_norm=-1,1", f"run_dir={tmp_path}"]
    assert command(*small, *words, "-m") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "nat-train: trainer.clip_norm=-1.0: must be more than 0" in lines
    assert lines[-1] == f"nat-train: {tmp_path}/trainer.clip_norm=-1: failed, see above"
    assert (tmp_path / "trainer.clip_norm=1" / "run.json").is_file()


def test_a_stopped_job_stops_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, "run", lambda config: {"stopped": 15})
    assert command(f"run_dir={tmp_path}", "seed=1,2", "--multirun") == 128 + 15


def test_an_error_of_the_code_keeps_its_trace(tmp_path: Path) -> None:
    def job(config: dict[str, Any]) -> float:
        raise ValueError("a mistake in the code")

    with pytest.raises(RuntimeError) as error:
        sweep("train", [f"run_dir={tmp_path}"], job, None)
    assert isinstance(error.value.__cause__, ValueError)


def test_a_launcher_can_send_a_job_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Any] = []
    monkeypatch.setattr(Hydra, "multirun", lambda hydra, name, task, overrides: tasks.append(task))
    sweep("train", ["run_dir=x", "seed=1,2"], train_command.job, None)
    (task,) = tasks
    again = pickle.loads(pickle.dumps(task))
    assert (again.func, again.args) == (task.func, task.args)


def test_a_sweep_without_a_run_dir_is_refused() -> None:
    with pytest.raises((ConfigError, UserError), match="run_dir"):
        sweep("train", ["seed=1,2"], lambda config: 0.0, None)


def test_names_of_runs() -> None:
    assert run_name("++seed=1,+x='a/b,c',model=ctc") == "model=ctc,seed=1,x=a_b,c"
    long = [run_name(f"data.train={'ä' * 200}{end}") for end in "ab"]
    assert long[0] != long[1] and all(len(name.encode()) <= 200 for name in long)
    assert [is_swept(word) for word in ("a=1,2", "a=range(1,3)", "a=[1,2]", "a='1,2'", "a=x", "a=[1],[2]")] == [
        True, True, False, False, False, True,
    ]  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert command(*words) == 0
    return capsys.readouterr().out


def test_cfg_as_hydra_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "encoder: ${encoder}" in printed(capsys, "--cfg", "job", "model=ctc")
    assert "encoder: ${encoder}" not in printed(capsys, "-c", "job", "--resolve", "model=ctc", "run_dir=x")
    assert "launcher:" in printed(capsys, "--cfg=hydra")
    assert "num_layers: 7" in printed(capsys, "--cfg", "encoder.num_layers=7")


def test_info_as_hydra_prints_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in printed(capsys, "--info", "searchpath", "--config-dir", str(tmp_path))
    assert re.search(r"model/ctc +\| model ", printed(capsys, "-i", "defaults", "model=ctc"))
    assert command("--info", "config", "model=ctx") == 2


def test_shell_completion(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "complete -o nospace" in printed(capsys, "--shell-completion", "install=bash")
    for line, expected in {
        "nat-train model=ct": ["model=ctc"],
        "nat-train trainer.max_u": ["trainer.max_updates="],
        "nat-train --trust x --config-dir y model=ct": ["model=ctc"],
        "nat-train --nonsense mod": [],
        "nat-train a=[ mod": [],
    }.items():
        monkeypatch.setenv("COMP_LINE", line)
        assert printed(capsys, "-sc", "query=bash").split() == expected
    assert command("-sc", "install=nosuch") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
