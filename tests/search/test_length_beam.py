"""Rows of several lengths for each sentence, with a length model whose answers are known."""

from __future__ import annotations

import pytest
import torch
from builders import make_model

from nat.data.batch import Source
from nat.models.vanilla import Vanilla
from nat.search.length_beam import LengthBeam

PROBABILITIES = [[0.1, 0.2, 0.4, 0.25, 0.05], [0.3, 0.1, 0.2, 0.15, 0.25]]  # of the differences -2 .. 2
SOURCE = Source.from_lists([[7, 8, 9], [10, 11, 12]])


def beam(model: Vanilla, monkeypatch: pytest.MonkeyPatch, *, copies: int, samples: bool) -> LengthBeam:
    encode = model.length.encode
    log_probs = torch.tensor(PROBABILITIES, dtype=torch.float64).log()
    monkeypatch.setattr(model.length, "encode", lambda net, source: (encode(net, source)[0], log_probs))
    return LengthBeam.of(model.length, model.net, SOURCE, copies=copies, samples=samples, limit=None, banned=(1,))


def vanilla() -> Vanilla:
    model = make_model("vanilla", length={"max_offset": 2})
    assert isinstance(model, Vanilla)
    return model


def test_canvases_have_the_best_lengths_or_the_best_one_for_each_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vanilla()
    best = beam(model, monkeypatch, copies=3, samples=False)
    assert best.lengths.tolist() == [3, 4, 2, 1, 5, 3]
    assert best.scores.exp().tolist() == pytest.approx([0.4, 0.25, 0.2, 0.3, 0.25, 0.2])
    assert best.source.to_lists() == [[7, 8, 9]] * 3 + [[10, 11, 12]] * 3
    assert (len(best.memory), best.memory.banned) == (6, (1,))
    samples = beam(vanilla(), monkeypatch, copies=2, samples=True)
    assert samples.lengths.tolist() == [3, 3, 1, 1]
    assert samples.scores.exp().tolist() == pytest.approx([0.4, 0.4, 0.3, 0.3])


def test_canvases_of_other_lengths_have_their_own_scores_and_equal_ones_are_one_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, lengths = vanilla(), torch.tensor([4, 4, 2, 5, 9, 5])
    resized = beam(model, monkeypatch, copies=3, samples=False).resized(model.length, lengths)
    assert resized.lengths.tolist() == lengths.tolist()
    assert resized.scores.exp().tolist() == pytest.approx([0.25, 0.0, 0.2, 0.25, 0.0, 0.0])
    model = vanilla()
    samples = beam(model, monkeypatch, copies=3, samples=True).resized(model.length, lengths)
    assert samples.scores.exp().tolist() == pytest.approx([0.25, 0.25, 0.2, 0.25, 0.0, 0.25])
