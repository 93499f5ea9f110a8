"""Points as text and as ids, and the tasks that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat.config import parse
from nat.data.corpus import DataConfig, read_corpus
from nat.data.counts import Range
from nat.data.points import BITS, FINEST, BadText, IndexTokenizer, PointTokenizer, point_text, tokenizer_of
from nat.data.tasks import Task, convex_hull, delaunay
from nat.data.tokenized import prepare
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizer_training import build_tokenizers
from nat.data.vocabulary import NUM_SYMBOLS
from nat.errors import ConfigError, DataError
from nat.nn.embedding import coordinates

COORDINATE = st.integers(0, FINEST)


def config(**changes: Any) -> DataConfig:
    return parse(DataConfig, {"source": "points", "target": "hull", "tokenizer": {"kind": "points"}} | changes)


# --- text and ids -----------------------------------------------------------------------------------


@given(COORDINATE, COORDINATE)
def test_a_point_survives_text_and_id(x: int, y: int) -> None:
    tokenizer = PointTokenizer()
    ((token,),) = tokenizer.encode([point_text(x, y)])
    assert NUM_SYMBOLS <= token < tokenizer.size < 2**31
    assert token == NUM_SYMBOLS + (x << BITS | y)
    assert tokenizer.decode([[token]]) == [point_text(x, y)]
    place = coordinates(torch.tensor([token]))[0]
    assert place.tolist() == pytest.approx([2 * x / FINEST - 1, 2 * y / FINEST - 1], abs=1e-12)


def test_ids_of_both_sides_in_their_order_without_special_symbols() -> None:
    points, indices = PointTokenizer(), IndexTokenizer(3)
    assert points.encode(["0,0 1,1  0.5,0", ""]) == [
        [NUM_SYMBOLS, points.size - 1, NUM_SYMBOLS + (round(FINEST / 2) << BITS)],
        [],
    ]
    assert indices.encode(["0 2 1", ""]) == [[7, 9, 8], []]
    assert indices.encode(["40"]) == [[47]]  # beyond the fixed vocabulary, for models that point
    assert indices.size == 10
    assert indices.decode([[7, 0, 9], []]) == ["0 2", ""]
    assert points.decode([[NUM_SYMBOLS, 0]]) == ["0.00000,0.00000"]
    assert indices.pieces([3, 8]) == ["</s>", "1"]
    assert points.pieces([0, NUM_SYMBOLS]) == ["<pad>", "0.00000,0.00000"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("house", "'house' is no point, two numbers with a comma between them, such as 0.25,0.5"),
        ("0.1", "'0.1' is no point"),
        ("0.1,0.2,0.3", "'0.1,0.2,0.3' is no point"),
        ("1.5,0.2", "the point '1.5,0.2' lies outside the unit square"),
        ("0.5,-0.1", "outside the unit square"),
        ("nan,0.1", "outside the unit square"),
    ],
)
def test_words_that_are_no_points_are_refused(word: str, reason: str) -> None:
    with pytest.raises(BadText) as error:
        PointTokenizer().encode(["0,0", f"0,1 {word}"])
    assert reason in str(error.value)
    assert error.value.row == 1


@pytest.mark.parametrize(("word", "reason"), [("-1", "no index"), ("1.0", "no index"), (str(2**30), "too large")])
def test_words_that_are_no_indices_are_refused(word: str, reason: str) -> None:
    with pytest.raises(BadText, match=reason):
        IndexTokenizer(3).encode([word])


def test_the_largest_index_has_an_id() -> None:
    assert IndexTokenizer(3).encode([str(2**30 - 1)]) == [[NUM_SYMBOLS + 2**30 - 1]]


def test_tokenizers_of_points_survive_their_folder(tmp_path: Path) -> None:
    tokenizers = Tokenizers(PointTokenizer(), IndexTokenizer(12), False)
    tokenizers.save(tmp_path)
    loaded = Tokenizers.load(tmp_path)
    assert loaded == tokenizers
    assert loaded.fingerprint != Tokenizers(PointTokenizer(), IndexTokenizer(13), False).fingerprint
    assert loaded.vocabularies.points
    assert loaded.vocabularies.target_size == NUM_SYMBOLS + 12
    assert tokenizer_of(b"anything else") is None


# --- tasks ------------------------------------------------------------------------------------------


def points_of(row: dict[str, Any]) -> np.ndarray:
    return np.array([[float(part) for part in word.split(",")] for word in row["source"].split()])


def turns(points: np.ndarray, a: int, b: int, c: int) -> float:
    """Positive where a, b, c turn to the left."""
    (ux, uy), (vx, vy) = points[b] - points[a], points[c] - points[a]
    return float(ux * vy - uy * vx)


def test_hulls_have_all_points_on_their_left_and_begin_with_the_lowest_index() -> None:
    rows = list(Task.parse("convex_hull?points=3-12&pairs=60&seed=5").rows())
    assert {len(row["source"].split()) for row in rows} == set(range(3, 13))
    for row in rows:
        points, hull = points_of(row), [int(word) for word in row["target"].split()]
        assert hull[0] == min(hull)
        for a, b in zip(hull, hull[1:] + hull[:1], strict=True):
            assert all(turns(points, a, b, c) > 0 for c in range(len(points)) if c not in (a, b))


def test_triangles_of_delaunay_hold_no_point_in_their_circle() -> None:
    points = np.random.default_rng(0).random((9, 2))
    found = delaunay(points)
    triangles = list(zip(found[::3], found[1::3], found[2::3], strict=True))
    assert triangles == sorted(triangles)
    hull = len(convex_hull(points))
    assert len(triangles) == 2 * len(points) - 2 - hull  # Euler
    for a, b, c in triangles:
        assert a < min(b, c)
        assert turns(points, a, b, c) > 0
        for d in set(range(9)) - {a, b, c}:
            rows = [[*(points[i] - points[d]), ((points[i] - points[d]) ** 2).sum()] for i in (a, b, c)]
            assert np.linalg.det(np.array(rows)) < 0


def test_a_row_depends_on_the_seed_and_its_number_alone() -> None:
    few, many, other = (
        list(Task.parse(f"convex_hull?points=4-6&{rest}").rows())
        for rest in ("pairs=3&seed=1", "pairs=5&seed=1", "pairs=3&seed=2")
    )
    assert few == many[:3]
    assert all(a["source"] != b["source"] for a, b in zip(few, other, strict=True))
    assert [row["line"] for row in many] == [1, 2, 3, 4, 5]
    keys = {Task("convex_hull", Range(5, 9), pairs, seed).fingerprint() for pairs in (1, 2) for seed in (1, 2)}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("task:convex_hul", "there is no task 'convex_hul', did you mean 'convex_hull'?"),
        ("task:convex_hull?point=5", "task:convex_hull has no 'point', it has points, pairs, seed"),
        (
            "task:convex_hull?points=x",
            "points=x: a whole number is needed, such as points=5 or of a rising range, 5-20",
        ),
        ("task:convex_hull?pairs=1-2", "pairs=1-2: a whole number is needed"),
        ("task:convex_hull?points=2-5", "points=2-5: must be at least 3 and at most 10000"),
        ("task:convex_hull?points=9-5", "points=9-5: a whole number is needed"),
        ("task:convex_hull?points=5-10001", "points=5-10001: must be at least 3 and at most 10000"),
        ("task:convex_hull?pairs=0", "pairs=0: must be at least 1"),
    ],
)
def test_a_task_that_cannot_be_made_is_refused(location: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(train=location)
    assert f"train={location}: {reason}" in str(error.value)


def test_the_fewest_and_the_most_points() -> None:
    assert Task.parse("convex_hull?points=3-10000") == Task("convex_hull", Range(3, 10_000))


# --- corpora ----------------------------------------------------------------------------------------


def test_a_task_is_a_corpus_cached_or_streamed() -> None:
    location = "task:convex_hull?points=5-8&pairs=30&seed=4"
    given = config(train=location, valid=location)
    tokenizers = build_tokenizers(given, read_corpus(given, "train"))
    assert tokenizers.target.size == NUM_SYMBOLS + 8
    corpus = prepare(given, "valid", tokenizers, filtered=False)
    assert len(corpus) == 30
    assert corpus.lines.tolist() == list(range(1, 31))
    rows = list(Task.parse(location.removeprefix("task:")).rows())
    assert corpus.texts([3]) == ([rows[3]["source"]], [rows[3]["target"]])
    assert corpus.pairs([3])[0].target == [NUM_SYMBOLS + int(word) for word in str(rows[3]["target"]).split()]
    streamed = config(train=location, streaming=True)
    stream = prepare(streamed, "train", build_tokenizers(streamed, read_corpus(streamed, "train")), filtered=True)
    assert sum(len(update) for update in stream.updates(50, seed=1, epoch=0)) == 30


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0,0 1,1 x\t0 1", "'x' is no point"),
        ("0,0 2,1 0,1\t0 1", "the point '2,1' lies outside the unit square"),
        ("0,0 1,1 0,1\t0 x", "'x' is no index"),
        ("0,0 1,1 0,1\t0 3", "the index 3 is none of the 3 points, which count from 0"),
    ],
)
def test_a_file_that_does_not_hold_points_is_refused_by_line(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "hulls.tsv"
    path.write_text(f"points\thull\n0,0 1,0 0,1\t0 1 2\n{line}\n")
    given = config(valid=str(path))
    tokenizers = Tokenizers(PointTokenizer(), IndexTokenizer(3), False)
    with pytest.raises(DataError) as error:
        prepare(given, "valid", tokenizers, filtered=False)
    assert str(error.value).startswith(f"{path} line 3: ")
    assert reason in str(error.value)
