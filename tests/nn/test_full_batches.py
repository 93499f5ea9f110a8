"""Where all rows of a batch have one length, which the host knows, attention is given no mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import make_batch, make_model

from nat.data.batch import Batch, Source, Tokens
from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.models.contract import TranslationModel


def test_tokens_of_lists_know_whether_they_are_full() -> None:
    assert Source.from_lists([[5, 6], [7, 8]]).full and not Source.from_lists([[5, 6], [7]]).full
    assert not Source.from_lists([[], []]).full  # one column, which holds nothing
    batch = collate([Pair([5, 6], [7]), Pair([8, 9], [7, 8])])
    assert batch.source.full and not batch.target.full
    full = Tokens.from_lists([[5, 6], [7, 8]])
    assert full.mask is None and full.compact() is full and full.select(torch.tensor([1])).mask is None
    both = Tokens.concatenated([full, Tokens.from_lists([[5, 6, 7]])])
    assert both.mask is not None
    assert replace(full, full=False).mask is full.valid


def masks_of(model: TranslationModel, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bool], Any]:
    """Whether each attention of decoding was given a mask, and the translation."""
    given: list[bool] = []
    attend = F.scaled_dot_product_attention

    def noted(*parts: Any, attn_mask: Any = None, **options: Any) -> Any:
        given.append(attn_mask is not None)
        return attend(*parts, attn_mask=attn_mask, **options)

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(F, "scaled_dot_product_attention", noted)
        return given, model.eval().decode(batch.source, decoding=type(model).Decoding())


@pytest.mark.parametrize(
    ("name", "canvas"),  # the second: whether the canvas is full, too
    [
        ("ctc", True),
        ("dag", True),
        ("imputer", True),
        ("vanilla", False),
        ("mask_predict", False),
        ("autoregressive", False),
    ],
)
def test_attention_gets_no_mask_that_hides_nothing(name: str, canvas: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name, dtype=torch.float64)
    full = make_batch([(5, 4), (5, 3), (5, 4)], vocabularies=model.vocabularies)
    assert full.source.full
    unknown = replace(full, source=replace(full.source, full=False))
    found, translation = masks_of(model, full, monkeypatch)
    expected, same = masks_of(model, unknown, monkeypatch)
    assert len(found) == len(expected) > 0 and sum(found) < sum(expected)
    assert not (canvas and any(found))
    assert torch.equal(translation.valid, same.valid) and torch.equal(translation.tokens, same.tokens)
    torch.testing.assert_close(translation.scores, same.scores, rtol=0, atol=1e-12)
