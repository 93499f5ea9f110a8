"""What a text file may hold, and how it is refused: in one sentence, without waiting and without filling the memory."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nat.data.corpus import DataConfig, read_corpus
from nat.errors import DataError

PAIR = '{"en": "a", "de": "b"}\n'
LONG = "x" * (17 << 20)


def write(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode(), 1) if path.suffix == ".gz" else text.encode())
    return str(path)


def refusal(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        list(read_corpus(config, "train"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", f"en\tde\n{LONG}\tb\n"),
        ("t.tsv.gz", f"en\tde\na\t{LONG}"),
        ("t.jsonl.gz", PAIR + json.dumps({"en": LONG, "de": "b"})),
    ],
)
def test_a_line_that_is_no_sentence_is_refused(
    name: str, text: str, streaming: bool, tmp_path: Path, data: Callable[..., DataConfig]
) -> None:
    path = write(tmp_path / name, text)
    message = refusal(data(train=path, streaming=streaming))
    assert message.startswith(f"{path} line 2: longer than 16 MiB, which no sentence is (")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PAIR + '{"en": ' + "[" * 100_000, "{} line 2: not a JSON object (its values are nested too deeply)"),
        (json.dumps([json.loads(PAIR)]), "{} line 1: not a JSON object (it is an array; one object a line is needed)"),
        (json.dumps([1], indent=1), "{} line 1: not a JSON object (it begins an array; one object a line is needed)"),
        (PAIR + "\n" + PAIR, "{} line 2: not a JSON object (Expecting value: line 1 column 1 (char 0))"),
    ],
)
def test_json_that_is_not_one_object_a_line(
    text: str, message: str, tmp_path: Path, data: Callable[..., DataConfig]
) -> None:
    path = write(tmp_path / "t.json", text)
    assert refusal(data(train=path)) == message.format(path)


@pytest.mark.parametrize(("name", "text"), [("t.jsonl", PAIR), ("t.tsv", "en\tde\na\tb\n")])
def test_blank_last_lines_are_no_rows(name: str, text: str, tmp_path: Path, data: Callable[..., DataConfig]) -> None:
    rows = list(read_corpus(data(train=write(tmp_path / name, text + "\n \n\n")), "train"))
    assert [(row["source"], row["target"]) for row in rows] == [("a", "b")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl", "t.parquet"])
def test_a_named_pipe_is_refused_at_once(
    name: str, streaming: bool, tmp_path: Path, data: Callable[..., DataConfig]
) -> None:
    os.mkfifo(tmp_path / name)
    message = refusal(data(train=str(tmp_path / name), streaming=streaming, fertilities=None))
    assert message.startswith(f"{tmp_path / name}: no regular file (a pipe or a device), and it is read more than once")


def test_a_pipe_of_the_shell_is_refused(data: Callable[..., DataConfig]) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"a\n")
        assert f"/dev/fd/{reading}: no regular file" in refusal(data(train=[f"/dev/fd/{reading}"] * 2))
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_read_once_may_be_a_pipe(tmp_path: Path) -> None:
    from nat.data.lines import read_lines

    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\nb\n",))
    writer.start()
    assert list(read_lines(tmp_path / "pipe")) == ["a", "b"]
    writer.join()
