"""Tags of target languages: in the rows, the sentences and the tokenizer of a corpus, and on what is translated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nat.data.corpus import DataConfig, read_corpus
from nat.data.references import Reference
from nat.data.tags import TargetTags
from nat.data.tokenized import prepare
from nat.data.tokenizer import Kind, Tokenizers
from nat.data.tokenizer_training import build_tokenizers
from nat.errors import ConfigError, DataError

ROWS = [{"en": "a cat", "de": "eine Katze", "fr": "un chat"}, {"en": " ", "de": "leer", "fr": "vide"}]
PAIRS = [("<de> a cat", "eine Katze"), ("<fr> a cat", "un chat"), (" ", "leer"), (" ", "vide")]
Configure = Callable[..., DataConfig]


def written(folder: Path, kind: str) -> Any:
    """The location of ROWS."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "tsv":
        path.write_text("".join("\t".join(line) + "\n" for line in [list(ROWS[0]), *map(dict.values, ROWS)]))
    else:
        (folder / "set").mkdir()
        path = folder / "set" / "train.jsonl" if kind == "hub" else path
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return f"hub:{folder}/set" if kind == "hub" else str(path)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet", "hub"])
@pytest.mark.parametrize("streaming", [False, True])
def test_each_source_begins_with_the_name_of_its_targets_column(
    tmp_path: Path, data: Configure, kind: str, streaming: bool
) -> None:
    place = written(tmp_path, kind)
    for target, chosen in (("de+fr", PAIRS), ("fr", PAIRS[1::2])):
        config = data(train=place, target=target, target_tags=True, streaming=streaming)
        assert [(row["source"], row["target"]) for row in read_corpus(config, "train")] == chosen
    plain = data(train=place, target="fr", streaming=streaming)  # not what the cache has under that name
    assert [row["source"] for row in read_corpus(plain, "train")] == ["a cat", " "]


def test_so_does_one_of_two_files(tmp_path: Path, data: Configure) -> None:
    for name, text in (("a.en", "one\n"), ("a.de", "eins\n")):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("a.en", "a.de")]
    (row,) = read_corpus(data(train=files, target_tags=True), "train")
    assert row["source"] == "<de> one"


def test_what_was_distilled_has_its_tags(tmp_path: Path, data: Configure) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"en": "<fr> a cat", "de+fr": "un chat"}) + "\n")
    (row,) = read_corpus(data(train=str(tmp_path / "d.jsonl"), target="de+fr", target_tags=True), "train")
    assert row["source"] == "<fr> a cat"


def test_a_pair_of_a_row_is_a_sentence_of_its_own(tmp_path: Path, data: Configure, tokenizers: Tokenizers) -> None:
    place = written(tmp_path, "tsv")
    corpus = prepare(data(valid=place, target="de+fr", target_tags=True), "valid", tokenizers, filtered=False)
    assert [pairs.tolist() for pairs in corpus.sentences] == [[0], [1]]
    assert [pairs.tolist() for pairs in corpus.sentences_of(range(1, 2))] == [[1]]
    sources, references = corpus.references(corpus.sentences)
    assert list(zip(sources, references, strict=True)) == PAIRS[:2]
    assert not any(isinstance(reference, Reference) for reference in references)


@pytest.mark.parametrize("kind", list(Kind)[:2])
def test_a_tag_is_one_piece(tmp_path: Path, data: Configure, kind: Kind) -> None:
    rows = [{"en": f"number {i} of <de> these", "de": f"Nummer {i}", "fr": f"le {i}"} for i in range(50)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for tags in (True, False):
        config = data(
            train=str(tmp_path / "t.jsonl"),
            target="de+fr",
            target_tags=tags,
            tokenizer={"vocabulary_size": 70, "kind": kind.value},
        )
        made.append(build_tokenizers(config, read_corpus(config, "train")).source)
    (ids,) = made[0].encode(["<fr> number <de>"])
    pieces = made[0].pieces(ids)
    assert pieces[0] == "\u2581<fr>" and pieces[-1] == "\u2581<de>" and made[0].decode([ids]) == ["<fr> number <de>"]
    assert len(made[1].encode(["<fr>"])[0]) > 1


def test_a_task_has_no_tags(data: Configure) -> None:
    with pytest.raises(ConfigError, match="a task has no languages for target_tags=true to name"):
        data(train="task:recall?pairs=10", target_tags=True)


def test_a_source_gets_the_tag_that_is_chosen_or_has_its_own() -> None:
    tags = TargetTags.of({"target": "de+fr", "target_tags": True})
    assert tags is not None
    assert tags.to("fr").begin(["a", " ", "<de> b"], "f", [1, 2, 3]) == ["<fr> a", " ", "<fr> <de> b"]
    assert tags.begin(["<de> a", "", "<fr> b"], "f", [1, 2, 3]) == ["<de> a", "", "<fr> b"]
    message = r"f, line 7: does not say which language is wanted; name it, for example target=de \(de, fr\), or begin"
    for wrong in ("a", "<es> a", "<de>a"):
        with pytest.raises(DataError, match=message):
            tags.begin(["<fr> a", wrong], "f", [5, 7])
    with pytest.raises(ConfigError, match="target=es: the model does not write it, known: de, fr"):
        tags.to("es")
    assert TargetTags.of({"target": "de+fr"}) is None and TargetTags.of(None) is None
