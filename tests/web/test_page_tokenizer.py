"""The page's tokenizer, run by node, gives SentencePiece's ids and text for everything that can be typed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer, set_min_log_level
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tokenizer import Normalization, PieceTokenizer
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.web.files import PAGE
from nat.web.pieces import piece_data, shortest

DRIVER = """
import fs from "fs";
import { Tokenizer } from "./tokenizer.js";
const job = JSON.parse(fs.readFileSync(0, "utf-8"));
const tokenizer = new Tokenizer(job.data, job.symbols);
const ids = job.texts.map((text) => tokenizer.encode(text));
console.log(JSON.stringify({ ids, texts: job.rows.map((row) => tokenizer.decode(row)) }));
"""
SYMBOLS = {"unk": int(Symbol.UNK), "first_piece": NUM_SYMBOLS}
CHARACTERS = [
    *"abc ABC  .,éÄßŒ▁▁☃😀ﬁ①Ⅷ㍿ﷺ日本語カﾞ한각\t\r\0\x01\x1c\x7f\x85",
    *"\u00a0\u00ad\u0301\u0308\u200b\u3000\ud7ff\ufeff\U0010ffff",
    "👩‍👩‍👧", "<unk>", "<s>", "<0x41>", "<sep>", "<sepx>", "ein",
]  # fmt: skip
ODD = [
    "",
    " ",
    "\0",
    "\x1c \x1f",
    "  a  b  ",
    "\ufeffabc",
    "▁",
    "▁▁a▁",
    "a" * 3000,
    "ab " * 3000,
    "\t\u3000\x85",
    "<mask> <pad>",
    "…" * 50,
]
RULES = [rule.value for rule in Normalization]


def corpus(split: str) -> list[str]:
    """Both languages."""
    lines = read_lines(embedded_directory() / "lohelp" / f"{split}.tsv.gz")
    return [side for line in lines for side in line.split("\t")]


def odd_lines(count: int) -> list[str]:
    chance = random.Random(1)
    return (
        ODD
        + ["z" * length for length in range(1, 60)]
        + ["".join(chance.choices(CHARACTERS, k=chance.randint(1, 40))) for _ in range(count)]
    )


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What the page's tokenizer makes of a job."""
    if shutil.which("node") is None:
        pytest.skip("there is no node here")
    folder = tmp_path_factory.mktemp("page")
    for path in PAGE.glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "driver.js").write_text(DRIVER)

    def answered(job: dict[str, Any]) -> dict[str, Any]:
        words = ["node", "driver.js"]
        done = subprocess.run(words, cwd=folder, input=json.dumps(job), capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return answered


TRAINED = {"vocab_size": 400, "unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1, "num_threads": 1}


def trained(kind: str, **options: Any) -> bytes:
    model, text = BytesIO(), iter(corpus("valid")[:1500])
    set_min_log_level(3)
    chosen: dict[str, Any] = {**TRAINED, "hard_vocab_limit": kind == "bpe", **options}
    SentencePieceTrainer.train(sentence_iterator=text, model_writer=model, model_type=kind, **chosen)
    return model.getvalue()


def embedded() -> bytes:
    return (embedded_directory() / "models" / "en-de" / "tokenizer" / "source.model").read_bytes()


def with_denormalizer() -> bytes:
    proto = ModelProto.FromString(embedded())
    proto.denormalizer_spec.precompiled_charsmap = b"rules"
    model: bytes = proto.SerializeToString()
    return model


def retyped(kind: str, type_of: int) -> bytes:
    """Some pieces, which others contain, are of another type; in a unigram model, segmentations of "zzz" tie."""
    proto = ModelProto.FromString(trained(kind))
    for piece in proto.pieces[20:200:3]:
        piece.type = type_of
    if kind == "unigram":
        proto.pieces.add(piece="zz", score=-7.3)
        proto.pieces.add(piece="zzz", score=-8.7)
    model: bytes = proto.SerializeToString()
    return model


MODELS: dict[str, Callable[[], bytes]] = {
    "embedded": embedded,
    "bpe_unused": partial(retyped, "bpe", ModelProto.SentencePiece.UNUSED),
    "bpe_frozen": partial(retyped, "bpe", ModelProto.SentencePiece.USER_DEFINED),
    "unigram_unused": partial(retyped, "unigram", ModelProto.SentencePiece.UNUSED),
    "unigram_frozen": partial(retyped, "unigram", ModelProto.SentencePiece.USER_DEFINED),
    "bpe_bytes": partial(trained, "bpe", byte_fallback=True, normalization_rule_name="nmt_nfkc", vocab_size=700),
    "bpe_user": partial(trained, "bpe", user_defined_symbols=["<sep>", "ein", "<sepx>"], add_dummy_prefix=False),
    "unigram_user": partial(
        trained, "unigram", user_defined_symbols=["<sep>", "ein", "<sepx>"], normalization_rule_name="nfkc", bos_id=1
    ),
    "unigram_spaces": partial(
        trained, "unigram", remove_extra_whitespaces=False, normalization_rule_name="nmt_nfkc_cf", byte_fallback=True,
        vocab_size=700, allow_whitespace_only_pieces=True,
    ),
}  # fmt: skip
EVERY = {
    f"{kind}_{rule}_{fallback}": partial(
        trained, kind, vocab_size=1000, normalization_rule_name=rule, byte_fallback=fallback
    )
    for kind in ("bpe", "unigram")
    for rule in RULES
    for fallback in (False, True)
}


def compare(
    answer: Callable[[dict[str, Any]], dict[str, Any]], model: bytes, texts: list[str], *, num_rows: int = 1000
) -> None:
    """Ids of texts; texts of those ids and of ids that no text has."""
    tokenizer, chance = PieceTokenizer(model), random.Random(2)
    wanted = tokenizer.encode(texts)
    bytes_of = [i for i in range(NUM_SYMBOLS, tokenizer.size) if tokenizer.pieces([i])[0].startswith("<0x")]
    pool = [int(Symbol.UNK), *range(NUM_SYMBOLS, tokenizer.size), *bytes_of * 3]
    rows = wanted + [chance.choices(pool, k=chance.randint(1, 12)) for _ in range(num_rows)]
    found = answer({"data": piece_data(model, "it"), "symbols": SYMBOLS, "texts": texts, "rows": rows})
    assert differing(texts, found["ids"], wanted) == []
    assert differing(rows, found["texts"], tokenizer.decode(rows)) == []


def differing(given: Sequence[Any], found: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    return [each for each in zip(given, found, wanted, strict=True) if each[1] != each[2]]


@pytest.mark.parametrize("name", MODELS)
def test_ids_and_text_are_those_of_sentencepiece(name: str, answer: Callable[..., Any]) -> None:
    compare(answer, MODELS[name](), corpus("test")[:600] + odd_lines(400))


def test_every_sentence_of_the_embedded_text_has_the_same_ids(answer: Callable[..., Any]) -> None:
    compare(answer, embedded(), corpus("valid") + corpus("test"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_rule_and_kind_is_that_of_sentencepiece(name: str, answer: Callable[..., Any]) -> None:
    compare(answer, EVERY[name](), corpus("valid") + corpus("test") + odd_lines(4000), num_rows=4000)


def test_halves_of_surrogate_pairs_are_one_unknown_character(answer: Callable[..., Any]) -> None:
    """Python refuses them; a browser may hold them."""
    job = {"data": piece_data(embedded(), "it"), "symbols": SYMBOLS, "rows": []}
    found = answer(job | {"texts": ["a \ud83d b", "a \ude00 b", "a \ufffd b"]})
    assert found["ids"][0] == found["ids"][1] == found["ids"][2]


def test_scores_keep_their_float32() -> None:
    scores = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert [np.float32(shortest(float(score))) for score in scores] == list(scores)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(trained, "char"), "splits words or characters"),
        (partial(trained, "bpe", treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix"),
        (with_denormalizer, "has a denormalizer"),
    ],
)
def test_other_models_are_refused(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"format=web: the tokenizer .*{reason}"):
        piece_data(make(), "the tokenizer of runs/x")
