"""What is set of threads before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nat import threads
from nat.threads import prepare_threads, processor_quota


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def quota(tmp_path: Path, lines: str) -> float | None:
    (tmp_path / "own").write_text(lines)
    return processor_quota(tmp_path / "own", tmp_path / "mounted")


def test_the_tightest_quota_of_a_group_and_those_above_it(tmp_path: Path) -> None:
    written(tmp_path / "mounted" / "pod" / "box", cpu__max="max 100000\n")
    assert quota(tmp_path, "0::/pod/box\n") is None
    written(tmp_path / "mounted" / "pod", cpu__max="150000 100000\n")
    assert quota(tmp_path, "0::/pod/box\n") == 1.5
    written(tmp_path / "mounted", cpu__max="50000 100000\n")
    assert quota(tmp_path, "0::/pod/box\n") == 0.5


def test_the_older_control_groups(tmp_path: Path) -> None:
    written(tmp_path / "mounted" / "cpu" / "box", **{"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"})
    assert quota(tmp_path, "5:memory:/x\n1:cpu,cpuacct:/box\n") == 3.0
    written(tmp_path / "mounted" / "cpu" / "box", **{"cpu.cfs_quota_us": "-1\n"})
    assert quota(tmp_path, "1:cpu,cpuacct:/box\n") is None


@pytest.mark.parametrize("text", ["", "\n", "0", "0::", "0::/../..", "x:y", "0::/no/such/group"])
def test_odd_control_groups_are_no_limit(tmp_path: Path, text: str) -> None:
    assert quota(tmp_path, text) is None


def prepared(monkeypatch: pytest.MonkeyPatch, limit: float | None, **environment: str) -> dict[str, str]:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "processor_quota", lambda: limit)
    monkeypatch.setattr(threads, "num_processors", lambda: 4)
    prepare_threads(environment)
    return environment


def test_what_is_set_where_the_user_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared(monkeypatch, None) == {"GOMP_SPINCOUNT": "1000"}
    assert prepared(monkeypatch, 4.0) == {"GOMP_SPINCOUNT": "1000"}
    assert prepared(monkeypatch, 1.5) == {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"}
    assert prepared(monkeypatch, 0.1)["OMP_NUM_THREADS"] == "1"


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}
    assert prepared(monkeypatch, 2.0, **chosen) == chosen
    assert prepared(monkeypatch, None, GOMP_SPINCOUNT="7") == {"GOMP_SPINCOUNT": "7"}


def test_nothing_is_set_once_torch_is_loaded() -> None:
    environment: dict[str, str] = {}
    assert sys.modules["torch"] is torch
    prepare_threads(environment)
    assert environment == {}


def test_the_package_prepares_threads_before_torch_is_loaded() -> None:
    command = "import os, sys, nat; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    plain = {name: value for name, value in os.environ.items() if name not in threads.CHOSEN_BY_USERS}
    found = subprocess.run([sys.executable, "-c", command], env=plain, capture_output=True, text=True, check=True)
    assert found.stdout == "1000\n"
