"""The file of how translations were made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import nat
from nat.decoding.history import CandidateHistory, Pass, SentenceHistory, read_history, write_history
from nat.errors import DataError
from nat.search.canvas import Fate

PASSES = [
    Pass(["▁die", "▁die"], [-0.25, -1.5], [Fate.WRITTEN, Fate.MASKED]),
    Pass(
        ["▁die", "▁die", "<blank>"],
        [-0.25, -1.5, -0.5],
        [Fate.KEPT, Fate.DELETED, Fate.INSERTED],
        [(0, 2, -0.5), (2, 4, -1.25)],
    ),
]
SENTENCE = SentenceHistory(
    index=3,
    source="the “file”\u2028",
    reference=None,
    chosen=1,
    num_passes=2,
    truncated=False,
    candidates=[
        CandidateHistory("", [], None, None, None, None, []),
        CandidateHistory("die", ["▁die"], -2.5, -2.5, -1.25, None, PASSES),
    ],
    line=8,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write_history(path, [SENTENCE, SENTENCE])
    assert read_history(path) == nat.read_history(str(path)) == [SENTENCE, SENTENCE]
    assert SENTENCE.translation.text == "die"
    assert PASSES[1].left == ["▁die", "<blank>"]
    plain = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert plain["candidates"][1]["passes"][1]["fate"] == ["kept", "deleted", "inserted"]
    assert "links" not in plain["candidates"][1]["passes"][0]
    assert plain["candidates"][1]["passes"][1]["links"] == [[0, 2, -0.5], [2, 4, -1.25]]
    assert plain["line"] == 8


def test_what_has_no_number_in_json_is_null(tmp_path: Path) -> None:
    lost = CandidateHistory("", [], -math.inf, -1 / 3, None, None, [])
    path = tmp_path / "history.jsonl"
    write_history(path, [SentenceHistory(0, "a", "b", 0, 1, True, [lost])])
    (found,) = read_history(path)
    assert found.translation.score is None
    assert found.translation.mean_score == -0.3333
    assert found.line is None


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("source"),
        lambda plain: plain.update(more=1),
        lambda plain: plain.update(chosen=2),
        lambda plain: plain["candidates"][1]["passes"][0]["fate"].append("kept"),
        lambda plain: plain["candidates"][1]["passes"][0].update(fate=["kept", "lost"]),
        lambda plain: plain["candidates"][0].update(more=1),
    ],
)
def test_a_line_that_is_no_history_is_named(change, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plain = SENTENCE.to_plain()
    change(plain)
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(SENTENCE.to_plain()) + "\n" + json.dumps(plain) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"^{path}, line 2: not a line of a decoding history"):
        read_history(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_history(tmp_path / "nowhere")
    (tmp_path / "list").write_text("[1]\n")
    with pytest.raises(DataError, match="list, line 1: not a line"):
        read_history(tmp_path / "list")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="damaged or unreadable"):
        read_history(tmp_path / "bytes")
