from __future__ import annotations

import json
import unicodedata
from io import BytesIO
from pathlib import Path

import pytest
import sentencepiece

from nat.config import parse
from nat.data.corpus import read_corpus
from nat.data.lines import read_lines
from nat.data.tokenizer import TokenizerConfig, Tokenizers, load_model
from nat.data.tokenizer_training import build_tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT, Symbol
from nat.errors import ConfigError, DataError

TRICKS = [*SYMBOL_TEXT, "a <mask> b</s>", "<s><pad>", "▁<blank>▁", "<0x0A>", "<unk>"]


def texts(path: Path) -> tuple[list[str], list[str]]:
    pairs = [line.split("\t") for line in read_lines(path)]
    return [en for en, _ in pairs], [de for _, de in pairs]


def options(**given) -> TokenizerConfig:
    return parse(TokenizerConfig, {"vocabulary_size": 500} | given, "data.tokenizer")


def foreign_model(path: Path, small_text: Path, **given) -> Path:
    """A SentencePiece model as others make them: with control symbols in front and pieces named like ours."""
    model = BytesIO()
    given = {"vocab_size": 400, "control_symbols": "<mask>,<2de>", "user_defined_symbols": "<sep>"} | given
    sentences = iter(texts(small_text)[0])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, minloglevel=3, **given)
    path.write_bytes(model.getvalue())
    return path


def test_ids_and_sizes(tokenizers):
    assert tokenizers.shared
    assert tokenizers.source is tokenizers.target
    assert tokenizers.vocabularies.source_size == tokenizers.source.size == 500
    ids = {i for row in tokenizers.source.encode(["Open the dialog.", "Öffnen"]) for i in row}
    assert min(ids) >= NUM_SYMBOLS
    assert max(ids) < 500


def test_round_trip_of_the_embedded_text(tokenizers, small_text):
    for tokenizer, side in zip((tokenizers.source, tokenizers.target), texts(small_text), strict=True):
        assert tokenizer.decode(tokenizer.encode(side)) == [" ".join(text.split(" ")).strip() for text in side]
        assert all(unicodedata.is_normalized("NFC", text) for text in tokenizer.decode(tokenizer.encode(side)))


@pytest.mark.parametrize("given", [{}, {"kind": "bpe"}, {"byte_fallback": True, "vocabulary_size": 700}])
def test_special_ids_never_come_from_text(small_text, given):
    tokenizer = Tokenizers.train(options(**given), *texts(small_text)).source
    special = set(range(NUM_SYMBOLS)) - {int(Symbol.UNK)}
    for row in tokenizer.encode(TRICKS):
        assert row
        assert not special & set(row)


def test_special_ids_never_come_from_text_of_a_foreign_model(tmp_path, small_text):
    tokenizer = load_model(foreign_model(tmp_path / "m.model", small_text))
    special = set(range(NUM_SYMBOLS)) - {int(Symbol.UNK)}
    for row in tokenizer.encode([*TRICKS, "<2de> a <sep> b"]):
        assert not special & set(row)
    assert tokenizer.size == 400 - 5 + NUM_SYMBOLS  # <unk> <s> </s> <mask> <2de> are not pieces
    assert tokenizer.decode(tokenizer.encode(["Open the dialog <sep>."])) == ["Open the dialog <sep>."]


def test_decode_drops_special_symbols_and_shows_unk(tokenizers):
    (ids,) = tokenizers.source.encode(["Open the dialog."])
    decorated = [Symbol.BOS, *ids, Symbol.MASK, Symbol.BLANK, Symbol.PLH, Symbol.EOS, Symbol.PAD]
    assert tokenizers.source.decode([decorated, [], [Symbol.PAD]]) == ["Open the dialog.", "", ""]
    assert tokenizers.source.encode(["日"])[0][-1] == Symbol.UNK
    assert "⁇" in tokenizers.source.decode([[*ids, Symbol.UNK]])[0]
    assert tokenizers.source.encode([]) == []
    assert tokenizers.source.encode([""]) == [[]]


def test_pieces(tokenizers):
    (ids,) = tokenizers.source.encode(["Open the dialog."])
    assert "".join(tokenizers.source.pieces(ids)) == "▁Open▁the▁dialog."
    assert tokenizers.source.pieces(range(NUM_SYMBOLS)) == list(SYMBOL_TEXT)


def test_byte_fallback_spells_unknown_characters(small_text):
    tokenizer = Tokenizers.train(options(byte_fallback=True, vocabulary_size=700), *texts(small_text)).source
    (ids,) = tokenizer.encode(["日本"])
    assert Symbol.UNK not in ids
    assert tokenizer.decode([ids]) == ["日本"]


def test_normalization(small_text):
    kept = Tokenizers.train(options(), *texts(small_text)).source
    folded = Tokenizers.train(options(normalization="nfkc_cf"), *texts(small_text)).source
    assert kept.decode(kept.encode(["Open"])) == ["Open"]
    assert folded.decode(folded.encode(["OPEN"])) == ["open"]


def test_training_is_deterministic_and_separate_vocabularies_differ(small_text, tokenizers):
    again = Tokenizers.train(options(), *texts(small_text))
    assert again.fingerprint == tokenizers.fingerprint
    separate = Tokenizers.train(options(joint=False, vocabulary_size=300), *texts(small_text))
    assert not separate.shared
    assert separate.source.model != separate.target.model
    assert separate.vocabularies.target_size == 300


@pytest.mark.parametrize("joint", [True, False])
def test_save_and_load(tmp_path, small_text, joint):
    trained = Tokenizers.train(options(joint=joint), *texts(small_text))
    trained.save(tmp_path / "run" / "tokenizer")
    trained.save(tmp_path / "run" / "tokenizer")  # a resumed run saves again
    loaded = Tokenizers.load(tmp_path / "run" / "tokenizer")
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.shared == (loaded.source is loaded.target) == joint
    names = {"source.model", "tokenizer.json"} | (set() if joint else {"target.model"})
    assert {path.name for path in (tmp_path / "run" / "tokenizer").iterdir()} == names


def test_damaged_folders_are_refused(tmp_path, tokenizers, small_text):
    def refusal() -> str:
        with pytest.raises(DataError) as caught:
            Tokenizers.load(tmp_path)
        return str(caught.value)

    assert refusal() == f"{tmp_path}/tokenizer.json: there is no such file"
    tokenizers.save(tmp_path)
    foreign_model(tmp_path / "source.model", small_text)
    assert refusal() == f"{tmp_path}: the models are not those that tokenizer.json describes"
    for damage in (b"", b"junk", tokenizers.source.model[:-300]):
        (tmp_path / "source.model").write_bytes(damage)
        assert refusal().startswith(f"{tmp_path}")
    (tmp_path / "source.model").unlink()
    assert refusal() == f"{tmp_path}/source.model: cannot be read (No such file or directory)"
    (tmp_path / "tokenizer.json").write_text("{")
    assert refusal().startswith(f"{tmp_path}/tokenizer.json: damaged or unreadable")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"format": 9}))
    assert refusal() == f"{tmp_path}/tokenizer.json: format 9, this version reads 1"


def test_not_a_model(tmp_path):
    (tmp_path / "m.model").write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        load_model(tmp_path / "m.model")
    assert str(caught.value) == f"{tmp_path}/m.model: not a SentencePiece model, or a damaged one"


@pytest.mark.parametrize(
    ("given", "sentences", "message"),
    [
        ({"kind": "bpe"}, ["hello"], "vocabulary_size=500: the training text is too small for it, at most 22 is"),
        ({"vocabulary_size": 12}, ["hello world"], "=12: the training text has more characters than that, at least 15"),
        ({}, [""], "vocabulary_size=500: a tokenizer cannot be trained on so little text"),
    ],
)
def test_corpora_that_do_not_suit_the_size(given, sentences, message):
    with pytest.raises(DataError) as caught:
        Tokenizers.train(options(**given), sentences, sentences)
    assert str(caught.value).startswith("data.tokenizer.vocabulary_size=")
    assert message in str(caught.value)


def test_the_numbers_in_the_messages_are_right():
    assert Tokenizers.train(options(vocabulary_size=22, kind="bpe"), ["hello"], ["hello"]).source.size == 22
    assert Tokenizers.train(options(vocabulary_size=15), ["hello world"], ["hello world"]).source.size <= 15


def test_very_long_sentences_are_not_left_out():
    tokenizer = Tokenizers.train(options(vocabulary_size=30), ["xyz " * 3000], ["q " * 3000]).source
    assert Symbol.UNK not in tokenizer.encode(["xyz q"])[0]


def test_options_that_contradict_each_other():
    with pytest.raises(ConfigError, match=r"data.tokenizer.path: this and source_model"):
        options(path="a", source_model="b")
    with pytest.raises(ConfigError, match=r"data.tokenizer.target_model: source_model is needed beside it"):
        options(target_model="b")


# --- build_tokenizers ------------------------------------------------------------------------------


def build(config) -> Tokenizers:
    return build_tokenizers(config, read_corpus(config, "train"))


def test_given_models_and_folders(tmp_path, data, small_text, tokenizers):
    model = str(foreign_model(tmp_path / "m.model", small_text))
    other = str(foreign_model(tmp_path / "n.model", small_text, vocab_size=300))
    text = {"train": str(small_text), "columns": ["en", "de"]}
    one = build(data(**text, tokenizer={"source_model": model}))
    two = build(data(**text, tokenizer={"source_model": model, "target_model": other}))
    assert one.shared
    assert not two.shared
    assert two.target.size == 300 - 5 + NUM_SYMBOLS
    tokenizers.save(tmp_path / "folder")
    assert build(data(**text, tokenizer={"path": str(tmp_path / "folder")})).fingerprint == tokenizers.fingerprint
    with pytest.raises(DataError, match=r"no.model: cannot be read"):
        build(data(**text, tokenizer={"source_model": f"{tmp_path}/no.model"}))


def test_a_trained_tokenizer_is_cached_by_content(data, cache, small_text, monkeypatch):
    text = {"train": str(small_text), "columns": ["en", "de"]}
    first = build(data(**text, tokenizer={"vocabulary_size": 500}))
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizers, "train", lambda *_: pytest.fail("trained again"))
        assert build(data(**text, tokenizer={"vocabulary_size": 500})).fingerprint == first.fingerprint
        streamed = data(**text, streaming=True, tokenizer={"vocabulary_size": 500})
        assert build(streamed).fingerprint == first.fingerprint
    (folder,) = (path for path in (cache / "tokenizers").iterdir() if path.is_dir())
    (folder / "source.model").write_bytes(b"half")
    assert build(data(**text, tokenizer={"vocabulary_size": 500})).fingerprint == first.fingerprint
    assert build(data(**text, tokenizer={"vocabulary_size": 400})).source.size == 400


def test_it_is_trained_on_the_corpus_alone(tmp_path, data):
    """data.limit, data.max_words and empty sides decide what the corpus is; num_sentences is a sample of it."""
    path = tmp_path / "t.tsv"
    path.write_text("en\tde\nabc\tabc\nx x x x\tabc\nyyy\t\n" + "bac cab\tbac\n" * 50 + "zz\tzz\n")

    def knows(character: str, **given) -> bool:
        tokenizer = build(data(train=str(path), tokenizer={"vocabulary_size": 14} | given.pop("tok", {}), **given))
        return Symbol.UNK not in tokenizer.source.encode([character])[0]

    everything = {"tok": {"vocabulary_size": 20}}
    assert knows("x", **everything)
    assert not knows("y", **everything)
    assert knows("z", **everything)
    assert not knows("x", max_words=3, **everything)
    assert not knows("z", limit=20, **everything)
    assert not knows("x", tok={"num_sentences": 1, "vocabulary_size": 12})
    path.write_text("en\tde\n\tabc\n")
    with pytest.raises(DataError, match=r"data.train: no pair is left to train a tokenizer on"):
        knows("x")
