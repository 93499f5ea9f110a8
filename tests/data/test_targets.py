"""Several target columns: a row gives a pair for each, and is one sentence where translations are scored."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nat.config import load_yaml, parse
from nat.data.corpus import DataConfig, embedded_directory, read_corpus
from nat.data.references import Reference, all_references, reference_streams
from nat.data.tokenized import prepare
from nat.data.tokenizer import Tokenizers
from nat.errors import ConfigError, DataError

TEXTS = [
    {"en": "a cat", "de": "eine Katze", "fr": "un chat", "es": "un gato"},
    {"en": "to close a window", "de": "schließen", "fr": "fermer une fenêtre de plus", "es": ""},
    {"en": "end", "de": "Ende", "fr": "fin", "es": "fin"},
]
NAMES = ("es", "de", "fr")
Configure = Callable[..., DataConfig]


def expected(first_line: int, names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    return [
        {"source": texts["en"], "target": texts[name], "line": number}
        for number, texts in enumerate(TEXTS, first_line)
        for name in names
    ]


def tsv(header: bool = True) -> str:
    columns = ["fr", "en", "de", "es"]
    lines = [columns] * header + [[texts[name] for name in columns] for texts in TEXTS]
    return "".join("\t".join(line) + "\n" for line in lines)


def write(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_of_a_table_is_a_pair_for_each_column(
    tmp_path: Path, data: Configure, name: str, streaming: bool
) -> None:
    config = data(train=write(tmp_path / name, tsv()), target="es+de+fr", streaming=streaming)
    assert list(read_corpus(config, "train")) == expected(2)
    named = data(
        train=write(tmp_path / f"bare-{name}", tsv(header=False)),
        columns=["fr", "en", "de", "es"],
        target="es+de+fr",
        streaming=streaming,
    )
    assert list(read_corpus(named, "train")) == expected(1)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "hub"])
def test_so_is_one_of_json_parquet_and_the_hub(tmp_path: Path, data: Configure, kind: str, nested: bool) -> None:
    rows: list[Any] = [{"translation": texts} for texts in TEXTS] if nested else TEXTS
    location = f"{tmp_path}/t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), location)
    else:
        (tmp_path / "set").mkdir()
        location = f"{tmp_path}/set/train.jsonl" if kind == "hub" else location
        write(Path(location), "".join(json.dumps(row) + "\n" for row in rows))
    location = f"hub:{tmp_path}/set" if kind == "hub" else location
    assert list(read_corpus(data(train=location, target="es+de+fr"), "train")) == expected(1)


def test_a_column_of_the_whole_name_is_one_target(tmp_path: Path, data: Configure) -> None:
    lines = [{"en": "a", "de+fr": "b", "fertilities": [1]}, {"en": "c", "de+fr": "d", "fertilities": [1]}]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = list(read_corpus(data(train=path, target="de+fr", fertilities="fertilities"), "train"))
    assert [(row["source"], row["target"], row["line"]) for row in found] == [("a", "b", 1), ("c", "d", 2)]
    table = write(tmp_path / "t.tsv", "en\tde\tde+fr\na\tx\tb\n")
    assert [row["target"] for row in read_corpus(data(train=table, target="de+fr"), "train")] == ["b"]


def test_the_order_and_choice_of_columns_is_part_of_the_cache_key(tmp_path: Path, data: Configure) -> None:
    path = write(tmp_path / "t.tsv", tsv())
    for target in ("de+fr", "fr+de", "de", "de+fr+es"):
        names = tuple(target.split("+"))
        assert list(read_corpus(data(train=path, target=target), "train")) == expected(2, names)


def test_filters_and_limit_look_at_pairs(tmp_path: Path, data: Configure, tokenizers: Tokenizers) -> None:
    path = write(tmp_path / "t.tsv", tsv())
    config = data(train=path, valid=path, target="es+de+fr", max_words=4, limit=5)
    kept = prepare(config, "train", tokenizers, filtered=True)
    wanted = [row for row in expected(2) if row["target"] and len(row["target"].split()) <= 4][:5]
    sources, targets = kept.texts(np.arange(len(kept)))
    lines = kept.lines.tolist()
    found = zip(sources, targets, lines, strict=True)
    assert [dict(zip(("source", "target", "line"), row, strict=True)) for row in found] == wanted
    reasons = {name: found["pairs"] for name, found in kept.report.to_plain()["reasons"].items()}
    assert reasons == {"empty target": 1, "more than 4 words": 1, "beyond the first 5": 2}
    stream = prepare(data(train=path, target="es+de+fr", max_words=4, limit=5, streaming=True), "train", tokenizers,
                     filtered=True)  # fmt: skip
    seen = [pair for update in stream.updates(100, seed=1, epoch=0) for pair in update]
    assert sorted(seen) == sorted(kept.pairs(range(len(kept))))


def test_a_source_is_one_sentence_with_all_its_references(
    tmp_path: Path, data: Configure, tokenizers: Tokenizers
) -> None:
    path = write(tmp_path / "t.tsv", tsv())
    corpus = prepare(data(valid=path, target="es+de+fr", max_words=4), "valid", tokenizers, filtered=False)
    assert [sentence.tolist() for sentence in corpus.sentences] == [[0, 1, 2], [3], [4, 5, 6]]
    sources, references = corpus.references(corpus.sentences)
    assert sources == ["a cat", "to close a window", "end"]
    assert [all_references(reference) for reference in references] == [
        ("un gato", "eine Katze", "un chat"),
        ("schließen",),
        ("fin", "Ende", "fin"),
    ]
    assert references[0] == "un gato"
    assert corpus.references(corpus.sentences[1:2]) == (["to close a window"], ["schließen"])
    assert corpus.references([]) == ([], [])
    one = prepare(data(valid=path, target="de"), "valid", tokenizers, filtered=False)
    assert one.references(one.sentences) == one.texts(range(3))


def test_streams_are_those_of_sacrebleu() -> None:
    assert reference_streams(["a", Reference("b", "c", "d")]) == [["a", "b"], [None, "c"], [None, "d"]]
    assert reference_streams([]) == [[]]
    assert reference_streams(["a", "b"]) == [["a", "b"]]
    assert all_references("a") == ("a",)


@pytest.mark.parametrize("target", ["de+", "+de", "de++fr", "de+fr+de"])
def test_names_that_are_not_joined_well(data: Configure, target: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.target=.*: several columns are joined so: de\+fr, each of them once$"
    ):
        data(target=target)


def test_columns_that_are_not_there(tmp_path: Path, data: Configure) -> None:
    with pytest.raises(ConfigError, match=r"data\.target=it: data\.columns has no such column"):
        data(target="de+it", columns=["en", "de", "fr"])
    table = data(train=write(tmp_path / "t.tsv", tsv()), target="de+it")
    with pytest.raises(DataError, match=r"line 1: the header has no column 'it' \(it has: fr, en, de, es\)"):
        read_corpus(table, "train")
    lines = data(train=write(tmp_path / "t.jsonl", json.dumps(TEXTS[0]) + "\n"), target="it+de")
    with pytest.raises(DataError, match=r"line 1: no 'it' \(there is: en, de, fr, es\)"):
        read_corpus(lines, "train")
    pq.write_table(pa.Table.from_pylist(TEXTS), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 1: no 'it'"):
        read_corpus(data(train=str(tmp_path / "t.parquet"), target="de+it"), "train")


def test_fertilities_are_those_of_one_target(tmp_path: Path, data: Configure) -> None:
    path = write(tmp_path / "t.jsonl", json.dumps(TEXTS[0] | {"count": [1, 1]}) + "\n")
    config = data(train=path, target="de+fr", fertilities="count")
    with pytest.raises(DataError, match=r"line 1: 'count' counts the tokens of one target, but de\+fr are 2$"):
        read_corpus(config, "train")


def test_the_embedded_corpus_of_three_targets() -> None:
    node = load_yaml(embedded_directory().parent / "configs" / "data" / "lohelp4_multitarget.yaml")
    corpus = read_corpus(parse(DataConfig, node, "data"), "test")
    assert corpus[:3]["line"] == [2, 2, 2]
    assert len(set(corpus[:3]["source"])) == 1
    assert [row.split()[0] for row in corpus[:3]["target"]] == ["Sie", "Il", "Es"]
