"""No code runs from a stranger's folder; components of a package that the user names are built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import command

import nat
from nat import config
from nat.cli.decode import main as decode
from nat.composition import config_directory
from nat.errors import DataError

COMPONENT = """
from pathlib import Path
from nat.models.ctc import CTC

Path(__file__).with_name("ran").write_text("")

class Model(CTC):
    '''A method of one's own.'''
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, first on sys.path: a run whose model is a class of a module that lies beside it."""
    monkeypatch.setattr(config, "TRUSTED", {"nat"})
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(COMPONENT)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: {_target_: own.Model}\nname: ${oc.env:HOME}\n")
    return tmp_path


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        decode([*arguments, "device=cpu", "speed=false"])
    return int(stop.value.code or 0)


def test_a_module_beside_a_run_is_not_imported(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"run/config.yaml: model._target_=own.Model: .*nat\.load\(\.\.\., trust="):
        nat.load("run", device="cpu")
    assert exit_code("run_dir=run", "source=own.py") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nat-decode: run/config.yaml: model._target_=own.Model: components of own are built only")
    assert not (stranger / "ran").exists()


def test_nor_is_it_where_python_puts_the_current_folder_first(stranger: Path) -> None:
    environment = os.environ | {"PYTHONSAFEPATH": ""}
    words = ["run_dir=run", "source=own.py", "device=cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "nat.cli.decode", *words], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert "are built only where you trust that package" in done.stderr
    assert not (stranger / "ran").exists()


def test_a_package_of_ones_own_trains_and_decodes(stranger: Path, small: list[str]) -> None:
    (stranger / "conf" / "model").mkdir(parents=True)
    own = (config_directory() / "model" / "ctc.yaml").read_text().replace("nat.models.ctc.CTC", "own.Model")
    (stranger / "conf" / "model" / "own.yaml").write_text(own)
    training = [*small, "model=own", "run_dir=trained", "trainer.max_updates=1", "--config-dir", "conf"]
    assert command(*training) == 2
    assert not (stranger / "ran").exists()
    assert command(*training, "--trust", "own") == 0
    shutil.copy("own.py", "source.txt")
    assert exit_code("run_dir=trained", "source=source.txt", "output=out.txt", "--trust=own") == 0
    config.TRUSTED.discard("own")
    with pytest.raises(DataError):
        nat.load("trained", device="cpu")
    assert type(nat.load("trained", device="cpu", trust="own").model).__name__ == "Model"
