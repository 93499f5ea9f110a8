from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nat.data import streaming as streams
from nat.data.batching import micro_batches
from nat.data.lines import read_lines
from nat.data.pairs import Pair, PairTable
from nat.data.streaming import StreamingCorpus
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizer
from nat.errors import DataError

TOKENS = 700


def listed(updates) -> list[list[Pair]]:
    return [list(update) for update in updates]


@pytest.fixture
def text(small_text: Path) -> dict:
    return {"train": str(small_text), "valid": str(small_text), "columns": ["en", "de"]}


def test_pairs_and_texts_are_those_of_the_file(data, text, tokenizers, small_text):
    corpus = prepare(data(**text), "valid", tokenizers, filtered=False)
    lines = [line.split("\t") for line in read_lines(small_text)]
    assert len(corpus) == len(lines) == 600
    sources, targets = corpus.texts([5, 3, 599])
    assert list(zip(sources, targets, strict=True)) == [tuple(lines[n]) for n in (5, 3, 599)]
    for pair, source, target in zip(corpus.pairs([5, 3, 599]), sources, targets, strict=True):
        assert pair.source == tokenizers.source.encode([source])[0]
        assert pair.target == tokenizers.target.encode([target])[0]
    assert corpus.lines.tolist() == list(range(1, 601))


def test_lengths_follow_the_filters(data, text, tokenizers):
    config = data(**text, max_words=9, filters={"max_ratio": 1.5, "ratio_from": 3})
    corpus = prepare(config, "train", tokenizers, filtered=True)
    pairs = corpus.pairs(np.arange(len(corpus)))
    assert corpus.source_lengths.tolist() == [len(pair.source) for pair in pairs]
    assert corpus.target_lengths.tolist() == [len(pair.target) for pair in pairs]
    assert corpus.source_lengths.dtype == corpus.target_lengths.dtype == np.int32
    assert len(corpus) == corpus.report.kept < 600
    everything = prepare(data(**text), "valid", tokenizers, filtered=False)
    assert corpus.texts([7])[0] == everything.texts([corpus.lines[7] - 1])[0]


def test_filters_are_for_training_alone(data, text, tokenizers):
    config = data(**text, filters={"max_tokens": 5})
    assert len(prepare(config, "valid", tokenizers, filtered=False)) == 600
    assert len(prepare(config, "train", tokenizers, filtered=True)) < 600


@pytest.mark.parametrize("streaming", [False, True])
def test_limit_counts_what_passes_the_filters(data, text, tokenizers, streaming, monkeypatch):
    monkeypatch.setattr(streams, "READ_AT_ONCE", 40)  # the limit falls into a later piece of the stream
    config = data(**text, limit=20, max_words=4, streaming=streaming)
    corpus = prepare(config, "train", tokenizers, filtered=True)
    assert sum(len(update) for update in corpus.updates(50, seed=1, epoch=0)) == 20
    assert corpus.report.kept == 20
    assert corpus.report.reasons["beyond the first 20"] > 0
    assert len(prepare(config, "valid", tokenizers, filtered=False)) > 20


def test_nothing_left_is_an_error_that_says_why(tmp_path, data, tokenizers):
    (tmp_path / "t.tsv").write_text("en\tde\n\tx\none two\tx\n")
    path = str(tmp_path / "t.tsv")
    expected = (
        "no pair is left. train: 0 of 2 pairs kept; dropped 2: 1 empty source (first at line 2), "
        "1 more than 1 words (first at line 3)"
    )
    with pytest.raises(DataError) as caught:
        prepare(data(train=path, max_words=1), "train", tokenizers, filtered=True)
    assert str(caught.value) == expected
    stream = prepare(data(train=path, max_words=1, streaming=True), "train", tokenizers, filtered=True)
    with pytest.raises(DataError) as caught:
        next(stream.updates(100, seed=1, epoch=0))
    assert str(caught.value) == expected


def test_select_drops_and_counts(data, text, tokenizers):
    corpus = prepare(data(**text), "train", tokenizers, filtered=False)
    keep = corpus.target_lengths <= 2 * corpus.source_lengths
    smaller = corpus.select(keep, "target does not fit")
    assert len(smaller) == keep.sum() == smaller.report.kept < 600
    assert smaller.report.reasons == {"target does not fit": 600 - keep.sum()}
    assert smaller.report.first_line == {"target does not fit": int(corpus.lines[~keep][0])}
    kept = keep.nonzero()[0]
    assert smaller.pairs([0, 40]) == corpus.pairs(kept[[0, 40]])
    assert smaller.target_lengths.tolist() == corpus.target_lengths[kept].tolist()
    assert smaller.source_lengths.tolist() == corpus.source_lengths[kept].tolist()
    assert smaller.lines.tolist() == corpus.lines[kept].tolist()
    assert smaller.fingerprint != corpus.fingerprint
    with pytest.raises(DataError, match="no pair is left"):
        corpus.select(np.zeros(600, dtype=bool), "nothing")


def test_the_token_cache_is_reused_and_renewed(tmp_path, data, tokenizers, monkeypatch):
    path = tmp_path / "t.tsv"
    path.write_text("en\tde\nOpen\tClose\n")
    config = data(train=str(path))
    first = prepare(config, "train", tokenizers, filtered=True)
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("tokenised again"))
        again = prepare(config, "train", tokenizers, filtered=True)
    assert again.pairs([0]) == first.pairs([0])
    assert again.fingerprint == first.fingerprint
    path.write_text("en\tde\nKept\tClose\n")
    renewed = prepare(config, "train", tokenizers, filtered=True)
    assert renewed.texts([0]) == (["Kept"], ["Close"])
    assert tokenizers.source.decode([renewed.pairs([0])[0].source]) == ["Kept"]
    assert renewed.fingerprint != first.fingerprint


def test_another_tokenizer_has_a_token_cache_of_its_own(data, text, tokenizers):
    from nat.data.corpus import read_corpus
    from nat.data.tokenizer_training import build_tokenizers

    config = data(**text, tokenizer={"vocabulary_size": 300})
    other = build_tokenizers(config, read_corpus(config, "train"))
    one = prepare(config, "train", tokenizers, filtered=True)
    two = prepare(config, "train", other, filtered=True)
    assert one.fingerprint != two.fingerprint
    assert two.pairs([3])[0].source == other.source.encode(two.texts([3])[0])[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_skipped_lines_are_counted_and_reported(tmp_path, data, tokenizers, streaming):
    path = tmp_path / "t.tsv"
    path.write_text("en\tde\nOpen\tClose\nlonely\n\tx\n1\t2\t3\nKept\tClose\n")
    config = data(train=str(path), on_bad_line="skip", streaming=streaming)
    corpus = prepare(config, "train", tokenizers, filtered=True)
    assert sum(len(update) for update in corpus.updates(50, seed=1, epoch=0)) == 2
    assert corpus.report.lines() == [
        "train: 2 of 5 pairs kept; dropped 3: 2 malformed (first at line 3), 1 empty source (first at line 4)"
    ]


def test_a_table_of_an_earlier_nat_is_made_anew(data, text, tokenizers, cache):
    """It had Arrow files of its own under the same names."""
    first = prepare(data(**text), "train", tokenizers, filtered=True)
    for kind in ("text", "tokens"):
        (folder,) = (path for path in (cache / kind).iterdir() if path.is_dir())
        for path in folder.iterdir():
            path.unlink()
        (folder / "tokens.arrow").touch()
    again = prepare(data(**text), "train", tokenizers, filtered=True)
    assert again.pairs([3, 4]) == first.pairs([3, 4])
    assert again.fingerprint == first.fingerprint


# --- updates of both kinds of corpus ---------------------------------------------------------------


@pytest.fixture(params=["mapped", "streaming"])
def corpus(request, data, text, tokenizers) -> TokenizedCorpus | StreamingCorpus:
    config = data(**text, streaming=request.param == "streaming", shuffle_buffer=150, filters={"max_tokens": 60})
    made = prepare(config, "train", tokenizers, filtered=True)
    assert isinstance(made, StreamingCorpus if request.param == "streaming" else TokenizedCorpus)
    return made


@pytest.fixture
def reference(data, text, tokenizers) -> TokenizedCorpus:
    return prepare(data(**text, filters={"max_tokens": 60}), "train", tokenizers, filtered=True)


def test_an_epoch_covers_every_pair_once(corpus, reference):
    seen = [pair for update in corpus.updates(TOKENS, seed=1, epoch=0) for pair in update]
    assert sorted(seen) == sorted(reference.pairs(range(len(reference))))
    assert corpus.report == reference.report
    list(corpus.updates(TOKENS, seed=1, epoch=1))
    assert corpus.report == reference.report, "a second epoch counts anew"


def test_updates_are_reproducible_and_differ_between_epochs_and_seeds(corpus):
    first = listed(corpus.updates(TOKENS, seed=1, epoch=0))
    assert listed(corpus.updates(TOKENS, seed=1, epoch=0)) == first
    assert listed(corpus.updates(TOKENS, seed=1, epoch=1)) != first
    assert listed(corpus.updates(TOKENS, seed=2, epoch=0)) != first


@pytest.mark.parametrize("skip", [0, 1, 5, 9, 1000])
def test_skip_is_a_slice(corpus, skip):
    whole = listed(corpus.updates(TOKENS, seed=1, epoch=3))
    assert listed(corpus.updates(TOKENS, seed=1, epoch=3, skip=skip)) == whole[skip:]


def test_updates_have_the_asked_number_of_tokens(corpus):
    sizes = [sum(len(pair.target) + 1 for pair in update) for update in corpus.updates(TOKENS, seed=1, epoch=0)]
    assert len(sizes) > 10
    assert max(abs(size / TOKENS - 1) for size in sizes) < 0.2


def test_what_is_skipped_or_of_another_rank_is_not_read(reference, monkeypatch):
    read, take = [], PairTable.take
    monkeypatch.setattr(PairTable, "take", lambda self, rows: read.append(len(rows)) or take(self, rows))
    update = next(reference.updates(TOKENS, seed=1, epoch=0, skip=6))
    assert read == []
    batches = micro_batches(update, lambda s, t: t, rank=1, num_ranks=3, max_tokens=10_000)
    assert len(update) // 3 <= sum(map(len, batches)) == sum(read) <= len(update) // 3 + 1


def test_the_key_of_a_stream_is_of_what_it_reads_and_not_of_where_that_lies(tmp_path, data, text, tokenizers):
    def key(location: str) -> str:
        return prepare(data(train=location, streaming=True), "train", tokenizers, filtered=True).fingerprint

    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.tsv").write_text("en\tde\na\tb\n")
    first = key(f"{tmp_path}/a/b/train.tsv")
    assert first == key(f"{tmp_path}/c/train.tsv") == key(f"hub:{tmp_path}/c")
    assert key("hub:one/set") != key("hub:another/set")
    (tmp_path / "c" / "train.tsv").write_text("en\tde\na\tc\n")
    assert first != key(f"{tmp_path}/c/train.tsv") == key(f"hub:{tmp_path}/c")
