"""The fertility NAT: canvases, candidates, losses, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import VOCABULARIES, even_fertilities, make_batch, make_model
from oracles import rows_of
from torch import Tensor, nn

from nat.config import parse
from nat.data.batch import Source
from nat.data.tokenizer import TokenizerConfig, Tokenizers
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.fertility import Fertility
from nat.nn.attention.positional import OthersAttention, PositionalAttention
from nat.nn.rng import RowRandom
from nat.nn.transformer import Layer

LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]
TOLERANCE = 1e-9


def fertility(**options: Any) -> Fertility:
    model = make_model("fertility", dtype=torch.float64, **options)
    assert isinstance(model, Fertility)
    return model


def decoding(**options: Any) -> Fertility.Decoding:
    return parse(Fertility.Decoding, options, "decoding")


def decode(model: Fertility, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=decoding(**{"max_length_factor": 99} | options))


class Oracle(nn.Module):
    """A fertility head that knows: probabilities for each source position, whatever the states."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.log_probs = torch.tensor(probabilities, dtype=torch.float64).log()

    def forward(self, states: Tensor) -> Tensor:
        return self.log_probs[None, : states.size(1)].expand(len(states), -1, -1)


def certain(fertilities: list[int], *, largest: int = 5) -> Oracle:
    return Oracle([[float(f == number) for number in range(largest + 1)] for f in fertilities])


def rows(found: Translation) -> list[list[tuple[list[int], float]]]:
    """For each source, its candidates: tokens and score."""
    return [
        [(ids[keep].tolist(), round(score, 9)) for ids, keep, score in zip(*parts[:2], parts[2].tolist(), strict=True)]
        for parts in zip(found.tokens, found.valid, found.scores, strict=True)
    ]


# --- canvases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["argmax", "average"])
def test_a_head_that_knows_gives_the_canvas_of_a_loop(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = fertility(), make_batch([(4, 1), (2, 1)]).source
    numbers = [2, 0, 3, 1]
    model.fertility = certain(numbers)  # type: ignore[assignment]
    seen: list[Tensor] = []
    place = model.net.place
    monkeypatch.setattr(model.net, "place", lambda x: (seen.append(x), place(x))[1])
    found = decode(model, source, fertilities=choice)
    assert found.valid.sum(dim=2).tolist() == [[6], [2]]
    for row, ids in enumerate(source.to_lists()):
        copied = [token for token, number in zip(ids, numbers, strict=False) for _ in range(number)]
        expected = model.net.embeddings.source(torch.tensor(copied))
        assert torch.equal(seen[0][row, : len(copied)], expected)
    assert not found.truncated.any()


def test_argmax_and_average_differ_as_they_should() -> None:
    model, source = fertility(), make_batch([(2, 1)]).source
    model.fertility = Oracle([[0.4, 0.0, 0.3, 0.0, 0.3, 0.0], [0.0, 0.6, 0.0, 0.0, 0.0, 0.4]])  # type: ignore[assignment]
    assert decode(model, source).valid.sum().item() == 0 + 1
    assert decode(model, source, fertilities="average").valid.sum().item() == 2 + 3  # of 1.8 and 2.6


def test_a_canvas_of_nothing_becomes_one_copy_of_the_likeliest_token() -> None:
    model, source = fertility(), make_batch([(3, 1)]).source
    model.fertility = Oracle([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])  # type: ignore[assignment]
    memory = model.net.encode(source)
    for choice in ("argmax", "average"):
        random = RowRandom.of((source.tokens, source.valid), seed=1)
        chosen = model.choose_fertilities(memory, random, decoding(fertilities=choice))
        assert chosen.tolist() == [[[0, 1, 0]]]
    assert decode(model, source).valid.sum().item() == 1


def test_the_limit_cuts_the_canvas_and_says_so() -> None:
    model, source = fertility(), make_batch([(4, 1), (2, 1), (1, 1)]).source
    model.fertility = certain([2, 0, 5, 5])  # type: ignore[assignment]
    found = decode(model, source, max_length_factor=2.0)
    assert found.valid.sum(dim=2).tolist() == [[8], [2], [2]]
    assert found.truncated.tolist() == [True, False, False]
    assert decode(model, source, max_length_factor=0.1).valid.sum(dim=2).tolist() == [[1], [1], [1]]
    learned = fertility(positions={"kind": "learned", "max_length": 7})
    learned.fertility = certain([2, 0, 5, 5])  # type: ignore[assignment]
    found = decode(learned, source)
    assert found.valid.sum(dim=2).tolist() == [[7], [2], [2]]
    assert found.truncated.tolist() == [True, False, False]


# --- decoder ----------------------------------------------------------------------------------------


def test_every_layer_has_its_three_attentions_and_a_position_does_not_see_itself() -> None:
    model, source = fertility(), make_batch([(2, 1)]).source
    model.fertility = certain([1, 1])  # type: ignore[assignment]
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in model.net.decoder.stack:
        assert isinstance(layer, Layer)
        assert isinstance(layer.self_attention, OthersAttention)
        assert isinstance(layer.positional_attention, PositionalAttention)
        assert layer.cross_attention is not None
        layer.self_attention.register_forward_hook(lambda _, given, found: seen.append((given[0], found)))
    model.decode(source, decoding=decoding())
    assert len(seen) == len(model.net.decoder.stack)
    for given, found in seen:  # with two positions, the query has no say: only the other one's value counts
        (gradient,) = torch.autograd.grad(found[0, 0].square().sum(), given, retain_graph=True)
        assert gradient[0, 0].abs().max() < 1e-12
        assert gradient[0, 1].abs().sum() > 0


# --- candidates -------------------------------------------------------------------------------------


def test_candidates_are_nested_and_the_first_is_the_argmax_translation() -> None:
    model, source = fertility(), make_batch(LENGTHS).source
    few = rows(decode(model, source, fertilities="sample", num_candidates=3))
    many = rows(decode(model, source, fertilities="sample", num_candidates=9))
    other = rows(decode(model, source, fertilities="sample", num_candidates=9, seed=2))
    best = rows(decode(model, source))
    assert [candidates[:3] for candidates in many] == few
    assert [candidates[:1] for candidates in many] == best == [candidates[:1] for candidates in other]
    assert all(a[1:] != b[1:] for a, b in zip(many, other, strict=True))
    assert all(len({len(tokens) for tokens, _ in candidates}) > 1 for candidates in many)


def test_samples_follow_the_head() -> None:
    model, source = fertility(), make_batch([(2, 1)]).source
    model.fertility = Oracle([[0.0, 0.75, 0.25], [0.5, 0.0, 0.5]])  # type: ignore[assignment]
    random = RowRandom.of((source.tokens, source.valid), seed=1)
    with torch.no_grad():
        memory = model.net.encode(source)
        options = decoding(fertilities="sample", num_candidates=2001)
        chosen = model.choose_fertilities(memory, random, options)[0, 1:]
    assert (chosen[:, 0] == 2).double().mean().item() == pytest.approx(0.25, abs=0.05)
    assert (chosen[:, 1] == 2).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert ((chosen[:, 0] == 2) & (chosen[:, 1] == 2)).double().mean().item() == pytest.approx(0.125, abs=0.05)


DECODINGS: list[dict[str, Any]] = [
    {"fertilities": "average"},
    {"fertilities": "sample", "num_candidates": 4},
    {"temperature": 0.7, "num_candidates": 3},
    {"temperature": 0.7, "fertilities": "sample", "num_candidates": 3},
]


@pytest.mark.parametrize("options", DECODINGS)
def test_a_row_decodes_as_alone_whatever_its_batch_and_padding(options: dict[str, Any]) -> None:
    model, source = fertility(), make_batch([*LENGTHS, (9, 1)]).source
    together = rows(decode(model, source, **options))
    alone = [rows(decode(model, Source.from_lists([row]), **options))[0] for row in source.to_lists()]
    assert together == alone
    padded = Source.from_lists([[0] * 3 + row for row in source.to_lists()])
    shifted = Source(padded.tokens, padded.valid & (torch.arange(padded.tokens.size(1)) >= 3))
    assert rows(decode(model, shifted, **options)) == together


@pytest.mark.parametrize("options", [{}, *DECODINGS])
def test_all_candidates_take_one_decoder_call_and_scores_are_those_of_their_tokens(options: dict[str, Any]) -> None:
    model, source = fertility(), make_batch([(3, 1)]).source
    calls: list[Tensor] = []
    model.net.decoder.register_forward_hook(lambda *_: calls.append(torch.tensor(1)))
    found = decode(model, source, **options)
    assert len(calls) == 1
    assert found.passes.tolist() == [1]
    for ids, keep, score in zip(found.tokens[0], found.valid[0], found.scores[0].tolist(), strict=True):
        assert score < 0
        assert score == pytest.approx(best_score(model, source, ids[keep].tolist(), options), abs=1e-9)


def best_score(model: Fertility, source: Source, tokens: list[int], options: dict[str, Any]) -> float:
    """Log-probability of these tokens on the canvas among the decoding's own that gives them."""
    random = RowRandom.of((source.tokens, source.valid), seed=1).fork(0)
    found = []
    with torch.no_grad():
        memory = model.net.encode(source)
        for numbers in model.choose_fertilities(memory, random, decoding(**options))[0]:
            if numbers.sum() == len(tokens):
                log_probs, _ = model.translate(source, numbers[None], memory)
                exact = sum(log_probs[0, t, token].item() for t, token in enumerate(tokens))
                greedy = log_probs[0].argmax(dim=-1).tolist() == tokens
                if greedy or "temperature" in options:
                    found.append(exact)
    return max(found)


def test_temperature_samples_tokens_that_are_nested_and_cool_down_to_the_arg_max() -> None:
    model, source = fertility(), make_batch(LENGTHS).source
    few = rows(decode(model, source, temperature=2.0, num_candidates=2))
    many = rows(decode(model, source, temperature=2.0, num_candidates=5))
    assert [candidates[:2] for candidates in many] == few
    assert any(len({tuple(tokens) for tokens, _ in candidates}) > 1 for candidates in many)
    cold = rows(decode(model, source, temperature=1e-6, num_candidates=2))
    assert cold == [candidates * 2 for candidates in rows(decode(model, source))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fertilities": "sample"}, "decoding.fertilities=sample: has no effect with num_candidates=1"),
        ({"num_candidates": 4}, "decoding.num_candidates=4: fertilities=argmax gives one translation; choose "),
        ({"num_candidates": 4, "fertilities": "average"}, "decoding.num_candidates=4: fertilities=average gives one"),
        ({"seed": 2}, "decoding.seed=2: "),
        ({"fertilities": "mode"}, "decoding.fertilities=mode: allowed are argmax, average, sample"),
        ({"max_length_factor": 0}, "decoding.max_length_factor=0.0: must be more than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        decoding(**options)
    assert str(error.value).startswith(message)


# --- loss -------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_a_loop() -> None:
    model, batch = fertility(label_smoothing=0.1, fertility_weight=0.5), make_batch(LENGTHS)
    terms = model.loss(batch, update=1)
    translation = fertilities = nll = 0.0
    allowed = [i for i in range(VOCABULARIES.target_size) if i not in model.net.output.forbidden]
    assert batch.fertilities is not None
    for row, (num_source, num_target) in enumerate(LENGTHS):
        source = Source.from_lists([batch.source.to_lists()[row]])
        numbers = batch.fertilities[row, :num_source]
        memory = model.net.encode(source)
        log_probs, _ = model.translate(source, numbers[None], memory)
        for t in range(num_target):
            gold = -log_probs[0, t, batch.target.tokens[row, t]].item()
            nll += gold
            translation += 0.9 * gold - 0.1 * log_probs[0, t, allowed].mean().item()
        head = model.fertility(memory.states)[0].log_softmax(dim=-1)
        fertilities -= sum(head[i, number].item() for i, number in enumerate(numbers.tolist()))
    assert terms["cross_entropy"].total.item() == pytest.approx(translation, abs=TOLERANCE)
    assert terms["nll"].total.item() == pytest.approx(nll, abs=TOLERANCE)
    assert terms["fertility"].total.item() == pytest.approx(fertilities, abs=TOLERANCE)
    assert [terms[name].weight for name in ("cross_entropy", "fertility", "nll")] == [1.0, 0.5, 0.0]
    assert terms["fertility"].count.item() == sum(s for s, _ in LENGTHS)
    assert terms["nll"].count.item() == sum(t for _, t in LENGTHS)


GLANCING: dict[str, Any] = {"glancing": {"start": 1.0, "end": 1.0}}
DEEP: dict[str, Any] = {"deep_supervision": {"enabled": True, "gold": 0.5}}


def test_glancing_reveals_the_mistakes_share_and_trains_on_the_rest() -> None:
    model, batch = fertility(**GLANCING), make_batch(LENGTHS)
    with torch.no_grad():
        assert batch.fertilities is not None
        log_probs, valid = model.translate(batch.source, batch.fertilities, model.net.encode(batch.source))
        right = ((log_probs.argmax(dim=-1) == batch.target.tokens) & valid).sum().item()
        assert (
            model.loss(batch, update=1)["cross_entropy"].count.item() == valid.sum().item()
        )  # validation: no glancing
        terms = model.train().loss(batch, update=1)
    assert terms["cross_entropy"].count.item() == right
    assert terms["fertility"].count.item() == sum(s for s, _ in LENGTHS)


@pytest.mark.parametrize("options", [{"glancing": {"start": 0.5, "end": 0.5}}, DEEP, GLANCING | DEEP])
def test_glancing_and_deep_supervision_are_sums_over_rows_too(options: dict[str, Any]) -> None:
    model, batch = fertility(**options).train(), make_batch(LENGTHS)
    together = model.loss(batch, update=3)
    alone = [model.loss(row, update=3) for row in rows_of(batch)]
    for key, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[key].total.item() for row in alone), abs=TOLERANCE), key
        assert term.count.item() == sum(row[key].count.item() for row in alone), key


def test_deep_supervision_trains_every_layer_on_the_mean_of_its_losses() -> None:
    model, batch = fertility(**DEEP), make_batch(LENGTHS)
    terms = model.loss(batch, update=1)
    terms["cross_entropy"].total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.net.feedback.parameters())
    assert terms["cross_entropy"].total.item() != pytest.approx(terms["nll"].total.item())  # nll: the last layer's


def test_shares_of_glancing_and_of_gold_are_those_asked_for() -> None:
    batch = make_batch(LENGTHS)

    def learnt(update: int, **options: Any) -> int:
        return int(fertility(**options).train().loss(batch, update=update)["cross_entropy"].count)

    counts = [learnt(update, glancing={"start": 1.0, "end": 0.0, "updates": 10}) for update in (0, 5, 10)]
    assert counts[0] < counts[1] < counts[2] == batch.num_target_tokens
    counts = [learnt(1, deep_supervision={"enabled": True, "gold": gold}) for gold in (1.0, 0.5, 0.0)]
    assert 0 == counts[0] < counts[1] < counts[2] == batch.num_target_tokens


def test_pairs_that_cannot_be_learnt() -> None:
    batch = make_batch([(3, 3), (3, 3), (6, 4), (4, 6)])
    numbers = torch.tensor([[1, 1, 1, 0, 0, 0], [3, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [2, 2, 2, 0, 0, 0]])
    batch = replace(batch, fertilities=numbers)
    assert fertility(max_fertility=2).learnable(batch).tolist() == [True, False, True, True]
    short = fertility(positions={"kind": "learned", "max_length": 5})
    assert short.learnable(batch).tolist() == [True, True, False, False]


def test_without_fertilities_there_is_no_training_and_no_validation_loss() -> None:
    model, batch = fertility(), replace(make_batch(LENGTHS), fertilities=None)
    assert model.loss(batch, update=1) == {}
    for call in (model.learnable, lambda batch: model.train().loss(batch, update=1)):
        with pytest.raises(ConfigError) as error:
            call(batch)
        assert str(error.value).startswith("data.fertilities: model=fertility learns from fertilities")
        assert "nat-distill" in str(error.value)
        assert "\n" not in str(error.value)


# --- a run ------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(small: list[str], tmp_path: Path) -> list[str]:
    """The options `small` with the training pairs as JSON lines with fertilities."""
    plain = Path(next(o for o in small if o.startswith("data.train=")).split("=")[1])
    pairs = [line.split("\t") for line in plain.read_text(encoding="utf-8").splitlines()]
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    tokenizers = Tokenizers.train(parse(TokenizerConfig, {"vocabulary_size": 250}), sources, targets)
    tokenizers.save(tmp_path / "tokenizer")
    ids = zip(tokenizers.source.encode(sources), tokenizers.target.encode(targets), strict=True)
    numbers = [even_fertilities(len(s), len(t)) for s, t in ids]
    lines = [json.dumps({"en": s, "de": t, "f": n}) for s, t, n in zip(sources, targets, numbers, strict=True)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = [option for option in small if "vocabulary_size" not in option]
    return [*kept, f"data.train={tmp_path / 'train.jsonl'}", f"data.tokenizer.path={tmp_path / 'tokenizer'}"]


def test_a_run_trains_on_fertilities_and_validates_without(
    corpus: list[str], tmp_path: Path, nat_train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    short = ["trainer.max_updates=3", "validation.every=3"]
    assert nat_train(*corpus, *short, "model=fertility", "data.fertilities=f", f"run_dir={folder}") == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"cross_entropy", "fertility", "nll"} <= {key for line in lines if line["kind"] == "train" for key in line}
    assert all("bleu" in line and "loss" not in line for line in lines if line["kind"] == "valid")
    assert "valid BLEU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "data.fertilities: model=fertility learns from fertilities"),
        (["data.fertilities=f", "validation.metric=loss"], "validation.metric=loss: Fertility has no loss on "),
    ],
)
def test_a_run_without_what_it_needs_is_refused_before_the_first_update(
    corpus: list[str],
    options: list[str],
    message: str,
    tmp_path: Path,
    nat_train: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert nat_train(*corpus, "model=fertility", *options, f"run_dir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
