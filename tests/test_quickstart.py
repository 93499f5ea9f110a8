"""The recipe keeps its promise: the script that the README names, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_quickstart_reaches_its_figures(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    subprocess.run(
        ["bash", str(ROOT / "scripts" / "quickstart.sh"), "--output", str(tmp_path / "out")],
        check=True,
        env={**kept, "NAT_VENV": sys.prefix},
    )
    teacher, student = json.loads((tmp_path / "out" / "results.json").read_text())
    assert teacher["bleu"] >= 18
    assert student["bleu"] >= 15
    assert teacher["ms_per_sentence_p50"] >= 3 * student["ms_per_sentence_p50"]
    assert all("version:" in row["bleu_signature"] for row in (teacher, student))
    assert len((tmp_path / "out" / "samples.txt").read_text().strip().split("\n\n")) == 10


def test_quickstart_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "quickstart.sh"), "--rwa"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'--rwa' is neither --raw" in done.stderr


def test_setup_installs_what_the_page_draws_figures_with(tmp_path: Path) -> None:
    python = tmp_path / "python"  # it does as it is told, and writes down what
    python.write_text(f"""#!/bin/sh
echo "$@" >>{tmp_path}/log
if [ "$2" = venv ]; then mkdir -p "$4/bin"; fi
""")
    python.chmod(0o755)
    subprocess.run(
        ["bash", str(ROOT / "scripts" / "quickstart.sh")],
        env={**os.environ, "PYTHON": str(python), "NAT_VENV": str(tmp_path / "venv"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,  # there is no nat-train to go on with
    )
    installed = (tmp_path / "log").read_text().splitlines()[-1]
    assert installed.endswith("-c constraints.txt -e .[plot]")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(package.startswith("matplotlib") for package in extras["plot"])


def test_setup_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "quickstart.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": "python2.7", "NAT_VENV": str(tmp_path / "none")},
    )
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is missing (looked for python2.7" in done.stderr
    assert not (tmp_path / "none").exists()
