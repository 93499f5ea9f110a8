"""Choosing among candidates, and the options that all decoders share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nat.config import parse
from nat.data.batch import Source
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.mask_predict import MaskPredict
from nat.models.options import DecodingOptions, LengthBeamOptions
from nat.models.vanilla import Vanilla
from nat.search.canvas import Canvas
from nat.search.refine import History

TOKENS = torch.tensor([[[8, 9, 9], [8, 7, 0], [9, 7, 0]], [[8, 0, 0], [9, 9, 9], [7, 7, 0]]])
VALID = TOKENS > 0
# sums -6, -3, -5 with means -2, -1.5, -2.5; and sums -1, -2.4, -1 with means -1, -0.8, -0.5; junk where not valid
SCORES = torch.tensor([[[-1, -2, -3], [-1, -2, -50], [-1, -4, 3]], [[-1, 9, 9], [-0.8, -0.8, -0.8], [-0.6, -0.4, 5]]])
SOURCE = Source.from_lists([[9], [9]])
LENGTH_SCORES = torch.tensor([[-0.1, -8.0, -0.2], [-0.5, -0.5, -3.0]])


def best(count: int, *, ordered: bool = False, **options: Any) -> Translation:
    canvas = replace(Canvas.start(TOKENS.flatten(0, 1), VALID.flatten(0, 1)), scores=SCORES.flatten(0, 1))
    extra = options.pop("extra_scores", LENGTH_SCORES).flatten()
    decoding = DecodingOptions(num_candidates=count, temperature=1.0 if ordered else None)
    return Translation.best_of(canvas, decoding, copies=3, extra_scores=extra, **options)


def test_the_best_have_the_highest_mean_log_probability_of_a_token() -> None:
    found = best(2)
    assert found.tokens.tolist() == [[[8, 7, 0], [8, 9, 9]], [[7, 7, 0], [9, 9, 9]]]
    assert torch.equal(found.valid, found.tokens > 0)
    assert found.scores.tolist() == [pytest.approx([-11.0, -6.1]), pytest.approx([-4.0, -2.9])]
    assert found.passes.tolist() == [1, 1]
    assert found.truncated.tolist() == [False, False]


def test_samples_stay_in_their_order() -> None:
    found = best(2, ordered=True)
    assert torch.equal(found.tokens, TOKENS[:, :2])
    assert found.scores.tolist() == [pytest.approx([-6.1, -11.0]), pytest.approx([-1.5, -2.9])]


def test_impossible_candidates_are_the_last() -> None:
    impossible = torch.tensor([[-0.1, -torch.inf, -0.2], [-0.5, -0.5, -torch.inf]])
    found = best(3, extra_scores=impossible)
    assert found.tokens[0].tolist() == [[8, 9, 9], [9, 7, 0], [8, 7, 0]]
    assert found.tokens[1].tolist() == [[9, 9, 9], [8, 0, 0], [7, 7, 0]]
    assert (found.scores[:, 2] == -torch.inf).all()
    assert torch.isfinite(found.scores[:, :2]).all()


def test_a_sentence_has_the_passes_of_its_slowest_candidate() -> None:
    assert best(1, calls=torch.tensor([2, 3, 1, 4, 1, 1])).passes.tolist() == [3, 4]


def test_each_candidate_brings_its_own_history() -> None:
    tokens = TOKENS.flatten(0, 1)[:, None]  # (B * K, 1, L)
    histories = best(2, history=History(tokens, torch.zeros_like(tokens).float(), tokens)).history
    assert [h.tokens[:, 0].tolist() for h in histories] == [[[8, 7, 0], [7, 7, 0]], [[8, 9, 9], [9, 9, 9]]]
    assert best(2).history == ()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"num_candidates": 3, "length_beam": 2},
            "num_candidates=3: must be at most length_beam=2, unless temperature is set",
        ),
        (
            {"length_beam": 4, "temperature": 0.5},
            "length_beam=4: has no effect with temperature, which samples",
        ),
        ({"temperature": 0.0}, "temperature=0.0: must be more than 0"),
        ({"num_candidates": 0}, "num_candidates=0: must be at least 1"),
        ({"length_beam": 0}, "length_beam=0: must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(LengthBeamOptions, options, "decoding")


def test_a_sentence_has_a_canvas_for_each_length_or_each_sample() -> None:
    assert LengthBeamOptions(length_beam=4, num_candidates=2).num_copies(SOURCE) == 4
    assert LengthBeamOptions(temperature=1.0, num_candidates=7).num_copies(SOURCE) == 7
    assert MaskPredict.Decoding().num_copies(SOURCE) == 5  # its paper's
    assert Vanilla.Decoding().num_copies(SOURCE) == MaskPredict.Decoding(length_beam=1).num_copies(SOURCE) == 1


def test_without_a_temperature_the_most_probable_token_is_picked() -> None:
    log_probs = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]]).log()
    assert DecodingOptions().pick(log_probs, None).tolist() == [[1, 0]]
