"""Decoding of many sentences: order, empty ones, memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from builders import make_batch, make_model

from nat.data.batch import Source
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.models.contract import TranslationModel
from nat.runs.precision import Precision

CPU = torch.device("cpu")
LENGTHS = [(3, 1), (7, 1), (1, 1), (5, 1), (7, 1), (2, 1)]


def decode(model: TranslationModel, rows: list[list[int]], batch_size: int = 4, **options: Any) -> list[Decoded]:
    found: dict[int, Decoded] = {}
    decoding = type(model).Decoding(**options)
    for indices, items in decode_in_batches(
        model, rows, decoding=decoding, batches=BatchOptions(batch_size), device=CPU
    ):
        found |= dict(zip((int(i) for i in indices), items, strict=True))
    assert sorted(found) == list(range(len(rows)))
    return [found[i] for i in range(len(rows))]


def same(first: list[Decoded], second: list[Decoded]) -> bool:
    return all(
        a.tokens == b.tokens
        and a.scores == pytest.approx(b.scores, abs=1e-9)
        and (a.passes, a.truncated) == (b.passes, b.truncated)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", ["autoregressive", "ctc"])
def test_batch_size_changes_nothing_and_order_is_kept(name: str) -> None:
    model, rows = make_model(name, dtype=torch.float64), make_batch(LENGTHS).source.to_lists()
    expected = decode(model, rows, 1)
    assert len({tuple(item.tokens[0]) for item in expected}) > 2
    for batch_size in (2, 4, 100):
        assert same(decode(model, rows, batch_size), expected)


def test_batches_hold_at_most_max_tokens_with_their_padding() -> None:
    model, rows = make_model("ctc"), make_batch(LENGTHS).source.to_lists()  # of 3, 7, 1, 5, 7, 2 tokens
    given: dict[str, Any] = {"decoding": type(model).Decoding(), "device": CPU}
    found = decode_in_batches(model, rows, batches=BatchOptions(4, 10), **given)
    batches = [[int(i) for i in indices] for indices, _ in found]
    assert batches == [[1], [4], [3, 0], [5, 2]]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_products_are_in_the_precision_that_is_asked_for(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, seen = make_model("ctc"), make_batch(LENGTHS).source.to_lists(), list[bool]()
    plain = model.decode

    def decode(source: Source, **options: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain(source, **options)

    monkeypatch.setattr(model, "decode", decode)
    given: dict[str, Any] = {"decoding": type(model).Decoding(), "device": CPU, "precision": precision}
    for _ in decode_in_batches(model, rows, batches=BatchOptions(), **given):
        assert not torch.is_autocast_enabled("cpu")  # what happens between batches is not ours
    assert seen == [precision is Precision.BF16]


def test_empty_sources_get_empty_translations_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make_model("ctc"), make_batch(LENGTHS).source.to_lists()
    with_holes = [[], *rows[:2], [], *rows[2:]]
    found = decode(model, with_holes)
    assert found[0] == found[3] == Decoded([[]], [0.0], 0, False)
    assert same([found[i] for i in (1, 2, 4, 5, 6, 7)], decode(model, rows))
    monkeypatch.setattr(model, "decode", None)
    assert decode(model, [[], []]) == [found[0], found[0]]


@pytest.mark.parametrize("name", ["autoregressive", "ctc"])
def test_out_of_memory_halves_the_batch_and_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make_model(name, dtype=torch.float64), make_batch(LENGTHS).source.to_lists()
    expected, honest, sizes = decode(model, rows, 6), model.decode, []

    def small_memory(source: Source, **options: Any) -> Any:
        sizes.append(len(source))
        if len(source) > 2:
            raise torch.OutOfMemoryError("simulated")
        return honest(source, **options)

    monkeypatch.setattr(model, "decode", small_memory)
    assert same(decode(model, rows, 6), expected)
    assert sizes == [6, 3, 2, 1, 3, 2, 1]


def test_a_single_sentence_that_is_too_big_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("ctc")

    def no_memory(source: Source, **options: Any) -> Any:
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(model, "decode", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        decode(model, make_batch(LENGTHS).source.to_lists())


def test_the_model_is_left_in_its_mode() -> None:
    model = make_model("ctc").train()
    decode(model, make_batch(LENGTHS).source.to_lists())
    assert model.training


def test_the_history_of_each_candidate_is_plain_data_without_padding() -> None:
    model = make_model("mask_predict")
    rows = make_batch([(5, 1), (2, 1)]).source.to_lists()
    options: dict[str, Any] = {"max_passes": 3, "length_beam": 2, "num_candidates": 2}
    for item in decode(model, rows, history=True, **options):
        assert item.history is not None
        assert len(item.history) == len(item.tokens) == 2
        for tokens, passes in zip(item.tokens, item.history, strict=True):
            assert len(passes) <= item.passes
            assert passes[-1]["tokens"] == tokens
            assert {len(values) for each in passes for values in each.values()} == {len(tokens)}
            assert set(passes[0]["fate"]) <= {"written", "masked"}
            assert "masked" not in passes[-1]["fate"]
            assert all(value <= 0 for each in passes for value in each["confidence"])
        json.dumps(item.history)
    assert [item.history for item in decode(model, rows, **options)] == [None, None]
