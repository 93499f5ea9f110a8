"""The token store: made in pieces by processes, resumed, and the same as what was tokenised."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nat.data import store, tokenizing
from nat.data.cache import cached
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.errors import DataError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE", 100)
    monkeypatch.setattr(tokenizing, "ENCODED_AT_ONCE", 30)


@pytest.fixture
def prepared(data, small_text, tokenizers):
    """600 pairs, in so many processes."""

    def make(num_workers: int = 1) -> TokenizedCorpus:
        config = data(train=str(small_text), columns=["en", "de"], num_workers=num_workers)
        return prepare(config, "train", tokenizers, filtered=False)

    return make


@pytest.mark.parametrize("num_workers", [1, 2])
def test_it_holds_what_the_tokenizers_make(prepared, tokenizers, num_workers, cache):
    corpus = prepared(num_workers)
    sources, targets = corpus.texts(range(600))
    pairs = corpus.pairs(range(600))
    assert [pair.source for pair in pairs] == tokenizers.source.encode(sources)
    assert [pair.target for pair in pairs] == tokenizers.target.encode(targets)
    assert corpus.table.source.values.dtype == np.uint16
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    expected = {f"{name}.npy" for name in ("source", "source_offsets", "target", "target_offsets", "words")}
    assert {path.name for path in folder.iterdir()} == expected


def test_a_large_vocabulary_needs_wider_ids(tokenizers, monkeypatch):
    assert store.id_type(tokenizers) is np.uint16
    monkeypatch.setattr(type(tokenizers.source), "size", (1 << 16) + 1)
    assert store.id_type(tokenizers) is np.int32


@contextmanager
def ending_after(count: int, error: type[BaseException]) -> Iterator[None]:
    """Inside, a build ends after so many pieces, and is the error expected."""
    encode_piece, made = store.encode_piece, []

    def until(*arguments) -> None:
        if len(made) == count:
            raise error("here")
        made.append(encode_piece(*arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "encode_piece", until)
        with pytest.raises(error, match="here"):
            yield


def unfinished(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/.*.pieces"))


def test_an_interrupted_build_goes_on_where_it_was(prepared, cache):
    with ending_after(4, KeyboardInterrupt):
        prepared()
    assert len(list(unfinished(cache)[0].glob("piece-*.npz"))) == 4
    with ending_after(1, KeyboardInterrupt):
        prepared()
    assert len(list(unfinished(cache)[0].glob("piece-*.npz"))) == 5
    assert len(prepared()) == 600
    assert unfinished(cache) == []


def test_pieces_that_nobody_goes_on_with_are_cleared_after_a_day(prepared, cache):
    with ending_after(4, KeyboardInterrupt):
        prepared()
    (folder,) = unfinished(cache)
    cached(cache, "other/one", lambda path: None, lambda path: path)
    assert folder.is_dir()
    long_ago = time.time() - 2 * 86_400
    os.utime(folder, (long_ago, long_ago))
    cached(cache, "other/one", lambda path: None, lambda path: path)
    assert not folder.exists()


def test_a_build_that_fails_leaves_nothing(prepared, cache):
    with ending_after(2, DataError):
        prepared()
    assert unfinished(cache) == []


def test_what_is_wrong_is_said_by_the_process_that_finds_it(tmp_path, data, tokenizers, cache):
    path = tmp_path / "t.jsonl"
    tokens = len(tokenizers.target.encode(["a"])[0])
    good, bad = (f'{{"en": "a", "de": "a", "f": [{number}]}}\n' for number in (tokens, 77))
    path.write_text(good * 350 + bad + good * 9)
    config = data(train=str(path), fertilities="f", num_workers=2)
    with pytest.raises(DataError, match=r"t\.jsonl line 351: 1 fertilities with sum 77"):
        prepare(config, "train", tokenizers, filtered=False)
    assert unfinished(cache) == []


def test_a_process_that_was_killed_is_no_endless_wait(prepared, monkeypatch):
    monkeypatch.setattr(store, "MODULE", "nat.no_such_module")
    with pytest.raises(DataError, match=r"a process that tokenises has ended .*data\.num_workers"):
        prepared(2)


def test_what_a_model_accepts_is_worked_out_once(prepared, cache):
    corpus = prepared()
    asked = []

    def short(batch):
        asked.append(len(batch))
        return (batch.source.lengths < 12).numpy()

    first = corpus.only(short, "too long", "short")
    assert sum(asked) == 600
    assert first.rows.tolist() == np.flatnonzero(corpus.source_lengths < 12).tolist()
    again = prepared().only(short, "too long", "short")
    assert sum(asked) == 600
    assert (again.rows.tolist(), again.report) == (first.rows.tolist(), first.report)
    everything = corpus.only(lambda batch: np.ones(len(batch), dtype=bool), "nothing", "other")
    assert len(everything) == 600
    corpus.select(corpus.source_lengths < 30, "other pairs").only(short, "too long", "short")
    assert sum(asked) > 600
