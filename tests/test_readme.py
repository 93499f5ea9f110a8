"""What README.md and docs/results show is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nat.reporting.published import main

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *RESULTS.glob("*.md"))}
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", "".join(PAGES.values()), flags=re.DOTALL))


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is needed of the repository, and where the work is done."""
    for path in (*PAGES, *RESULTS.glob("*.json")):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_figure_is_one_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(BLOCKS) == {path.stem for path in RESULTS.glob("*.json")} == {
        "quickstart", "systems", "single", "few", "whole", "fast", "engines", "attention", "points", "modes",
    }  # fmt: skip
    monkeypatch.chdir(ROOT)
    main(["--check"])


@pytest.mark.parametrize("name", BLOCKS)
def test_every_figure_has_its_date_machine_seed_and_command(name: str) -> None:
    words = " ".join(BLOCKS[name].split())
    command = r"`[^`]*(bash scripts/|nat-train )[^`]*`"
    assert re.search(rf"{command}, [^,]+, \d+ cores.* seed \d+(, \d+)*, 20\d\d-\d\d-\d\d", words)


def test_another_figure_is_seen(copied: Path) -> None:
    main(["--check"])
    path = copied / RESULTS.relative_to(ROOT) / "points.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    figures["rows"][0]["10"]["accuracy"] = 12.3
    path.write_text(json.dumps(figures), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^docs/results/points\.md: not what docs/results holds$"):
        main(["--check"])


def test_a_block_that_is_missing_is_named(copied: Path) -> None:
    page = copied / "docs" / "results" / "multimodality.md"
    page.write_text(page.read_text(encoding="utf-8").replace("<!-- modes -->", ""), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^<!-- modes --> \.\.\. <!-- /modes -->: in 0 places"):
        main(["--check"])


def test_what_run_folders_lack_stays_as_it_is(copied: Path) -> None:
    main(["runs"])
    assert {path: (copied / path.relative_to(ROOT)).read_text(encoding="utf-8") for path in PAGES} == PAGES


def test_what_run_folders_have_is_shown(copied: Path) -> None:
    results = copied / "runs" / "quickstart" / "results.json"
    rows = json.loads((RESULTS / "quickstart.json").read_text(encoding="utf-8"))["rows"]
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps([rows[0] | {"bleu": 98.765}, *rows[1:]]), encoding="utf-8")
    main(["runs"])
    changed = [path for path in PAGES if (copied / path.relative_to(ROOT)).read_text(encoding="utf-8") != PAGES[path]]
    assert len(changed) == 1
    assert "| 98.77 |" in (copied / changed[0].relative_to(ROOT)).read_text(encoding="utf-8")
    main(["--check"])


def test_the_page_is_small() -> None:
    assert (RESULTS / "page.html").stat().st_size < 5_000_000


def test_the_budget_of_the_comparison_is_that_of_most_systems(copied: Path) -> None:
    path = copied / RESULTS.relative_to(ROOT) / "systems.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    for row in figures["rows"]:
        row["training_updates"] = 9000 if row["training_updates"] == 9000 else 20
    path.write_text(json.dumps(figures), encoding="utf-8")
    main(["runs"])
    assert "20 updates of 512 target" in (copied / "docs" / "results" / "index.md").read_text(encoding="utf-8")
