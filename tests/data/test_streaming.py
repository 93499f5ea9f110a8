"""Streams: left anywhere and gone on with, without a second reading; pools, journals, files of one's own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nat.data import lines as reading
from nat.data import streaming
from nat.data.batching import Update, micro_batches
from nat.data.corpus import DataConfig, read_corpus
from nat.data.pairs import Pair
from nat.data.streaming import StreamingCorpus
from nat.data.streams import TextStream
from nat.data.tokenized import prepare
from nat.data.tokenizer import Tokenizers
from nat.errors import ConfigError, DataError

Configure = Callable[..., DataConfig]
TEXT = [(f"Save file {n}", f"Datei {n} speichern") for n in range(57)]
TOKENS = 40


def write(path: Path, rows: list[tuple[str, str]] = TEXT) -> str:
    """A file of the format that its name says."""
    objects = [{"en": source, "de": target} for source, target in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(objects), path, row_group_size=10)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in objects))
    else:
        content = "en\tde\n" + "".join(f"{source}\t{target}\n" for source, target in rows)
        content = content.replace("Save file 20\t", "\n\nSave file 20\t")  # blank lines, which are refused or skipped
        path.write_bytes(
            gzip.compress(content.encode()) if path.suffix == ".gz" else b"\xef\xbb\xbf" + content.encode()
        )
    return str(path)


def stream(config: DataConfig) -> TextStream:
    texts = read_corpus(config, "train")
    assert isinstance(texts, TextStream)
    return texts


@pytest.mark.parametrize("kind", ["tsv", "tsv.gz", "jsonl", "parquet", "pair", "task", "hub", "several"])
def test_rows_are_gone_on_with_from_wherever_they_were_left(kind: str, tmp_path: Path, data: Configure) -> None:
    train: Any = "task:convex_hull?points=5&pairs=57"
    if kind == "pair":
        train = [str(tmp_path / "a.en"), str(tmp_path / "a.de")]
        for path, side in zip(train, zip(*TEXT, strict=True), strict=True):
            Path(path).write_text("\n".join(side) + "\n")
    elif kind == "hub":
        (tmp_path / "hub").mkdir()
        for number in range(2):
            write(tmp_path / "hub" / f"train-{number}.jsonl", TEXT[number::2])
        train = f"hub:{tmp_path / 'hub'}"
    elif kind == "several":
        for number in range(11):
            write(tmp_path / f"part-{number}.tsv", TEXT[5 * number : 5 * number + 5])
        train = f"{tmp_path}/part-*.tsv"
    elif kind != "task":
        train = write(tmp_path / f"a.{kind}")
    texts = stream(data(train=train, streaming=True, on_bad_line="skip"))
    order = list(range(len(texts.readers)))[::-1]
    chunks = [(rows, json.loads(json.dumps(state))) for rows, state in texts.chunks(order, None, 4)]
    assert len(chunks) > 9
    whole = [row for rows, _ in chunks for row in rows]
    key = lambda row: (row["source"], row["target"])  # noqa: E731
    assert sorted(map(key, whole)) == sorted(map(key, texts))
    for number, (_, state) in enumerate(chunks):
        rest = [row for rows, _ in texts.chunks(order, state, 4) for row in rows]
        assert rest == [row for rows, _ in chunks[number + 1 :] for row in rows]


def test_a_place_after_a_line_that_is_too_long(
    tmp_path: Path, data: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 40)
    path = write(tmp_path / "a.tsv", [("x" * 170, "y") if n == 3 else ("Save file", f"Datei {n}") for n in range(9)])
    texts = stream(data(train=path, streaming=True, on_bad_line="skip"))
    chunks = list(texts.chunks([0], None, 1))
    assert sum(row["malformed"] for rows, _ in chunks for row in rows) == 1
    for number, (_, state) in enumerate(chunks):
        assert [rows for rows, _ in texts.chunks([0], state, 1)] == [rows for rows, _ in chunks[number + 1 :]]


def test_neighbours_come_from_several_files(tmp_path: Path, data: Configure) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.tsv", [(f"file {number}", "Datei")] * 9)
    texts = stream(data(train=f"{tmp_path}/*.tsv", streaming=True))
    sources = [rows[0]["source"] for rows, _ in texts.chunks([1, 2, 0], None, 4)]
    assert sources == [f"file {number}" for number in (1, 2, 0, 1, 2, 0, 1, 2, 0)]


def test_files_that_are_not_streamed_are_one_text(tmp_path: Path, data: Configure) -> None:
    for number in range(2):
        write(tmp_path / f"part-{number}.tsv", [(f"file {number}", "Datei")] * 2)
    rows = list(read_corpus(data(train=f"{tmp_path}/*.tsv"), "train"))
    assert [(row["source"], row["line"]) for row in rows] == [
        ("file 0", 2),
        ("file 0", 3),
        ("file 1", 5),
        ("file 1", 6),
    ]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("{}/no-*.tsv", "{}/no-*.tsv: no file has such a name"),
        (["{}/*.en", "{}/*.de"], "2 {}/*.en and 1 {}/*.de: line-aligned files need equally many"),
    ],
)
def test_names_that_do_not_fit(train: Any, words: str, tmp_path: Path, data: Configure) -> None:
    for name in ("a.en", "b.en", "a.de"):
        (tmp_path / name).write_text("x\n")
    given = [item.format(tmp_path) for item in train] if isinstance(train, list) else train.format(tmp_path)
    with pytest.raises(DataError, match="^" + words.format(tmp_path, tmp_path).replace("*", r"\*")):
        read_corpus(data(train=given, streaming=True), "train")


# --- pools -----------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, data: Configure, tokenizers: Tokenizers) -> Callable[..., StreamingCorpus]:
    """A stream of 5 files of 60 pairs each, or of one; that in long/ has 400."""
    folder = tmp_path / "text"
    (folder / "long").mkdir(parents=True)
    for name, size in [(str(number), 60) for number in range(5)] + [("long/1", 400)]:
        write(folder / f"{name}.tsv", [(f"Save file {name[-1]} {n}", f"Datei {n} speichern") for n in range(size)])

    def made(name: str = "*", **options: Any) -> StreamingCorpus:
        config = data(train=f"{folder}/{name}.tsv", streaming=True, shuffle_buffer=20, **options)
        found = prepare(config, "train", tokenizers, filtered=True)
        assert isinstance(found, StreamingCorpus)
        return found

    return made


def run(corpus: StreamingCorpus, first: int, number: int, *, epoch: int = 0, position: int = 0) -> list[list[Pair]]:
    """Updates first, first + 1, ... of a run, over epochs, as the trainer takes them."""
    epoch, position = corpus.resume(first, epoch, position)
    found: list[list[Pair]] = []
    while len(found) < number:
        updates = corpus.updates(TOKENS, seed=1, epoch=epoch, skip=position)
        found += [list(update) for update in islice(updates, number - len(found))]
        epoch, position = epoch + 1, 0
    return found


@pytest.mark.parametrize(("name", "limit"), [("*", None), ("long/1", None), ("*", 247)])
def test_a_run_goes_on_wherever_it_was_stopped(
    name: str, limit: int | None, corpus: Callable[..., StreamingCorpus], tmp_path: Path
) -> None:
    whole = corpus(name, limit=limit).of_rank(0, 1, tmp_path / "journal", fresh=True)
    updates = run(whole, 0, 300)
    length = len(list(corpus(name, limit=limit).updates(TOKENS, seed=1, epoch=0)))
    assert 5 < length < 130
    for first in (0, 1, length - 1, length, length + 1, 44, 2 * length + 3):
        again = corpus(name, limit=limit).of_rank(0, 1, tmp_path / "journal", fresh=False)
        assert run(again, first, 20, epoch=first // length, position=first % length) == updates[first : first + 20]


def test_nothing_is_parsed_a_second_time(
    corpus: Callable[..., StreamingCorpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = corpus("long/1").of_rank(0, 1, tmp_path / "journal", fresh=True)
    length = len(list(whole.updates(TOKENS, seed=1, epoch=0)))
    parsed: list[bytes] = []
    decode = reading._decode
    monkeypatch.setattr(reading, "_decode", lambda raw, **options: parsed.append(raw) or decode(raw, **options))
    again = corpus("long/1").of_rank(0, 1, tmp_path / "journal", fresh=False)
    assert len(run(again, length - 1, 1, position=length - 1)) == 1
    assert 0 < len(parsed) < 100, "the header, and the last pool of 400 pairs"


def test_files_come_in_another_order_each_epoch(
    corpus: Callable[..., StreamingCorpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, chunks = [], TextStream.chunks
    monkeypatch.setattr(
        TextStream, "chunks", lambda self, order, *rest: orders.append(order) or chunks(self, order, *rest)
    )
    for epoch in range(3):
        pairs = [pair for update in corpus().updates(TOKENS, seed=1, epoch=epoch) for pair in update]
        assert len(pairs) == 300
    assert len(set(map(tuple, orders))) == 3
    assert all(sorted(order) == list(range(5)) for order in orders)


def test_a_pool_holds_pairs_and_tokens_enough_and_the_rest() -> None:
    def sizes(number: int, size: int, tokens: int) -> list[tuple[int, int]]:
        chunks = (({"rows": i}, [Pair([7], [8, i])] * 5) for i in range(number))
        return [(begin["rows"], len(pool)) for begin, pool in streaming._pools(chunks, size, tokens)]

    assert sizes(1, 10, 4) == [(0, 5)]
    assert sizes(2, 10, 4) == [(0, 10)]
    assert sizes(3, 10, 4) == [(0, 15)]
    assert sizes(6, 10, 4) == [(0, 10), (2, 10), (4, 10)]
    assert sizes(7, 10, 4) == [(0, 10), (2, 10), (4, 15)]
    assert sizes(6, 1, 40) == [(0, 15), (3, 15)]


def test_a_journal_that_a_kill_has_cut(corpus: Callable[..., StreamingCorpus], tmp_path: Path) -> None:
    whole = corpus().of_rank(0, 1, tmp_path / "journal", fresh=True)
    updates = run(whole, 0, 40)
    (path,) = (tmp_path / "journal").iterdir()
    path.write_text(path.read_text()[:-30])
    again = corpus().of_rank(0, 1, tmp_path / "journal", fresh=False)
    assert run(again, 30, 10) == updates[30:]


# --- ranks -----------------------------------------------------------------------------------------


def test_each_rank_reads_its_own_files(corpus: Callable[..., StreamingCorpus], tmp_path: Path) -> None:
    ranks = [corpus().of_rank(rank, 2, tmp_path / "journal", fresh=True) for rank in range(2)]
    shares = [list(rank.updates(TOKENS, seed=1, epoch=0)) for rank in ranks]
    assert all(update.is_share for share in shares for update in share)
    sizes = [sum(len(pair.target) + 1 for pair in update) for share in shares for update in share]
    assert abs(sum(sizes) / len(sizes) / (TOKENS / 2) - 1) < 0.05
    seen = [[pair for update in share for pair in update] for share in shares]
    assert [len(pairs) for pairs in seen] in ([180, 120], [120, 180])
    everything = [pair for update in corpus().updates(TOKENS, seed=1, epoch=0) for pair in update]
    assert sorted(seen[0] + seen[1]) == sorted(everything)


def test_the_shorter_rank_goes_on_with_its_next_epoch(corpus: Callable[..., StreamingCorpus], tmp_path: Path) -> None:
    """And a resumed one is where it was, whatever the main rank's epoch is."""
    for rank in range(2):
        updates = run(corpus().of_rank(rank, 2, tmp_path / "journal", fresh=True), 0, 60)
        again = corpus().of_rank(rank, 2, tmp_path / "journal", fresh=False)
        assert run(again, 50, 10, epoch=7, position=3) == updates[50:]


@pytest.mark.parametrize(("name", "limit"), [("1", None), ("*", 47)])
def test_ranks_read_all_where_files_cannot_be_parted(
    name: str, limit: int | None, corpus: Callable[..., StreamingCorpus], tmp_path: Path
) -> None:
    ranks = [corpus(name, limit=limit).of_rank(rank, 2, tmp_path / "journal", fresh=True) for rank in range(2)]
    first, second = (run(rank, 0, 20) for rank in ranks)
    assert first == second
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["rank-0-of-1.jsonl"]


def test_another_number_of_ranks_is_refused(corpus: Callable[..., StreamingCorpus], tmp_path: Path) -> None:
    run(corpus().of_rank(0, 2, tmp_path / "run" / "stream", fresh=True), 0, 2)
    with pytest.raises(ConfigError, match="was parted among 2 ranks, and now would be among 4; use as many ranks as"):
        corpus().of_rank(0, 4, tmp_path / "run" / "stream", fresh=False)
    corpus().of_rank(0, 4, tmp_path / "run" / "stream", fresh=True)
    assert not list((tmp_path / "run" / "stream").iterdir())


def test_a_share_is_not_shared_again() -> None:
    pairs = [Pair([7] * n, [8] * n) for n in range(1, 6)]
    share = Update(Update.of(pairs).table, Update.of(pairs).rows, is_share=True)
    keys = []
    for rank in range(2):
        batches = micro_batches(share, lambda s, t: t, rank=rank, num_ranks=2, max_tokens=8)
        assert sum(map(len, batches)) == 5
        keys += [key for batch in batches for key in batch.keys.tolist()]
    assert len(set(keys)) == 10
