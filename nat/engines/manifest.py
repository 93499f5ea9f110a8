"""The manifest of an export: what the folder holds, what it was made from, and how far it agrees with that.

EXPORT/manifest.json    this description; `FORMAT` is its version
       config.yaml      of the run: method, corpus
       tokenizer/       of the run
       model.onnx       CTC, vanilla, fertility: the whole model as one graph, and translate.py, which needs no nat
       encoder.onnx     Mask-Predict, diffusion, refinement, Imputer: the stacks and the output layer, and in
       decoder.onnx     weights.safetensors what lies around them
       output.onnx
       ctranslate2/     the teacher, as CTranslate2 reads it
       index.html       a page that translates in a browser, with model.json, page/ and runtime/, see `nat.web.folder`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat.data.lines import file_digest
from nat.errors import DataError
from nat.files import check_kinds, read_object, write_json

MANIFEST, FORMAT = "manifest.json", 1
KEY = "nat_export"  # of the format's number, the first in the file: by it an export is known
KINDS = {"engine": str, "precision": str, "run": dict, "files": dict}
NAMES = (  # of all files and folders in an export
    MANIFEST, "config.yaml", "tokenizer", "model.onnx", "translate.py", "encoder.onnx", "decoder.onnx", "output.onnx",
    "weights.safetensors", "ctranslate2", "index.html", "model.json", "page", "runtime",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """engine: that computes the folder. precision: of its products. source: the weights that it was made from, for
    people. content: the whole file."""

    engine: str
    precision: str
    source: str
    content: Mapping[str, Any]


def is_export(folder: Path) -> bool:
    """Whether a folder says that it is one; it may be damaged."""
    try:
        with open(folder / MANIFEST, encoding="utf-8", errors="replace") as file:
            return f'"{KEY}":' in file.read(100)
    except OSError:
        return False


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """With the size and the hash of every other file in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files = {str(path.relative_to(folder)): describe_file(path) for path in paths}
    write_json(folder / MANIFEST, {KEY: FORMAT, **content, "files": files})


def describe_file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def read_manifest(folder: Path) -> Manifest:
    """Of an export, all of whose files are those that were written. Raises DataError for one of another version, and
    for a file that is missing, cut short or altered."""
    path = folder / MANIFEST
    content = read_object(path)
    if content.get(KEY) != FORMAT:
        raise DataError(
            f"{path}: an export of format {content.get(KEY)}, this version of nat reads {FORMAT}; export the run again"
        )
    missing = [name for name in KINDS if name not in content]
    if missing:
        raise DataError(f"{path}: damaged or unreadable (it has no {missing[0]})")
    check_kinds(content, KINDS, path)
    check_files(folder, content["files"])
    run = content["run"]
    return Manifest(content["engine"], content["precision"], f"{run.get('weights')} of {run.get('folder')}", content)


def check_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Raises DataError naming the first one that is not as it was written."""
    for name, written in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: this file of the export is missing; export the run again")
        if describe_file(path) != written:
            raise DataError(f"{path}: was changed or cut short since the export was made; export the run again")
