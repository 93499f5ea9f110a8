"""The loss of a validation: the same weights have the same, and it is training's objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import make_model

from nat.composition import compose
from nat.config import parse
from nat.data.batch import Source
from nat.data.batching import collate
from nat.data.corpus import DataConfig, read_corpus
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizer_training import build_tokenizers
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.runs.precision import AnyPrecision
from nat.training.objective import objective
from nat.training.validation import NOISE, ValidationConfig, Validator


@pytest.fixture(scope="module")
def text(small: list[str]) -> tuple[TokenizedCorpus, Tokenizers]:
    config = parse(DataConfig, compose("train", [*small, "run_dir=x"])["data"], "data")
    tokenizers = build_tokenizers(config, read_corpus(config, "train"))
    return prepare(config, "valid", tokenizers, filtered=False), tokenizers


def validator(text: tuple[TokenizedCorpus, Tokenizers], model: TranslationModel, **options: object) -> Validator:
    config = ValidationConfig(max_sentences=20, **options)  # type: ignore[arg-type]
    return Validator(config, corpus=text[0], tokenizers=text[1], decoding=model.Decoding(), device=torch.device("cpu"))


@pytest.mark.parametrize("name", ["mask_predict", "insertion", "levenshtein", "refinement"])
def test_the_same_weights_have_the_same_loss(text: tuple[TokenizedCorpus, Tokenizers], name: str) -> None:
    """Whatever was drawn before, and however the sentences are cut into batches."""
    model = make_model(name, vocabularies=text[1].vocabularies).train()
    judge = validator(text, model)
    first = judge._losses(model, 20)
    torch.manual_seed(5)
    assert judge._losses(model, 20) == first
    again = validator(text, model, batch_size=3)._losses(model, 20)
    assert again == pytest.approx(first, rel=1e-4)
    assert model.training


def test_the_loss_is_the_objective_of_training(text: tuple[TokenizedCorpus, Tokenizers]) -> None:
    """A term that counts sentences, not tokens, weighs what it weighs in an update."""
    model = make_model("mask_predict", vocabularies=text[1].vocabularies, length={"weight": 0.7})
    judge = validator(text, model)
    pairs = [pair for sentence in judge.pairs for pair in sentence]
    terms = model.loss(collate(pairs), update=NOISE)
    assert int(terms["length"].count) == len(pairs)
    expected = objective(terms, sum(len(pair.target) for pair in pairs)).item()
    assert judge._losses(model, 20)["loss"] == pytest.approx(expected, rel=1e-4)


def test_precision_and_batches_are_options_of_validation(
    text: tuple[TokenizedCorpus, Tokenizers], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("ctc", vocabularies=text[1].vocabularies)
    exact, rounded = validator(text, model), validator(text, model, precision=AnyPrecision.BF16, max_tokens=30)
    assert rounded.measure != exact.measure  # whose scores are no match for these
    seen: list[tuple[bool, bool]] = []  # in bf16, of 30 tokens at most or of one sentence
    plain = model.decode

    def decode(source: Source, **options: Any) -> Any:
        small = source.tokens.numel() <= 30 or len(source) == 1
        seen.append((torch.is_autocast_enabled("cpu"), small))
        return plain(source, **options)

    monkeypatch.setattr(model, "decode", decode)
    values = [judge(model).values for judge in (exact, rounded)]
    assert set(seen) == {(False, False), (True, True)}
    assert values[0]["loss"] != values[1]["loss"]
    assert values[0]["loss"] == pytest.approx(values[1]["loss"], rel=0.02)


def test_fp16_on_a_cpu_is_refused(text: tuple[TokenizedCorpus, Tokenizers]) -> None:
    model = make_model("ctc", vocabularies=text[1].vocabularies)
    with pytest.raises(ConfigError, match=r"^validation\.precision=fp16: not on a CPU"):
        validator(text, model, precision=AnyPrecision.FP16)
