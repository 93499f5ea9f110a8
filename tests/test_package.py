"""The wheel works outside the checkout, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment with the wheel alone; its packages are those of this one, by a path file."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    import torch

    (site / "packages.pth").write_text(str(Path(torch.__file__).parent.parent) + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--quiet"]
        + ["--force-reinstall", "--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder


def run(environment: Path, tmp_path: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(environment / "bin" / "python"), "-m", module, *arguments],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_source_holds_docs_scripts_and_tests(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(words, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "mkdocs.yml", "constraints.txt"} <= names
    assert {"docs/index.md", "docs/results/systems.json", "scripts/quickstart.sh", "tests/test_docs.py"} <= names
    assert not [name for name in names if name.startswith(("site/", "runs/"))]


def test_wheel_holds_configs_and_text(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"nat/configs/train.yaml", "nat/configs/model/ctc.yaml", "nat/embedded/lohelp/train.tsv.gz"} <= names
    assert {"nat/embedded/lohelp-pages/train.jsonl.gz", "nat/embedded/lohelp-pages/LICENCE.txt"} <= names
    assert {"nat/web/page/index.html", "nat/web/page/page.js", "nat/web/runtime-licence.txt"} <= names
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    scripts = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert all(f"{command} = nat.cli" in scripts for command in ("nat-train", "nat-distill", "nat-decode"))
    assert not [name for name in names if name.startswith(("tests/", "docs/", "scripts/"))]


def test_installed_commands_find_their_configs(environment: Path, tmp_path: Path) -> None:
    where = run(environment, tmp_path, "nat.cli.train", "--help")
    assert where.returncode == 0
    assert "model=autoregressive|crf|ctc" in where.stdout
    assert str(environment) in where.stdout  # not the checkout's


def test_installed_package_trains(environment: Path, tmp_path: Path) -> None:
    options = ["trainer.max_updates=3", "validation.max_sentences=2", "run_dir=run"]
    done = run(environment, tmp_path, "nat.cli.train", "experiment=tiny", "model=ctc", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
