"""Fertilities on their way from a file to a batch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.data.batch import Batch
from nat.data.batching import collate, micro_batches
from nat.data.pairs import Pair
from nat.data.tokenized import prepare
from nat.data.tokenizer import Tokenizer, Tokenizers
from nat.errors import ConfigError, DataError

TEXTS = [("Open the file", "Die Datei öffnen"), ("Close", "Schliessen Sie das"), ("Print now, please", "Drucken")]


def spread(num_source: int, num_target: int) -> list[int]:
    """Some fertilities with sum num_target, no two rows of the corpus alike."""
    return [num_target // num_source + (i < num_target % num_source) for i in range(num_source)]


@pytest.fixture
def rows(tokenizers: Tokenizers) -> list[dict[str, Any]]:
    ids = [(tokenizers.source.encode([en])[0], tokenizers.target.encode([de])[0]) for en, de in TEXTS]
    numbers = [spread(len(source), len(target)) for source, target in ids]
    return [{"en": en, "de": de, "fertilities": f} for (en, de), f in zip(TEXTS, numbers, strict=True)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def refusal(config: Any, tokenizers: Tokenizers, split: str = "train") -> str:
    def read() -> None:
        for _ in prepare(config, split, tokenizers, filtered=False).updates(100, seed=1, epoch=0):
            pass

    with pytest.raises(DataError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- from files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.jsonl", "t.json.gz", "t.parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_pairs_have_the_numbers_of_their_row(tmp_path, data, tokenizers, rows, name, streaming):
    config = data(train=write(tmp_path / name, rows), fertilities="fertilities", streaming=streaming)
    corpus = prepare(config, "train", tokenizers, filtered=True)
    pairs = [pair for update in corpus.updates(100, seed=1, epoch=0) for pair in update]
    sources = {tuple(tokenizers.source.encode([row["en"]])[0]): row["fertilities"] for row in rows}
    assert {tuple(pair.source): pair.fertilities for pair in pairs} == sources


def test_a_translation_has_them_beside_it(tmp_path, data, tokenizers, rows):
    nested = [{"translation": {"en": r["en"], "de": r["de"]}, "f": r["fertilities"]} for r in rows]
    for name in ("t.jsonl", "t.parquet"):
        config = data(train=write(tmp_path / name, nested), fertilities="f")
        corpus = prepare(config, "train", tokenizers, filtered=True)
        assert [pair.fertilities for pair in corpus.pairs([0, 1, 2])] == [row["fertilities"] for row in rows]


def test_they_are_read_only_when_asked_for(tmp_path, data, tokenizers, rows):
    path = write(tmp_path / "t.jsonl", rows)
    for name in (None, "fertilities", None):  # texts and tokens are cached: one must not stand for the other
        corpus = prepare(data(train=path, fertilities=name), "train", tokenizers, filtered=True)
        assert all((pair.fertilities is None) == (name is None) for pair in corpus.pairs([0, 1, 2]))


def test_they_come_out_of_the_token_cache(tmp_path, data, tokenizers, rows, monkeypatch):
    config = data(train=write(tmp_path / "t.jsonl", rows), fertilities="fertilities")
    first = prepare(config, "train", tokenizers, filtered=True)
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("tokenised again"))
    assert prepare(config, "train", tokenizers, filtered=True).pairs([2, 0]) == first.pairs([2, 0])


def test_select_and_filters_keep_them_with_their_pair(tmp_path, data, tokenizers, rows):
    config = data(train=write(tmp_path / "t.jsonl", rows), fertilities="fertilities", limit=2)
    corpus = prepare(config, "train", tokenizers, filtered=True).select(np.array([False, True]), "test")
    assert [pair.fertilities for pair in corpus.pairs([0])] == [rows[1]["fertilities"]]


def test_an_empty_target_has_zeros(tmp_path, data, tokenizers, rows):
    rows[1] |= {"de": "", "fertilities": [0] * len(rows[1]["fertilities"])}
    config = data(train=write(tmp_path / "t.jsonl", rows), fertilities="fertilities")
    assert len(prepare(config, "train", tokenizers, filtered=True)) == 2


def test_a_validation_split_may_lack_them(tmp_path, data, tokenizers, rows):
    path = write(tmp_path / "t.jsonl", rows)
    bare = write(tmp_path / "bare.jsonl", [{"en": row["en"], "de": row["de"]} for row in rows])
    (tmp_path / "t.tsv").write_text("en\tde\nOpen\tClose\n")
    for valid, held in ((bare, False), (str(tmp_path / "t.tsv"), False), (path, True)):
        config = data(train=path, valid=valid, fertilities="fertilities")
        pairs = prepare(config, "valid", tokenizers, filtered=False).pairs([0])
        assert (pairs[0].fertilities is not None) == held
        assert (collate(pairs).fertilities is not None) == held


@pytest.mark.parametrize("name", ["bare.parquet", "bare.jsonl"])
def test_a_validation_split_without_them_is_the_same_as_ever(tmp_path, data, tokenizers, rows, name):
    path = write(tmp_path / name, [{"en": row["en"], "de": row["de"]} for row in rows])
    plain = prepare(data(valid=path), "valid", tokenizers, filtered=False)
    asked = prepare(data(valid=path, fertilities="fertilities"), "valid", tokenizers, filtered=False)
    assert plain.fingerprint == asked.fingerprint


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["t.tsv", "t.txt.gz", ["a.en", "a.de"], "hub:some/thing"])
def test_formats_of_text_alone_are_refused(data, train):
    expected = r"data.train=.*: holds no column of numbers for fertilities=f: give a .jsonl, .json or .parquet file"
    with pytest.raises(ConfigError, match=expected):
        data(train=train, fertilities="f")


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_missing_column_is_named(tmp_path, data, tokenizers, rows, name):
    path = write(tmp_path / name, rows)
    where = "row 1" if name == "t.parquet" else "line 1"
    assert refusal(data(train=path, fertilities="f"), tokenizers).startswith(
        f"{path} {where}: no 'f' (there is: en, de"
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_row_that_lacks_them_is_named(tmp_path, data, tokenizers, rows, split):
    del rows[1]["fertilities"]
    path = write(tmp_path / "t.jsonl", rows)
    message = refusal(data(**{split: path}, fertilities="fertilities"), tokenizers, split)
    assert message == f"{path} line 2: no 'fertilities' (there is: en, de)"


@pytest.mark.parametrize("value", ["1 2", [1.5, 2], [True], [-1, 2], None, [1, None], [1 << 31], [[1]], {"a": 1}])
def test_what_is_no_list_of_whole_numbers(tmp_path, data, tokenizers, rows, value):
    rows[2]["fertilities"] = value
    path = write(tmp_path / "t.jsonl", rows)
    message = refusal(data(train=path, fertilities="fertilities"), tokenizers)
    assert message == f"{path} line 3: 'fertilities' is {value}, a list of whole numbers from 0 is needed"


@pytest.mark.parametrize("change", [lambda f: [*f, 0], lambda f: f[:-1] + [f[-1] + 1], lambda f: [], lambda f: f[1:]])
@pytest.mark.parametrize("streaming", [False, True])
def test_numbers_of_another_tokenizer(tmp_path, data, tokenizers, rows, change, streaming):
    rows[1]["fertilities"] = numbers = change(rows[1]["fertilities"])
    path = write(tmp_path / "t.jsonl", rows)
    tokens = [len(t.encode([x])[0]) for t, x in zip((tokenizers.source, tokenizers.target), TEXTS[1], strict=True)]
    assert refusal(data(train=path, fertilities="fertilities", streaming=streaming), tokenizers) == (
        f"{path} line 2: {len(numbers)} fertilities with sum {sum(numbers)}, but this tokenizer makes {tokens[0]} "
        f"source and {tokens[1]} target tokens: they were made with another tokenizer (data.tokenizer.path names one)"
    )


# --- batches ---------------------------------------------------------------------------------------

sentences = st.lists(st.integers(7, 30), min_size=1, max_size=6)
numbered = st.lists(
    st.tuples(sentences, sentences).flatmap(
        lambda p: st.lists(st.integers(0, 4), min_size=len(p[0]), max_size=len(p[0])).map(lambda f: Pair(*p, f))
    ),
    min_size=1,
    max_size=8,
)


@given(numbered, st.integers(1, 3))
def test_micro_batches_carry_them(pairs, num_ranks):
    found = []
    for rank in range(num_ranks):
        for batch in micro_batches(pairs, lambda s, t: t + 1, rank=rank, num_ranks=num_ranks, max_tokens=20):
            found += unpack(batch)
    assert sorted(found) == sorted(pairs)


def unpack(batch: Batch) -> list[Pair]:
    assert batch.fertilities is not None
    assert batch.fertilities.dtype == torch.long
    assert not batch.fertilities[~batch.source.valid].any()
    numbers = [row[keep].tolist() for row, keep in zip(batch.fertilities, batch.source.valid, strict=True)]
    lists = (batch.source.to_lists(), batch.target.to_lists(), numbers)
    return [Pair(*row) for row in zip(*lists, strict=True)]


@given(numbered)
def test_rows_and_compact_move_them_with_the_source(pairs):
    batch = collate(pairs)
    assert unpack(batch) == pairs
    flipped = Batch(
        batch.source.map(lambda t: t.flip(1)),
        batch.target,
        None if batch.fertilities is None else batch.fertilities.flip(1),
    )
    compact = flipped.compact()
    assert compact.source.valid.equal(batch.source.valid)
    backwards = [Pair(p.source[::-1], p.target, p.fertilities[::-1]) for p in pairs]
    assert unpack(compact) == backwards
    assert unpack(batch.select(torch.arange(len(pairs) - 1, -1, -1))) == pairs[::-1]
    assert unpack(batch.to("cpu").repeat_rows(2)) == [pair for pair in pairs for _ in range(2)]


def test_pairs_without_them_make_a_batch_without_them():
    batch = collate([Pair([7, 8], [9]), Pair([7], [])])
    assert batch.fertilities is None
    assert batch.compact().select(torch.tensor([1])).fertilities is None
    assert batch.target.tokens.shape == (2, 1)
