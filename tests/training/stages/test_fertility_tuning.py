"""Fine-tuning of the fertility NAT: estimators against enumeration, and a run from the command line."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SMALL, even_fertilities, make_batch, make_model
from oracles import EOS, rows_of, uncached_next
from torch import Tensor

from nat.composition import compose, config_directory
from nat.config import Component, load_yaml, parse, save_yaml
from nat.data.batch import Batch, Source
from nat.data.tokenizer import TokenizerConfig, Tokenizers
from nat.errors import ConfigError
from nat.models.autoregressive import Autoregressive
from nat.models.fertility import average_fertilities
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.runs.weights import load_tensors, save_tensors
from nat.training.objective import objective
from nat.training.run import RunConfig
from nat.training.stages.fertility_tuning import FertilityTuning

LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]
CPU = torch.device("cpu")
WORDS = ["save the file", "close the window", "open a new page", "print it", "the page is new", "a window opens"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizers]:
    """The run folder of an untrained teacher, with what a loader reads."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizers = Tokenizers.train(parse(TokenizerConfig, {"vocabulary_size": 40, "kind": "bpe"}), WORDS, WORDS)
    tokenizers.save(folder / "tokenizer")
    options = [f"{key}={value}" for key, value in SMALL.items()]
    save_yaml(compose("train", ["run_dir=x", "model=autoregressive", *options]), folder / "config.yaml")
    model = make_model("autoregressive", vocabularies=tokenizers.vocabularies, seed=5)
    with torch.no_grad():  # sharper than at first, so that costs differ
        model.net.embeddings.source.weight.mul_(2.0)  # type: ignore[union-attr, operator]
    save_tensors(model.state_dict(), folder / "model.safetensors", {"tokenizer": tokenizers.fingerprint})
    return folder, tokenizers


Make = Callable[..., FertilityTuning]


@pytest.fixture
def make(teacher: tuple[Path, Tokenizers]) -> Make:
    folder, tokenizers = teacher

    def build(*, model: dict[str, Any] | None = None, **options: Any) -> FertilityTuning:
        student = make_model(
            "fertility", vocabularies=tokenizers.vocabularies, dtype=torch.float64, **(model or {"max_fertility": 5})
        )
        config = parse(FertilityTuning.Config, {"teacher": str(folder)} | options, "stage")
        stage = FertilityTuning(config, model=student.train(), tokenizers=tokenizers, device=CPU)
        stage.teacher.double()
        return stage

    return build


def batch_for(stage: FertilityTuning, lengths: list[tuple[int, int]] = LENGTHS) -> Batch:
    return make_batch(lengths, vocabularies=stage.model.vocabularies)


def memories(stage: FertilityTuning, source: Source) -> tuple[Memory, Memory]:
    return stage.model.net.encode(source), stage.teacher.net.encode(source)


def gradient(value: Tensor, stage: FertilityTuning) -> dict[str, Tensor]:
    names, parameters = zip(*stage.model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))
    return dict(zip(names, zeros, strict=True))


def cost_of_a_loop(stage: FertilityTuning, source: list[int], fertilities: list[int]) -> Tensor:
    """L(f) of one sentence: position by position, the teacher reading the prefix alone."""
    row = Source.from_lists([source])
    log_probs, _ = stage.model.translate(row, torch.tensor([fertilities]), stage.model.net.encode(row))
    following = uncached_next(stage.teacher, source)
    tokens: tuple[int, ...] = ()
    cost = torch.zeros((), dtype=torch.float64)
    for t in range(sum(fertilities)):
        posterior = following(tokens)
        sayable = log_probs[0, t] > -torch.inf
        cost = cost - log_probs[0, t, sayable].exp() @ posterior[sayable]
        tokens = (*tokens, int(log_probs[0, t].argmax()))
    return cost - following(tokens)[EOS]


# --- REINFORCE --------------------------------------------------------------------------------------


def enumerated(stage: FertilityTuning, source: Source) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every fertility sequence of one sentence, its probability, and its L."""
    row = source.to_lists()[0]
    largest = stage.model.config.max_fertility
    log_probs = stage.model.fertility_log_probs(stage.model.net.encode(source))[0]
    for numbers in itertools.product(range(largest + 1), repeat=len(row)):
        probability = torch.stack([log_probs[i, f] for i, f in enumerate(numbers)]).sum().exp()
        fitted = list(numbers)
        if not sum(fitted):  # one copy of the token least likely to have none
            fitted[int(log_probs[:, 0].argmin())] = 1
        yield torch.tensor(numbers)[None, None], probability, cost_of_a_loop(stage, row, fitted).detach()


@pytest.mark.parametrize(("num_source", "largest"), [(2, 2), (3, 1), (1, 2)])
def test_the_expectation_of_reinforce_is_the_enumerated_gradient(
    make: Make, monkeypatch: pytest.MonkeyPatch, num_source: int, largest: int
) -> None:
    stage = make(model={"max_fertility": largest}, max_length_factor=9)
    source = batch_for(stage, [(num_source, 2)]).source
    cases = list(enumerated(stage, source))
    assert sum(probability.item() for _, probability, _ in cases) == pytest.approx(1.0)
    expected = gradient(torch.stack([probability * cost for _, probability, cost in cases]).sum(), stage)
    total = {name: torch.zeros_like(value) for name, value in expected.items()}
    memory, teacher_memory = memories(stage, source)
    with torch.no_grad():
        log_probs = stage.model.fertility_log_probs(memory)
        average = average_fertilities(log_probs)[0]
    baseline = next(cost.item() for f, _, cost in cases if torch.equal(f[0, 0], average))
    for numbers, probability, cost in cases:
        monkeypatch.setattr(stage, "sample", lambda *_, numbers=numbers: numbers)
        value, reward = stage.reinforced(source, memory, teacher_memory, None)  # type: ignore[arg-type]
        assert value.item() == pytest.approx(cost.item() - baseline, abs=1e-9)
        assert reward.total.item() == pytest.approx(-cost.item(), abs=1e-9)
        for name, part in gradient(value, stage).items():
            total[name] += probability.item() * part
    assert max(value.abs().max().item() for value in expected.values()) > 1e-3
    for name, value in expected.items():
        assert torch.allclose(total[name], value, rtol=0, atol=1e-9), name


def test_samples_come_from_the_head_and_their_mean_gradient_nears_the_expectation(make: Make) -> None:
    stage = make(model={"max_fertility": 2}, max_length_factor=9, num_samples=1000)
    source = batch_for(stage, [(2, 2)]).source
    value = torch.stack([probability * cost for _, probability, cost in enumerated(stage, source)]).sum()
    expected = gradient(value, stage)["fertility.bias"]
    random = RowRandom.of((source.tokens, source.valid), seed=1)
    estimate, _ = stage.reinforced(source, *memories(stage, source), random)
    found = gradient(estimate, stage)["fertility.bias"]
    assert (found - expected).norm() < 0.15 * expected.norm()


def test_reinforce_trains_head_and_encoder_and_nothing_behind_the_canvas(make: Make) -> None:
    stage = make(num_samples=3)
    terms = stage.loss(batch_for(stage), update=1)
    rl, bp = gradient(terms["rl"].total, stage), gradient(terms["bp"].total, stage)
    for name in rl:
        behind = name.startswith("net.decoder") or name.startswith("net.target_positions")
        head = name.startswith("fertility")
        assert (rl[name].abs().sum() > 0) != behind, name
        assert (bp[name].abs().sum() > 0) != head, name
    assert not any(p.requires_grad or p.grad is not None for p in stage.teacher.parameters())


# --- costs ------------------------------------------------------------------------------------------


def test_costs_of_a_padded_batch_are_those_of_a_loop(make: Make) -> None:
    stage = make(max_length_factor=1.0)
    source = batch_for(stage).source
    memory, teacher_memory = memories(stage, source)
    log_probs = stage.model.fertility_log_probs(memory).detach()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 3, (len(source), 2, source.tokens.size(1)), generator=generator)
    costs, lengths = stage.costs(drawn, log_probs, source, memory, teacher_memory)
    for row, ids in enumerate(source.to_lists()):
        candidates = [average_fertilities(log_probs)[row, : len(ids)], *drawn[row, :, : len(ids)]]
        for column, numbers in enumerate(candidates):
            fitted = numbers.tolist()
            if not sum(fitted):
                fitted[int(log_probs[row, : len(ids), 0].argmin())] = 1
            ends = [min(end, len(ids)) for end in itertools.accumulate(fitted)]
            fitted = [end - start for start, end in zip([0, *ends], ends, strict=False)]
            assert lengths[row, column].item() == sum(fitted)
            assert costs[row, column].item() == pytest.approx(cost_of_a_loop(stage, ids, fitted).item(), abs=1e-9)


def test_the_back_propagated_term_has_the_gradient_of_a_loop(make: Make) -> None:
    stage = make()
    batch = batch_for(stage, [(3, 4), (2, 1)])
    value = stage.back_propagated(batch, *memories(stage, batch.source))
    costs = []
    assert batch.fertilities is not None
    for row, ids in enumerate(batch.source.to_lists()):
        costs.append(cost_of_a_loop(stage, ids, batch.fertilities[row, : len(ids)].tolist()))
    assert value.item() == pytest.approx(torch.stack(costs).sum().item(), abs=1e-9)
    expected, found = gradient(torch.stack(costs).sum(), stage), gradient(value, stage)
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=0, atol=1e-9), name


def test_canvases_fit_the_teachers_positions(make: Make) -> None:
    stage = make(max_length_factor=9)
    source = batch_for(stage).source
    assert stage.limits(source).tolist() == [9 * s for s, _ in LENGTHS]
    short = make_model("autoregressive", positions={"kind": "learned", "max_length": 12})
    assert isinstance(short, Autoregressive)
    stage.teacher = short
    assert stage.limits(source).tolist() == [11, 9, 11, 11, 11]


# --- the whole loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_objective_is_that_of_the_paper(make: Make, weight: float) -> None:
    stage = make(weight=weight)
    batch = batch_for(stage)
    terms = stage.loss(batch, update=1)
    own = stage.model.loss(batch, update=1)
    parts = {name: terms[name].total.item() for name in ("kd", "rl", "bp")}
    assert parts["kd"] == pytest.approx(own["cross_entropy"].total.item() + own["fertility"].total.item())
    expected = weight * (parts["rl"] + parts["bp"]) + (1 - weight) * parts["kd"]
    assert objective(terms, 7).item() == pytest.approx(expected / 7)
    for name, term in own.items():
        assert (terms[name].weight, terms[name].total.requires_grad) == (0.0, False)
        assert terms[name].total.item() == pytest.approx(term.total.item())
    assert terms["reward"].weight == 0.0
    assert terms["reward"].total.item() < 0


@pytest.mark.parametrize("samples", [1, 3])
def test_terms_are_sums_over_rows_whatever_the_padding(make: Make, samples: int) -> None:
    stage = make(num_samples=samples)
    batch = batch_for(stage)
    together = stage.loss(batch, update=3)
    alone = [stage.loss(row, update=3) for row in rows_of(batch)]
    for key, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[key].total.item() for row in alone), abs=1e-8), key
        assert term.count.item() == sum(row[key].count.item() for row in alone), key
    assert stage.loss(batch, update=4)["rl"].total.item() != together["rl"].total.item()
    whole, *rows = (gradient(terms["rl"].total + terms["bp"].total, stage) for terms in (together, *alone))
    for name, value in whole.items():  # the value of rl says nothing of its gradient
        assert torch.allclose(value, torch.stack([row[name] for row in rows]).sum(dim=0), rtol=0, atol=1e-8), name


@pytest.mark.slow
def test_tuning_raises_the_reward(make: Make) -> None:
    stage = make(model={"max_fertility": 3}, weight=1.0, num_samples=2)
    batch = batch_for(stage, [(3, 3), (2, 2)])
    optimizer = torch.optim.Adam(stage.model.parameters(), lr=1e-2)
    rewards = []
    for update in range(24):
        terms = stage.loss(batch, update=update)
        rewards.append(terms["reward"].total.item() / terms["reward"].count.item())
        optimizer.zero_grad()
        objective(terms, 5).backward()
        optimizer.step()
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 0.5


# --- refusals and a run -----------------------------------------------------------------------------


def test_every_stage_is_accepted_and_asks_for_its_teacher() -> None:
    names = sorted(path.stem for path in (config_directory() / "stage").glob("*.yaml"))
    assert names == ["fertility_tuning", "ngram_tuning"]
    plain = compose("train", ["run_dir=x", "model=fertility", "stage=fertility_tuning"])
    with pytest.raises(ConfigError, match=r"^stage\.teacher: a value is needed"):
        parse(RunConfig, plain)
    config = parse(RunConfig, compose("train", ["run_dir=x", "stage=fertility_tuning", "stage.teacher=t"]))
    assert config.stage is not None
    assert config.stage.config == FertilityTuning.Config(teacher="t")
    with pytest.raises(ConfigError, match=r"^stage\.weight=1\.5: a share is at most 1"):
        parse(FertilityTuning.Config, {"teacher": "t", "weight": 1.5}, "stage")


@pytest.fixture
def corpus(small: list[str], teacher: tuple[Path, Tokenizers], tmp_path: Path) -> list[str]:
    """The options `small` on a few lines with fertilities, in the teacher's tokenizer."""
    folder, tokenizers = teacher
    rows = []
    for source, target in itertools.permutations(WORDS, 2):
        lengths = len(tokenizers.source.encode([source])[0]), len(tokenizers.target.encode([target])[0])
        rows.append({"en": source, "de": target, "f": even_fertilities(*lengths)})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept = [option for option in small if "vocabulary_size" not in option]
    path = tmp_path / "train.jsonl"
    return [
        *kept,
        *(f"data.{split}={path}" for split in ("train", "valid", "test")),
        "data.fertilities=f",
        f"data.tokenizer.path={folder / 'tokenizer'}",
        "trainer.max_updates=2",
        "validation.every=2",
    ]


def test_a_run_is_tuned_and_keeps_no_teacher(
    corpus: list[str], teacher: tuple[Path, Tokenizers], tmp_path: Path, nat_train: Callable[..., int]
) -> None:
    folder = tmp_path / "run"
    stage = ["model=fertility", "stage=fertility_tuning", f"stage.teacher={teacher[0]}"]
    assert nat_train(*corpus, *stage, f"run_dir={folder}") == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert all({"kd", "rl", "bp", "reward", "cross_entropy", "fertility"} <= line.keys() for line in trained)
    (valid,) = (line for line in lines if line["kind"] == "valid")
    assert "cross_entropy" in valid
    assert "rl" not in valid
    saved = load_yaml(folder / "config.yaml")
    assert saved["stage"]["teacher"] == str(teacher[0])
    plain = parse(Component, saved["model"], "model").build(vocabularies=teacher[1].vocabularies)
    assert load_tensors(folder / "model.safetensors").keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=ctc"], "stage: FertilityTuning trains a Fertility model, not CTC"),
        (["stage.teacher=nowhere"], "stage.teacher=nowhere: nowhere: not a run folder"),
        (["stage.teacher={ctc}"], "stage.teacher={ctc}: a CTC model has no word-level posteriors"),
        (["stage.teacher={other}"], "stage.teacher={other}: its tokenizer does not match this run's; set data.token"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    options: list[str],
    message: str,
    corpus: list[str],
    teacher: tuple[Path, Tokenizers],
    tmp_path: Path,
    nat_train: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"ctc": str(tmp_path / "ctc"), "other": str(tmp_path / "other")}
    for folder in folders.values():
        shutil.copytree(teacher[0], folder)
    save_yaml(compose("train", ["run_dir=x", "model=ctc"]), tmp_path / "ctc" / "config.yaml")
    others = [text.upper() for text in WORDS]
    other = Tokenizers.train(parse(TokenizerConfig, {"vocabulary_size": 40, "kind": "bpe"}), others, others)
    other.save(tmp_path / "other" / "tokenizer")
    model = make_model("autoregressive", vocabularies=other.vocabularies)
    save_tensors(model.state_dict(), tmp_path / "other" / "model.safetensors", {"tokenizer": other.fingerprint})
    run = ["model=fertility", "stage=fertility_tuning", f"stage.teacher={teacher[0]}", f"run_dir={tmp_path / 'run'}"]
    assert nat_train(*corpus, *run, *(option.format(**folders) for option in options)) == 2
    assert message.format(**folders) in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_without_fertilities_it_is_refused(make: Make) -> None:
    stage = make()
    with pytest.raises(ConfigError, match=r"^data\.fertilities: "):
        stage.loss(replace(batch_for(stage), fertilities=None), update=1)
