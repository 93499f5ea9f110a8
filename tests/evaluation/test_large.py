"""nat-decode in shards: the same translations, of any text, after any kill and on any ranks."""

from __future__ import annotations

import gc
import gzip
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import workers
from builders import command

from nat.distill.shards import Shards
from nat.evaluation import large
from nat.evaluation.speed import Timed

LINES = [f"Open file {n}" if n % 7 else "" for n in range(23)]
FAST = ["device=cpu", "speed=false", "decoding.batch_size=4"]


@pytest.fixture
def arguments(tiny_runs: dict[str, Path], tmp_path: Path) -> list[str]:
    (tmp_path / "text.en").write_text("".join(f"{line}\n" for line in LINES))
    return [f"run_dir={tiny_runs['ctc']}", f"source={tmp_path / 'text.en'}", f"output={tmp_path / 'text.de'}", *FAST]


def decode(*arguments: str) -> int:
    return command(*arguments, name="decode")


@pytest.fixture
def expected(arguments: list[str], tmp_path: Path) -> tuple[bytes, dict[str, Any]]:
    """What nat-decode writes at once, and its report."""
    assert decode(*arguments) == 0
    files = [tmp_path / "text.de", tmp_path / "text.de.json"]
    found = files[0].read_bytes(), json.loads(files[1].read_text())
    for path in files:
        path.unlink()
    return found


@pytest.mark.parametrize("size", [1, 5, 100])
def test_shards_are_joined_to_what_is_written_at_once(
    size: int,
    arguments: list[str],
    expected: tuple[bytes, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.en.gz").write_bytes(gzip.compress((tmp_path / "text.en").read_bytes()))
    source = f"source={tmp_path / 'text.en.gz'}"
    capsys.readouterr()
    assert decode(*arguments, source, f"shard_size={size}") == 0
    assert "sentences 23: empty 4, at the length limit" in capsys.readouterr().out
    assert (tmp_path / "text.de").read_bytes() == expected[0]
    report = json.loads((tmp_path / "text.de.json").read_text())
    for name in report.keys() & expected[1].keys() - {"text", "date"}:
        assert report[name] == pytest.approx(expected[1][name]), name
    assert (report["num_shards"], report["num_ranks"]) == (-(-23 // size), 1)
    assert {"passes", "num_empty", "num_truncated", "num_empty_translations", "model"} <= report.keys()
    assert not (tmp_path / "text.de.parts").exists()


def test_what_was_killed_goes_on(
    arguments: list[str],
    expected: tuple[bytes, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[int] = []
    write = Shards.write

    def killed(self: Shards, shard: int, *rest: Any) -> None:
        if len(made) == 3:
            raise SystemExit(9)
        made.append(shard)
        write(self, shard, *rest)

    monkeypatch.setattr(Shards, "write", killed)
    assert decode(*arguments, "shard_size=4") == 9
    assert not (tmp_path / "text.de").exists()
    monkeypatch.setattr(Shards, "write", lambda self, shard, *rest: made.append(shard) or write(self, shard, *rest))
    monkeypatch.setattr(large.LargeText, "read", None)  # once is enough
    capsys.readouterr()
    assert decode(*arguments, "shard_size=5") == 2
    assert capsys.readouterr().err == (
        f"nat-decode: output={tmp_path}/text.de.parts: holds a translation with other shard_size; "
        "choose another output, or delete it\n"
    )
    assert decode(*arguments, "shard_size=4") == 0
    assert made == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "text.de").read_bytes() == expected[0]


def test_no_shard_is_held_in_memory(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[weakref.ref[Any]] = []
    translate = large.translate_timed

    def watched(*given: Any, **options: Any) -> Timed:
        gc.collect()
        assert not any(candidates() is not None for candidates in earlier)
        timed = translate(*given, **options)
        earlier.extend(map(weakref.ref, timed.candidates))
        return timed

    monkeypatch.setattr(large, "translate_timed", watched)
    assert decode(*arguments, "shard_size=5") == 0
    assert len(earlier) == 23


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Open\n\xff\n", "text.en line 2: not UTF-8"),
        (b"Open\nOpen\nOpen" + 5000 * b" Open" + b"\n", "text.en, line 3: "),
        (b"", "text.en: there is no line in it"),
    ],
)
def test_a_bad_text_is_refused_and_nothing_is_left(
    content: bytes, words: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.en").write_bytes(content)
    assert decode(*arguments, "shard_size=2") == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.en"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source=-", "shard_size=5: needs source=FILE and output=FILE"),
        ("source=null", "shard_size=5: needs source=FILE and output=FILE"),
        ("output=null", "shard_size=5: needs source=FILE and output=FILE"),
        ("output=/dev/stdout", "shard_size=5: needs source=FILE and output=FILE"),
        ("reference=x.de", "reference=x.de: has no effect with shard_size=5"),
        ("history=x.jsonl", "history=x.jsonl: has no effect with shard_size=5"),
        ("shard_size=0", "shard_size=0: must be at least 1 and at most 1000000000"),
    ],
)
def test_refusals(override: str, words: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert decode(*arguments, "shard_size=5", override) == 2
    assert capsys.readouterr().err.strip() == f"nat-decode: {words}"


@pytest.mark.slow
def test_two_ranks_give_the_same_bytes(
    arguments: list[str], expected: tuple[bytes, dict[str, Any]], tmp_path: Path
) -> None:
    port, log = workers.free_port(), str(tmp_path / "log")
    given = [*arguments, "shard_size=3"]
    ranks = [
        workers.start(workers.command, given, log, workers.rank_environment(rank, 2, port), module="nat.cli.decode")
        for rank in range(2)
    ]
    assert [workers.finish(rank) for rank in ranks] == [0, 0], Path(log).read_text()
    assert (tmp_path / "text.de").read_bytes() == expected[0]
    assert json.loads((tmp_path / "text.de.json").read_text())["num_ranks"] == 2
