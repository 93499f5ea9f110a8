"""Parts of a long check: what becomes of one that works, fails, takes too long, or comes too late."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from nat.bench.part import add_part, main, run_part

WRITES = "import json, sys; json.dump({'a': 1}, open(sys.argv[1], 'w')); print('table')"


def test_a_part_leaves_figures_and_output(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    shown = add_part(path, "works", [sys.executable, "-c", WRITES, "RESULT"], seconds=30, all_seconds=60)
    assert shown.startswith("== works: ok, ") and shown.endswith("\ntable\n\n")
    part = json.loads(path.read_text())["parts"]["works"]
    assert (part["status"], part["code"], part["figures"]) == ("ok", 0, {"a": 1})
    assert "== works: " in path.with_suffix(".log").read_text()


def test_what_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "check.json"
    fails = "import sys; print('so far'); sys.exit('the reason')"
    for name, code in (("fails", fails), ("works", "print(1)")):
        main([str(path), "60", name, "30", sys.executable, "-c", code])
    assert "== fails: failed, 0 s\nso far\nthe reason\n" in capsys.readouterr().out
    parts = json.loads(path.read_text())["parts"]
    assert parts["fails"]["code"] == 1 and parts["fails"]["errors"] == "the reason\n"
    assert parts["works"]["status"] == "ok" and parts["works"]["figures"] is None


def test_what_takes_too_long_is_ended_with_its_processes(tmp_path: Path) -> None:
    """It gets a moment to say what it has; what it wrote before is kept."""
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1], 'w').write('[7]'); print('begun', child.pid, flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('ended')"
    )
    part = run_part([sys.executable, "-c", script, "RESULT"], seconds=1.5)
    assert (part.status, part.figures) == ("too long", [7]) and part.seconds < 10
    assert part.output.endswith("ended\n")
    child = Path("/proc") / part.output.split()[1]
    for _ in range(50):  # until it is gone, or dead and not yet collected
        if not child.exists() or ") Z " in (child / "stat").read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the child still runs")


def test_nothing_begins_when_the_time_is_used_up(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    path.write_text(json.dumps({"began": time.time() - 100, "parts": {"first": {}}}))
    shown = add_part(path, "late", [sys.executable, "-c", "raise SystemExit(1)"], seconds=30, all_seconds=105)
    assert shown == "== late: left out, 105 s were used up\n"
    assert json.loads(path.read_text())["parts"] == {
        "first": {},
        "late": {"status": "left out", "errors": "105 s were used up"},
    }
