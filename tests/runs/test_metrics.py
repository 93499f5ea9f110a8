"""metrics.jsonl: whole lines, a last one that a kill cut off, damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat.errors import DataError
from nat.runs.metrics import read_metrics

LINE = b'{"kind": "train", "update": 50, "nll": 2.5}\n'


def test_lines_in_order_and_none_without_a_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_bytes(LINE + LINE.replace(b"train", b"valid"))
    assert [(point["kind"], point["update"]) for point in read_metrics(tmp_path)] == [("train", 50), ("valid", 50)]


@pytest.mark.parametrize("rest", [b"", b'{"kind": "tr', b'{"kind": "train"', b"\xff", b"\0\0\0", b"5"])
def test_a_last_line_that_was_being_written_is_left_out(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(LINE + rest)
    assert len(read_metrics(tmp_path)) == 1
    (tmp_path / "metrics.jsonl").write_bytes(LINE + LINE.rstrip())  # whole, but for its end
    assert len(read_metrics(tmp_path)) == 2


@pytest.mark.parametrize(
    "damaged",
    [b'{"kind": "tra', b"[]", b'{"update": 1}', b'{"kind": "train"}', b"\0", b"\xff", b"[" * 100_000,
     b'{"kind": "train", "update": "1"}', b'{"kind": 5, "update": 1}', b'{"kind": "train", "update": true}'],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINE + damaged + b"\n")
    with pytest.raises(DataError) as error:
        read_metrics(tmp_path)
    assert str(error.value).startswith(f"{path}, line 2: damaged or unreadable (")
    assert "\n" not in str(error.value)
