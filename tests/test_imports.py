"""Imports run one way: a room imports only from the rooms above it in ROOMS, and no two files import each other.

ops imports torch (and jaxtyping) alone, models do not import one another, and only nat/config.py and
nat/composition.py know OmegaConf and Hydra. Imports under `if TYPE_CHECKING` do not count; those inside functions do.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import nat

PACKAGE = Path(nat.__file__).parent
ROOMS = (  # from the ground up; a file in nat/ itself is a room
    "threads", "errors", "rows", "files", "progress", "config", "composition", "schedule", "table",  # the ground
    "ops", "losses", "data", "nn", "search", "models", "runs", "scoring", "drawing", "decoding", "engines", "web",
    "training", "distill", "evaluation", "serving", "reporting", "doctor", "studies", "bench", "cli",
)  # fmt: skip
MODULES = {
    ".".join(("nat", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LAZY = {"nat"}  # it prepares threads; nat.load imports the translator when it is asked for


def imported(path: Path, module: str) -> set[str]:
    """Full names of what a file imports, at its top and inside functions."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        pending += ast.iter_child_nodes(node)
    return found


def room(module: str) -> int:
    """The place of a module's room in ROOMS; nat itself lies below all."""
    parts = module.split(".")
    if module == "nat":
        return -1
    assert parts[1] in ROOMS, f"{module} is in no room: add it to ROOMS"
    return ROOMS.index(parts[1])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    for name in imported(MODULES[module], module):
        if name.split(".")[0] == "nat" and module not in LAZY:
            assert room(name) <= room(module), f"{module} must not import {name}"
        assert name.split(".")[0] not in ("tests", "conftest", "oracles", "pytest"), f"{module} imports tests"


def test_every_room_is_there() -> None:
    assert {module.split(".")[1] for module in MODULES if module != "nat"} == set(ROOMS)


def test_no_two_files_import_each_other() -> None:
    above = {module: imported(path, module) - {module} for module, path in MODULES.items()}
    circles = [(one, other) for one in above for other in above[one] if one < other and one in above.get(other, ())]
    assert circles == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("nat.ops.")))
def test_ops_import_torch_alone(module: str) -> None:
    outside = {name.split(".")[0] for name in imported(MODULES[module], module)} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "jaxtyping", "nat", "triton"}
    assert all(name.startswith("nat.ops") for name in imported(MODULES[module], module) if name.startswith("nat"))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"nat.config", "nat.composition"}))
def test_only_two_files_know_omegaconf_and_hydra(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(MODULES[module], module)}
    assert not roots & {"omegaconf", "hydra"}


def test_methods_do_not_import_one_another() -> None:
    for module, path in MODULES.items():
        if module.startswith("nat.models."):
            others = {name for name in imported(path, module) if name.startswith("nat.models.")}
            assert others <= {"nat.models.contract", "nat.models.options"}, module


def test_the_parser_sees_imports_inside_functions_and_not_those_for_types(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hydra\ndef f():\n    from nat import rows\n"
    )
    assert imported(path, "sample") == {"typing", "nat.rows"}


def test_cli_files_are_short() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80, path
