"""Files follow the umask, and JSON is what its standard says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nat.errors import DataError
from nat.files import read_json, to_json, write_atomically, write_json
from nat.runs.weights import save_tensors, write_tensors


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_follows_the_umask(tmp_path: Path, umask: int) -> None:
    def several(part: Path) -> None:
        part.mkdir()
        write_tensors({"a": torch.ones(2)}, part / "a.safetensors")
        (part / "b.json").write_text("{}")

    save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    write_json(tmp_path / "b.json", {})
    write_atomically(tmp_path / "folder", several)
    names = ("a.safetensors", "b.json", "folder/a.safetensors", "folder/b.json")
    assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in names} == dict.fromkeys(names, 0o666 & ~umask)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


def test_json_has_null_for_what_it_does_not_know(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [1.5, float("-inf"), {"c": (float("inf"), "ü")}], "d": True}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None, {"c": [None, "ü"]}], "d": True}
    assert to_json(value) == '{"a": null, "b": [1.5, null, {"c": [null, "ü"]}], "d": true}'


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: damaged or unreadable (")
    assert "\n" not in str(error.value)
