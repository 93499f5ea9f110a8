"""What README.md and docs/results show is what was measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *RESULTS.glob("*.md"))}
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", "".join(PAGES.values()), flags=re.DOTALL))
SCRIPT = "scripts/readme_figures.py"


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, root / SCRIPT, "--check"], capture_output=True, text=True, check=False)


def copied(folder: Path) -> Path:
    """What the script needs of the repository."""
    for path in (*PAGES, ROOT / SCRIPT, *RESULTS.glob("*.json")):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def test_every_figure_is_one_of_the_results() -> None:
    assert set(BLOCKS) == {path.stem for path in RESULTS.glob("*.json")} == {
        "quickstart", "systems", "whole", "attention", "points", "modes",
    }  # fmt: skip
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BLOCKS)
def test_every_figure_has_its_date_machine_seed_and_command(name: str) -> None:
    words = " ".join(BLOCKS[name].split())
    assert re.search(r"`[^`]*(bash scripts/|nat-train )[^`]*`, [^,]+, \d+ cores.* seed \d+, 20\d\d-\d\d-\d\d", words)


def test_another_figure_is_seen(tmp_path: Path) -> None:
    root = copied(tmp_path)
    assert check(root).returncode == 0
    path = root / RESULTS.relative_to(ROOT) / "points.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    figures["rows"][0]["10"]["accuracy"] = 12.3
    path.write_text(json.dumps(figures), encoding="utf-8")
    done = check(root)
    assert done.returncode == 1
    assert "docs/results/points.md: not what docs/results holds" in done.stderr


def test_a_block_that_is_missing_is_named(tmp_path: Path) -> None:
    root = copied(tmp_path)
    page = root / "docs" / "results" / "multimodality.md"
    page.write_text(page.read_text(encoding="utf-8").replace("<!-- modes -->", ""), encoding="utf-8")
    done = check(root)
    assert done.returncode == 1
    assert "<!-- modes --> ... <!-- /modes -->: in 0 places" in done.stderr


def test_what_run_folders_lack_stays_as_it_is(tmp_path: Path) -> None:
    root = copied(tmp_path)
    done = subprocess.run([sys.executable, root / SCRIPT, root / "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path: (root / path.relative_to(ROOT)).read_text(encoding="utf-8") for path in PAGES} == PAGES


def test_the_page_is_small() -> None:
    assert (RESULTS / "page.html").stat().st_size < 5_000_000
