"""Every command refuses to write over files of a run and over what it did not write, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nat.bench.attention import AttentionSizes
from nat.bench.benchmark import BenchmarkConfig
from nat.cli.decode import main as decode
from nat.decoding.options import CommandConfig
from nat.doctor.command import DoctorConfig
from nat.errors import ConfigError
from nat.evaluation.decode import DecodeConfig
from nat.reporting.report import ReportConfig
from nat.studies.cloze import ClozeConfig
from nat.studies.editing import EditStudyConfig
from nat.studies.modes.study import ModesConfig
from nat.studies.ngrams import LMConfig

COMMANDS: dict[str, Callable[[str, str], CommandConfig]] = {
    "decode": lambda run, output: DecodeConfig(run_dir=run, output=output),
    "doctor": lambda run, output: DoctorConfig(run_dir=run, output=output),
    "edit": lambda run, output: EditStudyConfig(run_dir=run, teacher=run, output=output),
    "cloze": lambda run, output: ClozeConfig(run_dir=run, output=output),
    "lm": lambda run, output: LMConfig(run_dir=run, output=output),
    "report": lambda run, output: ReportConfig(run_dirs=[f"{run}?beam_size=4"], output=output),
    "modes": lambda run, output: ModesConfig(run_dirs=[run], output=output),
    "bench": lambda run, output: BenchmarkConfig(output=output),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_its_own_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").write_text("mine\n")
    (tmp_path / "study").mkdir()
    for file in ("results.json", "study.json"):
        (tmp_path / "study" / file).write_text("mine\n")
    where = tmp_path / ("study" if name in ("report", "modes") else "out")
    with pytest.raises(ConfigError, match="is there already"):
        COMMANDS[name]("run", str(where)).prepare()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("bench", "report", "modes")])
def test_files_of_the_run_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(ConfigError, match="a file of the run"):
        COMMANDS[name](str(tmp_path), f"{tmp_path}/config.yaml").prepare()


def test_a_run_is_not_destroyed_by_its_decode(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    """The report of output=RUN/run would be RUN/run.json."""
    run = tmp_path / "run"
    run.mkdir()
    for path in tiny_runs["ctc"].iterdir():
        (run / path.name).symlink_to(path) if path.name != "run.json" else (run / path.name).write_text("{}")
    (tmp_path / "source.txt").write_text("Help\n")
    with pytest.raises(SystemExit) as stop:
        decode([f"run_dir={run}", f"source={tmp_path}/source.txt", "speed=false", f"output={run}/run"])
    assert stop.value.code == 2
    assert (run / "run.json").read_text() == "{}"
    assert not (run / "run").exists()


def test_a_picture_replaces_a_picture_alone(tmp_path: Path) -> None:
    sizes = AttentionSizes(picture=str(tmp_path / "kinds.svg"), bleu="KIND.json")
    (tmp_path / "kinds.svg").write_text("<?xml version='1.0'?>")
    BenchmarkConfig(attention=sizes).prepare()
    (tmp_path / "kinds.svg").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"attention\.picture=.*is there already"):
        BenchmarkConfig(attention=sizes).prepare()
    BenchmarkConfig(attention=sizes, overwrite=True).prepare()


@pytest.mark.parametrize("kind", [DecodeConfig, EditStudyConfig])
def test_files_of_the_teacher_are_kept_whatever_is_told(tmp_path: Path, kind: type) -> None:
    (tmp_path / "run.json").write_text("{}\n")
    config = kind(run_dir="run", teacher=str(tmp_path), output=f"{tmp_path}/run.json", overwrite=True)
    with pytest.raises(ConfigError, match="a file of the run"):
        config.prepare()
