"""Imports run one way.

    cli -> training, evaluation, distill, translator -> models -> decoding.beam, decoding.refine, nn, losses
    -> ops, data, rows -> config, files, progress -> errors

ops imports torch (and jaxtyping) alone. `decoding` has two rooms: beam and refine, drivers that know no model and
that models call, lie below models; batched and candidates, which call models, lie above. Only nat/config.py knows
OmegaConf and Hydra. Imports under `if TYPE_CHECKING` do not count; those inside functions do.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import nat

PACKAGE = Path(nat.__file__).parent
LAYERS: list[set[str]] = [  # from the bottom; a module may import from its own layer and from those below
    {"nat", "nat.errors"},
    {"nat.config", "nat.files", "nat.progress", "nat.rows", "nat.ops", "nat.schedule"},
    {"nat.data"},
    {
        "nat.nn",
        "nat.losses",
        "nat.decoding.beam",
        "nat.decoding.refine",
        "nat.decoding.editing",
        "nat.decoding.insertion",
        "nat.decoding.pair",
        "nat.decoding.arpa",
        "nat.decoding.language_model",
    },
    {"nat.models"},
    {"nat.decoding"},
    {"nat.training", "nat.evaluation.scores", "nat.evaluation.polygons"},
    {"nat.translator"},
    {"nat.evaluation", "nat.distill", "nat.lm"},
    {"nat.cli"},
]
MODULES = {
    ".".join(("nat", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LAZY = {"nat"}  # nat.load imports the translator when it is asked for


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


def layer(module: str) -> int:
    """The layer of the longest listed name that holds this module."""
    names = {name: number for number, level in enumerate(LAYERS) for name in level}
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if ".".join(parts[:end]) in names:
            return names[".".join(parts[:end])]
    if module == "nat":
        return 0
    raise AssertionError(f"{module} belongs to no layer: add it to LAYERS")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    for name in imported(MODULES[module], module):
        if name.split(".")[0] == "nat" and module not in LAZY:
            assert layer(name) <= layer(module), f"{module} must not import {name}"
        assert name.split(".")[0] not in ("tests", "conftest", "oracles", "pytest"), f"{module} imports tests"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("nat.ops.")))
def test_ops_import_torch_alone(module: str) -> None:
    outside = {name.split(".")[0] for name in imported(MODULES[module], module)} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "jaxtyping", "nat", "triton"}
    assert all(name.startswith("nat.ops") for name in imported(MODULES[module], module) if name.startswith("nat"))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"nat.config"}))
def test_only_config_knows_omegaconf_and_hydra(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(MODULES[module], module)}
    assert not roots & {"omegaconf", "hydra"}


def test_methods_do_not_import_one_another() -> None:
    for module, path in MODULES.items():
        if module.startswith("nat.models."):
            others = {name for name in imported(path, module) if name.startswith("nat.models.")}
            assert others <= {"nat.models.base"}, module


def test_the_parser_sees_imports_inside_functions_and_not_those_for_types(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hydra\ndef f():\n    from nat import rows\n"
    )
    assert imported(path, "sample") == {"typing", "nat.rows"}


def test_cli_files_are_short() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 100, path
