"""Sentences that are too long, told in words before anything is computed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_model

from nat.config import parse
from nat.data.tokenizer import TokenizerConfig, Tokenizers
from nat.decoding.requests import Request
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.runs.precision import Precision
from nat.studies.cloze import Pairs

LINES = ["Click on the page.", "The page and the table.", "Choose a table for the page."]
KIND = {"_target_": "nat.nn.attention.linformer.LinformerAttention", "max_length": 24, "num_keys": 3}
LONG = "Click on the table for the page. " * 3


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    config = parse(TokenizerConfig, {"vocabulary_size": 40, "kind": "bpe"})
    return Tokenizers.train(config, LINES, LINES)


def translator(tokenizers: Tokenizers, name: str, **overrides: Any) -> Translator:
    model = make_model(name, vocabularies=tokenizers.vocabularies, **overrides)
    return Translator(model, tokenizers, torch.device("cpu"), config={}, folder=Path("RUN"))


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ({"encoder": {"attention": KIND}}, "attention.max_length"),
        ({"positions": {"kind": "learned", "max_length": 24}}, "positions.max_length"),
    ],
)
def test_a_long_source_is_refused_by_its_line_and_the_option(
    tokenizers: Tokenizers, overrides: dict[str, Any], option: str
) -> None:
    able = translator(tokenizers, "mask_predict", **overrides)
    assert len(able.translate(["Click", ""])) == 2
    with pytest.raises(DataError, match=rf"the input, line 2: \d+ tokens, but RUN takes at most 24 \({option}\)$"):
        able.translate(["Click", LONG])


def test_a_long_draft_is_refused(tokenizers: Tokenizers) -> None:
    able = translator(tokenizers, "insertion", attention=KIND)
    with pytest.raises(DataError, match=r"have \d+ tokens, but RUN writes at most 22 \(attention.max_length\)$"):
        able.translate([Request("Click", draft=LONG)])


def test_long_targets_have_no_score(tokenizers: Tokenizers) -> None:
    able = translator(tokenizers, "vanilla", attention=KIND)
    scores = able.score(["Click", "Click"], ["page", LONG])
    assert [score > -torch.inf for score in scores] == [True, False]


def test_one_stack_refuses_sides_that_are_too_long_together(tokenizers: Tokenizers) -> None:
    side = "Click on the page"
    (ids,) = tokenizers.source.encode([side])
    both = 2 * len(ids)
    able = translator(tokenizers, "kermit", encoder={"attention": KIND | {"max_length": both + 4}})
    assert able.translate([Request(side, draft=side)])
    able = translator(tokenizers, "kermit", encoder={"attention": KIND | {"max_length": both + 3}})
    with pytest.raises(
        DataError, match=rf"line 1: {both} tokens with .* most {both - 1} of both sides \(attention.max_"
    ):
        able.translate([Request(side, draft=side)])
    with pytest.raises(
        DataError, match=rf"line 1: \d+ tokens, but RUN takes at most {both - 2} \(attention.max_length"
    ):
        able.translate([LONG])


def test_pairs_with_gaps_are_checked_by_side_and_together(tokenizers: Tokenizers) -> None:
    able = translator(tokenizers, "kermit", encoder={"attention": KIND})

    def pairs(first: int, second: int) -> Pairs:
        return Pairs("test", ([""], [""]), ([[9] * first], [[9] * second]), [7], 0)

    pairs(12, 8).check_lengths(able)
    with pytest.raises(DataError, match=r"test, line 7: 21 tokens, but RUN takes at most 20 of both sides \(attention"):
        pairs(12, 9).check_lengths(able)
    with pytest.raises(DataError, match=r"test, line 7: 20 tokens, but RUN takes at most 19 \(attention.max_length\)$"):
        pairs(20, 0).check_lengths(able)


def test_white_space_of_every_kind_is_an_empty_sentence(tokenizers: Tokenizers) -> None:
    able = translator(tokenizers, "ctc")
    blank = ["", " ", "\t", "\xa0", "\u3000", " \u2003\t"]
    found = able.candidates([*blank, "Click"])
    assert [item.passes for item in found] == [0] * len(blank) + [1]
    assert [item.best for item in found[:-1]] == [""] * len(blank)
    with pytest.raises(DataError, match="source 1 is empty"):
        able.score(["\u3000"], ["page"])


def test_a_text_is_not_a_list_of_texts(tokenizers: Tokenizers) -> None:
    able = translator(tokenizers, "ctc")
    for call in (
        lambda: able.translate("Click"),
        lambda: able.candidates("Click"),
        lambda: able.translate(Request("Click")),  # type: ignore[arg-type]
        lambda: able.score("ab", "cd"),
        lambda: able.score(["ab"], "c"),
        lambda: Request("Click", constraints="OK"),
    ):
        with pytest.raises(TypeError, match="a list is needed"):
            call()
    with pytest.raises(TypeError, match=r"sentences\[1\]: text is needed, not int"):
        able.translate(["Click", 7])  # type: ignore[list-item]
    assert len(able.translate(line for line in LINES)) == len(LINES)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(tokenizers: Tokenizers, batch_size: int) -> None:
    able = translator(tokenizers, "autoregressive")
    for call in (able.translate, able.candidates, lambda lines, **options: able.score(lines, lines, **options)):
        with pytest.raises(ConfigError, match=rf"^batch_size={batch_size}: must be at least 1 and "):
            call(["Click"], batch_size=batch_size)


def test_scores_and_translations_are_in_the_translators_precision(tokenizers: Tokenizers) -> None:
    exact = translator(tokenizers, "ctc")
    rounded = exact.in_precision(Precision.BF16)
    assert (exact.computed_in, rounded.computed_in, rounded.model) == ("fp32", "bf16", exact.model)
    one, other = exact.score(["Click"], ["Klick"]), rounded.score(["Click"], ["Klick"])
    assert one != other
    assert one == pytest.approx(other, rel=0.05)
    first, second = (able.candidates(LINES)[0].scores for able in (exact, rounded))
    assert first != second
    assert first == pytest.approx(second, rel=0.05)


def test_a_forked_process_translates(tokenizers: Tokenizers) -> None:
    """Torch alone hangs there: its threads did not come along."""
    able = translator(tokenizers, "ctc")
    torch.set_num_threads(2)
    try:
        torch.rand(1 << 20).exp()  # threads start here
        child = os.fork()
        if child == 0:
            torch.rand(1 << 20).exp()
            os._exit(0 if able.translate(LINES) else 1)
        end = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.05)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended == (child, 0)
    finally:
        torch.set_num_threads(1)
