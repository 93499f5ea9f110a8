"""Tuning on expected bigrams: its sums, what it learns, and a run from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from oracles import rows_of

from nat.data.points import IndexTokenizer, PointTokenizer
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Symbol
from nat.ops.lattice import TargetScores
from nat.ops.ngrams import bigram_f1, bigram_precision, expected_length
from nat.training.objective import objective
from nat.training.stages.ngram_tuning import NgramTuning

BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)])
TOKENIZERS = Tokenizers(PointTokenizer(), IndexTokenizer(9), False)  # any will do
FORMS: list[dict[str, Any]] = [{}, {"factored_blank": True, "decoder": {"cross_attention": False}}]
EACH_FORM = pytest.mark.parametrize("form", [*FORMS, {"name": "dag"}])


Make = Callable[..., NgramTuning]


@pytest.fixture
def make() -> Make:
    def build(name: str = "ctc", **options: Any) -> NgramTuning:
        model = make_model(name, dtype=torch.float64, **options).train()
        return NgramTuning(NgramTuning.Config(), model=model, tokenizers=TOKENIZERS, device=torch.device("cpu"))

    return build


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_minus_the_f1_of_what_the_model_says(make: Make, form: dict[str, Any]) -> None:
    stage = make(**form)
    head, states, slots = stage.model.states(BATCH.source)
    log_probs, target, blank = head.full(states), BATCH.target, int(Symbol.BLANK)
    scored = TargetScores.gather(log_probs, target.tokens, slots.lengths, target.lengths, blank=blank)
    length = expected_length(log_probs, slots.valid, blank=blank)
    terms = stage.loss(BATCH, update=1)
    assert terms["bigrams"].total.item() == pytest.approx(-bigram_f1(scored, length).sum().item())
    assert (terms["bigrams"].weight, terms["bigrams"].count) == (1.0, 4)  # a target of one token has no bigram
    assert terms["length_ratio"].total.item() == pytest.approx(length.sum().item())
    assert objective(terms, 15).item() == pytest.approx(terms["bigrams"].total.item() / 15)
    own = stage.model.loss(BATCH, update=1)["nll"]
    assert terms["nll"].total.item() == pytest.approx(own.total.item())
    assert terms["nll"].count == own.count
    assert not terms["nll"].total.requires_grad


def test_the_loss_of_a_graph_is_minus_its_precision(make: Make) -> None:
    stage = make("dag")
    graph, target = stage.model.read(BATCH.source), BATCH.target  # type: ignore[operator]
    columns, _ = graph.columns(target)
    shared, length = bigram_precision(columns, graph.transitions, target.tokens, target.lengths)
    terms, own = stage.loss(BATCH, update=1), stage.model.loss(BATCH, update=1)["nll"]
    assert terms["bigrams"].total.item() == pytest.approx(-shared.sum().item())
    assert terms["length_ratio"].total.item() == pytest.approx(length.sum().item())
    assert terms["nll"].total.item() == pytest.approx(own.total.item())
    assert terms["nll"].count == own.count


@EACH_FORM
def test_terms_are_sums_over_rows_and_every_parameter_learns(make: Make, form: dict[str, Any]) -> None:
    stage = make(**form)
    together, alone = stage.loss(BATCH, update=3), [stage.loss(row, update=3) for row in rows_of(BATCH)]
    for key, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[key].total.item() for row in alone), abs=1e-9), key
        assert term.count.item() == sum(row[key].count.item() for row in alone), key
    objective(together, 15).backward()
    for name, parameter in stage.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["ctc", "dag"])
def test_tuning_raises_what_a_model_that_has_learnt_shares(make: Make, name: str) -> None:
    stage = make(name)
    optimizer = torch.optim.Adam(stage.model.parameters(), lr=3e-3)

    def learn(loss: Callable[..., Any], updates: int) -> None:
        for update in range(updates):
            optimizer.zero_grad()
            objective(loss(BATCH, update=update), 15).backward()
            optimizer.step()

    learn(stage.model.loss, 30)
    before = stage.loss(BATCH, update=1)["bigrams"].total.item()
    assert -3.5 < before < -0.1  # of at least -4
    learn(stage.loss, 30)
    assert stage.loss(BATCH, update=1)["bigrams"].total.item() < before - 0.3


def test_a_run_goes_on_from_a_trained_one(
    small: list[str], tmp_path: Path, nat_train: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    parent, folder = tmp_path / "parent", tmp_path / "run"
    options = [*small, "model=ctc", "trainer.max_updates=2", "validation.every=2"]
    assert nat_train(*options, f"run_dir={parent}") == 0
    tuned = [*options, "stage=ngram_tuning", f"init_from={parent}", f"data.tokenizer.path={parent}/tokenizer"]
    assert nat_train(*tuned, f"run_dir={folder}") == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all({"bigrams", "nll", "length_ratio"} <= line.keys() for line in lines if line["kind"] == "train")
    (valid,) = (line for line in lines if line["kind"] == "valid")
    assert "ctc" in valid
    capfd.readouterr()
    for model, said in (("imputer", "Imputer"), ("vanilla", "Vanilla")):
        assert nat_train(*small, f"model={model}", "stage=ngram_tuning", f"run_dir={tmp_path / model}") == 2
        assert f"stage: NgramTuning trains a CTC or DAG model, not {said}" in capfd.readouterr().err
