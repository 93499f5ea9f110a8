"""Estimation against NLTK's own scores, through the file."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from builders import command

from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.search.arpa import read_arpa, write_arpa
from nat.search.language_model import NgramModel, open_language_model
from nat.studies.ngrams import LMConfig, Smoothing, estimate, fit, ngrams, perplexity

pytest.importorskip("nltk")

BOS, EOS, UNK = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.UNK)
A, B, C, D = range(NUM_SYMBOLS, NUM_SYMBOLS + 4)  # D is never seen
SIZE = NUM_SYMBOLS + 4
ROWS = [[A, B, C], [A, B], [B, A, A, A, C], [C], [A, B, A, B, UNK], [B, C, C]]


def written(path: Path, order: int, smoothing: Smoothing) -> tuple[NgramModel, object]:
    model = fit(ROWS, order=order, smoothing=smoothing, num_tokens=SIZE)
    write_arpa(path, "ours", ngrams(model))
    return open_language_model(str(path), num_tokens=SIZE, device=torch.device("cpu")), model


@pytest.mark.parametrize("smoothing", Smoothing)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_probability_is_that_of_nltk(order: int, smoothing: Smoothing, tmp_path: Path) -> None:
    found, model = written(tmp_path / "lm.arpa", order, smoothing)
    assert (found.order, found.tokenizer) == (order, "ours")
    following = torch.tensor([UNK, EOS, A, B, C, D])
    histories = [h for length in range(order + 1) for h in itertools.product([A, B, C, D], repeat=length)]
    for history in histories:
        states = found.states(torch.tensor([[[*history, -1]]]), torch.tensor([[len(history)]])).expand(
            1, len(following)
        )
        values = found.step(states, following[None])[0][0]
        context = tuple(map(str, (BOS, *history)))[max(0, len(history) + 2 - order) :]
        wanted = [math.log(model.score(str(token), context)) for token in following.tolist()]
        assert values.tolist() == pytest.approx(wanted, abs=1e-5)
        assert values.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_all_that_was_seen_is_in_the_file_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "lm.arpa", 3, Smoothing.WITTEN_BELL)
    sentences = [(BOS, *row, EOS) for row in ROWS]
    for order, section in enumerate(read_arpa(tmp_path / "lm.arpa").sections, 1):
        seen = {s[i : i + order] for s in sentences for i in range(len(s) - order + 1)}
        if order == 1:
            seen |= {(D,)}
        assert {tuple(ngram) for ngram in section.tokens.tolist()} == seen
        assert len(section.tokens) == len(seen)


def test_perplexity_is_the_exponential_of_the_mean_per_token_and_end(tmp_path: Path) -> None:
    _, model = written(tmp_path / "lm.arpa", 2, Smoothing.ABSOLUTE_DISCOUNTING)
    rows = [[A, D], [C]]
    steps = [(BOS, A), (A, D), (D, EOS), (BOS, C), (C, EOS)]
    total = sum(math.log(model.score(str(token), (str(context),))) for context, token in steps)
    assert perplexity(str(tmp_path / "lm.arpa"), rows, num_tokens=SIZE) == pytest.approx(math.exp(-total / 5), rel=1e-5)


def test_too_many_ngrams_are_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, small: list[str], tmp_path: Path
) -> None:
    assert command(*small, "model=ctc", "trainer.max_updates=1", f"run_dir={tmp_path}/run") == 0
    monkeypatch.setattr("nltk.lm.counter.MAX_NGRAMS", 300)
    with pytest.raises(
        ConfigError, match=r"order=3: too much text \(Refusing.*300 distinct n.*lower it, or give data.lim"
    ):
        estimate(LMConfig(run_dir=f"{tmp_path}/run", output=f"{tmp_path}/lm.arpa"))
    assert not (tmp_path / "lm.arpa").exists()
