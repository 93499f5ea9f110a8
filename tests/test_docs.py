"""Every command of README.md, CONTRIBUTING.md and docs/ runs, the pages link to what is there, and they become a site.

Each page is read from top to bottom in a folder of its own. What stands as runs/NAME without having been made on the
page is a stand-in made by RUNS. tests/shell.py makes all of it quick: `bash scripts/NAME.sh` composes and checks
every command of that script here, and runs them under the mark `slow`.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from shell import PROJECT, ROOT, Shell
from test_imports import ROOMS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICK = ("README.md", "CONTRIBUTING.md", "first-hour.md", "your-own-text.md", "python.md", "add-a-decoder.md")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
KINDS = ("bash", "python", "text")  # text: nothing that can be run
MAKES = re.compile(r"nat(?:-|\.cli\.)(?:train|distill) (?:[^\n]|\\\n)*?(?:run_dir|output)=runs/(\w+)(?![\w/])")
STUDENT = "data.train=runs/distilled/train.jsonl data.tokenizer.path=runs/teacher/tokenizer"
RUNS = {
    "teacher": "nat-train experiment=small run_dir=runs/teacher",
    "distilled": "nat-distill teacher=runs/teacher output=runs/distilled",
    "fertile": "nat-distill teacher=runs/teacher output=runs/fertile fertilities=attention",
    **{
        name: f"nat-train experiment=small/{name} {STUDENT} run_dir=runs/{name}"
        for name in ("ctc", "vanilla", "mask_predict", "levenshtein", "insertion", "kermit")
    },
    "imputer": f"nat-train experiment=small/imputer {STUDENT} init_from=runs/ctc run_dir=runs/imputer",
    "fertility": "nat-train experiment=small/fertility data.train=runs/fertile/train.jsonl run_dir=runs/fertility "
    "data.tokenizer.path=runs/teacher/tokenizer",
    "hull": "nat-train experiment=small/pointer run_dir=runs/hull",
    "small": """nat-train experiment=small run_dir=runs/small/teacher
        nat-distill teacher=runs/small/teacher output=runs/small/compare/text-distilled
        nat-train experiment=small/ctc data.train=runs/small/compare/text-distilled/train.jsonl \
            data.tokenizer.path=runs/small/teacher/tokenizer run_dir=runs/small/compare/ctc-distilled""",
}


@dataclass(frozen=True)
class Block:
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(kind, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, kind, text in found]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    shell = Shell()
    yield shell
    shell.close()


def write_own_text(text: Path, folder: Path) -> None:
    """train.en, train.de ...: a reader's own text."""
    for split in ("train", "valid", "test"):
        rows = gzip.decompress((text / "lohelp" / f"{split}.tsv.gz").read_bytes()).decode().splitlines()
        for language, column in zip(("en", "de"), zip(*(row.split("\t") for row in rows), strict=True), strict=True):
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in column), encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read(page: Path, shell: Shell, folder: Path, *, scripts: str) -> None:
    """Run a page from top to bottom."""
    shell.checkout(folder)
    write_own_text(shell.text, folder)
    made: set[str] = set()
    for number, block in enumerate(blocks(page)):
        if block.kind in ("bash", "python"):
            made |= set(MAKES.findall(block.text))
            shell.prepare(block.text, folder, {name: command for name, command in RUNS.items() if name not in made})
            if block.kind == "python":
                (folder / f"block{number}.py").write_text(block.text, encoding="utf-8")
            shell.run(block.text if block.kind == "bash" else f"python block{number}.py", folder, scripts=scripts)


@pytest.mark.parametrize(
    "page", [page if page.name in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES], ids=name_of
)
def test_commands_run(page: Path, shell: Shell, tmp_path: Path) -> None:
    read(page, shell, tmp_path, scripts="compose")


SCRIPTED = [page for page in PAGES if "bash scripts/" in page.read_text(encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", SCRIPTED, ids=name_of)
def test_scripts_run(page: Path, shell: Shell, tmp_path: Path) -> None:
    read(page, shell, tmp_path, scripts="run")


def test_the_results_page_asks_for_every_run_that_is_there(shell: Shell, tmp_path: Path) -> None:
    folder = shell.checkout(tmp_path)
    recipes = re.findall(r"^(?:for .*)?row (\w+) ", (folder / "scripts" / "results_page.sh").read_text(), re.MULTILINE)
    runs = ["small/teacher", "small/ctc", "hull", "hull_parallel", *(f"small/compare/{r}-raw" for r in recipes)]
    for run in runs:
        (folder / "runs" / run).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / run / "run.json").touch()
    shell.run("bash scripts/results_page.sh runs", folder)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page: Path) -> None:
    assert {block.kind for block in blocks(page)} <= set(KINDS)
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http", "#", "mailto")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_command_is_shown() -> None:
    shown = " ".join(block.text for page in PAGES for block in blocks(page) if block.kind == "bash")
    assert not [command for command in PROJECT["scripts"] if f"{command} " not in shown]


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert max(map(len, lines)) <= 120


def test_the_house_has_its_rooms_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)/?` \|", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(rows) == ROOMS


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if f" {page}\n" not in navigation]


def test_the_site_is_built(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "results" / "page.html").is_file()
