"""A memory that several rows and passes read: its keys and values are made once a sentence."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.data.batch import Batch, Source
from nat.models.autoregressive import Autoregressive
from nat.models.fertility import Choice
from nat.models.mask_predict import MaskPredict
from nat.nn.attention.full import FullAttention
from nat.nn.seq2seq import Conditions
from nat.nn.transformer import Decoder, Memory

SOURCE = make_batch([(5, 1), (3, 1), (7, 1)]).source


def decoder_and_memory() -> tuple[Decoder, Memory]:
    model = make_model("mask_predict", dtype=torch.float64)
    assert isinstance(model, MaskPredict)
    return model.net.decoder, model.net.encode(SOURCE)


def read_by(decoder: Decoder, memory: Memory) -> Tensor:
    """States of a canvas of 4 positions for each row."""
    x = torch.randn(len(memory), 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return decoder(x, torch.ones(x.shape[:2], dtype=torch.bool), memory)


@torch.no_grad()
def test_copies_read_one_memory_as_if_each_had_its_own() -> None:
    decoder, memory = decoder_and_memory()
    own, shared = memory.repeat_rows(3), memory.shared(3)
    assert len(own) == len(shared) == 9
    assert len(shared.states) == 3
    expected = read_by(decoder, own)
    for one in (shared, decoder.project(memory).shared(3), decoder.project(memory.shared(3))):
        assert torch.allclose(read_by(decoder, one), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [torch.tensor([8, 1, 2, 3]), torch.arange(9) % 2 == 0], ids=["index", "mask"])
@torch.no_grad()
def test_what_is_left_of_copies_reads_what_it_read(rows: Tensor) -> None:
    decoder, memory = decoder_and_memory()
    expected = read_by(decoder, memory.repeat_rows(3).select(rows))
    left = Conditions(decoder.project(memory).shared(3)).select(rows).memory  # as `refine` asks, from the outside
    assert torch.allclose(read_by(decoder, left), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_copies_of_copies_stand_side_by_side() -> None:
    decoder, memory = decoder_and_memory()
    expected = read_by(decoder, memory.repeat_rows(6))
    for one in (memory.shared(2).shared(3), Conditions(memory.shared(2)).repeat_rows(3).memory):
        assert torch.allclose(read_by(decoder, one), expected, rtol=0, atol=1e-12)


DECODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # model -> (its options, how it decodes)
    "mask_predict": ({}, {"length_beam": 3, "max_passes": 4}),
    "refinement": ({}, {"length_beam": 3, "max_passes": 4, "adaptive": False}),
    "imputer": ({}, {"temperature": 1.0, "num_candidates": 3, "max_passes": 4}),
    "insertion": ({}, {"temperature": 1.0, "num_candidates": 3, "max_length_offset": 1, "max_length_factor": 1.0}),
    "levenshtein": ({"share_decoders": "none"}, {"temperature": 1.0, "num_candidates": 3, "max_passes": 3}),
    "edit_flow": ({}, {"temperature": 1.0, "num_candidates": 3, "max_passes": 3}),
    "fertility": ({}, {"num_candidates": 3, "fertilities": Choice.SAMPLE}),
    "vanilla": ({}, {"length_beam": 3}),
}


@pytest.mark.parametrize(("name", "copying"), [*((name, False) for name in DECODERS), ("mask_predict", True)])
@torch.no_grad()
def test_decoders_project_a_sentence_once(name: str, copying: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a pass, and not once for each of its canvases."""
    options, decoding = DECODERS[name]
    model = make_model(name, **options, copying={"enabled": True}) if copying else make_model(name, **options)
    projected: Counter[FullAttention] = Counter()
    plain = FullAttention.keys_values

    def counted(self: FullAttention, context: Tensor) -> tuple[Tensor, Tensor]:
        projected[self] += len(context)
        return plain(self, context)

    monkeypatch.setattr(FullAttention, "keys_values", counted)
    found = model.decode(SOURCE, decoding=type(model).Decoding(**decoding))
    assert len(found) == len(SOURCE)
    decoders = [part for part in model.modules() if isinstance(part, Decoder)]
    assert projected == {layer.cross_attention: len(SOURCE) for decoder in decoders for layer in decoder.stack}


@torch.no_grad()
def test_a_length_beam_stores_one_memory_a_sentence() -> None:
    model = make_model("mask_predict")
    assert isinstance(model, MaskPredict)
    memory = MaskPredict.Decoding(length_beam=4).lengths(model.length, model.net, SOURCE, limit=None).memory
    assert (len(memory), len(memory.states)) == (12, 3)


@torch.no_grad()
def test_equal_sources_are_encoded_once_for_all_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("autoregressive", dtype=torch.float64)
    assert isinstance(model, Autoregressive)
    rows = torch.tensor([2, 0, 2, 1, 2, 0])
    batch = Batch(SOURCE.select(rows), make_batch([(1, n) for n in (3, 2, 5, 4, 1, 3)]).target)
    expected = [model.score(batch.select(torch.tensor([row]))).item() for row in range(len(batch))]
    seen: list[int] = []
    encode = model.net.encode

    def spy(source: Source) -> Memory:
        seen.append(len(source))
        return encode(source)

    monkeypatch.setattr(model.net, "encode", spy)
    assert model.score(batch).tolist() == pytest.approx(expected, abs=1e-10)
    model.score(batch.select(torch.tensor([0, 1, 3])))
    assert seen == [3, 3]
