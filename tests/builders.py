"""Tiny models, batches and commands for tests."""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nat.composition import compose, config_directory
from nat.config import Component, load_yaml, locate, parse, save_yaml
from nat.data.batch import Batch, Draft, Phrases, Target
from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.data.points import IndexTokenizer, PointTokenizer
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.models.contract import TranslationModel
from nat.nn.attention.base import Attention, attention_stack
from nat.nn.embedding import OutputLayer
from nat.nn.head import Head
from nat.ops.sampling import class_of
from nat.runs.folder import latest_checkpoint
from nat.runs.precision import Precision
from nat.runs.weights import WEIGHTS, load_tensors, save_tensors
from nat.training.distributed import Ranks
from nat.training.objective import objective
from nat.training.parallel import Parallelism
from nat.training.run import parallel_of
from nat.training.step import StepResult, UpdateStep

MODELS = sorted(path.stem for path in (config_directory() / "model").glob("*.yaml"))
ATTENTIONS = sorted(path.stem for path in (config_directory() / "attention").glob("*.yaml"))
VOCABULARIES = Vocabularies(NUM_SYMBOLS + 13, NUM_SYMBOLS + 13, shared=True)
POINTS = Tokenizers(PointTokenizer(), IndexTokenizer(13), False).vocabularies
SMALL = {
    "model.size.dim": 16,
    "model.size.num_heads": 2,
    "model.size.ffn_dim": 24,
    "model.size.dropout": 0.0,
    "model.decoder.num_layers": 2,
    "encoder.num_layers": 2,
}


def make_model(
    name: str,
    *,
    attention: str | dict[str, Any] = "full",
    vocabularies: Vocabularies | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **overrides: Any,
) -> TranslationModel:
    """configs/model/NAME.yaml, tiny, without dropout, in evaluation mode.

    attention: the name of a kind for encoder and decoder, or the decoder's kind with its options. vocabularies: None is
    `vocabularies_of`. overrides: model options, such as label_smoothing=0.0 or `size={"norm": "post"}`.
    """
    torch.manual_seed(seed)
    given = vocabularies_of(name) if vocabularies is None else vocabularies
    plain = model_options(name, attention=attention, **overrides)
    built: TranslationModel = parse(Component, plain, "model").build(vocabularies=given)
    return built.to(dtype).eval()


def model_options(name: str, *, attention: str | dict[str, Any] = "full", **overrides: Any) -> dict[str, Any]:
    """Plain options of `make_model`."""
    model = _composed(name)
    if not isinstance(attention, str):
        overrides["attention"] = attention
    elif attention != "full":
        kind = load_yaml(config_directory() / "attention" / f"{attention}.yaml")
        model["encoder"]["attention"] = kind
        if "attention" in model:  # of a decoder without a causal mask
            model["attention"] = kind
    for key, value in SMALL.items():
        part, _, option = key.removeprefix("model.").partition(".")
        if part in model:  # not every method has a decoder
            model = _merge(model, {part: {option: value}})
    return _merge(model, overrides)


def make_run(folder: Path, name: str, data: dict[str, Any], tokenizers: Tokenizers, **options: Any) -> Path:
    """A run folder of `make_model` with parameters that are all random, norms and biases too; <unk> is made likelier.
    data: its corpus."""
    model = make_model(name, vocabularies=tokenizers.vocabularies, **options)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        model.get_submodule("net.embeddings.source").weight[int(Symbol.UNK)] *= 3
    options.pop("seed", None)
    folder.mkdir(parents=True)
    tokenizers.save(folder / "tokenizer")
    save_yaml({"model": model_options(name, **options), "data": data}, folder / "config.yaml")
    save_tensors(model.state_dict(), folder / WEIGHTS)
    return folder


def _composed(name: str) -> dict[str, Any]:
    return copy.deepcopy(_composed_once(name))


@functools.cache
def _composed_once(name: str) -> dict[str, Any]:
    model: dict[str, Any] = compose("train", ["run_dir=unused", f"model={name}"])["model"]
    return model


def vocabularies_of(name: str) -> Vocabularies:
    """Small ones of what the method is for, text or points."""
    target: Any = locate(str(_composed(name)["_target_"]))
    return POINTS if target.points else VOCABULARIES


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base[key], dict) else value
    return merged


class Literal(Head):
    """A head of states that are log-probabilities already."""

    def __init__(self) -> None:
        pass

    def full(self, states: Tensor) -> Tensor:
        return states

    def best(self, states: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        best = states.max(dim=-1)
        return best.indices, best.values

    def sampled(
        self, states: Tensor, drawn: Tensor, *, temperature: float, where: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = class_of(states / temperature, drawn)
        return tokens, self.of(states, tokens)

    def of(self, states: Tensor, labels: Tensor) -> Tensor:
        return states.gather(-1, labels[..., None]).squeeze(-1)


def make_batch(lengths: list[tuple[int, int]], *, vocabularies: Vocabularies = VOCABULARIES, seed: int = 0) -> Batch:
    """Random pairs of these (source, target) lengths, right-padded, with random fertilities. Ordinary tokens and UNK
    (id 1); of points: no target names one twice, so it is at most as long as its source."""
    generator = torch.Generator().manual_seed(seed)

    def row(length: int, size: int) -> list[int]:
        ids = torch.randint(NUM_SYMBOLS - 1, size, (length,), generator=generator).tolist()
        return [1 if i == NUM_SYMBOLS - 1 else i for i in ids]

    sources = [row(s, vocabularies.source_size) for s, _ in lengths]
    targets = [row(t, vocabularies.target_size) for _, t in lengths]
    if vocabularies.points:
        sources = [
            torch.randint(NUM_SYMBOLS, vocabularies.source_size, (s,), generator=generator).tolist() for s, _ in lengths
        ]
        targets = [(torch.randperm(s, generator=generator)[:t] + NUM_SYMBOLS).tolist() for s, t in lengths]
    fertilities = [  # each target token is given to a random source token
        torch.randint(max(1, s), (t,), generator=generator).bincount(minlength=s)[:s].tolist() for s, t in lengths
    ]
    return collate([Pair(*row) for row in zip(sources, targets, fertilities, strict=True)])


def even_fertilities(source_length: int, target_length: int) -> list[int]:
    """The target's tokens spread over the source's."""
    ends = [i * target_length // source_length for i in range(source_length + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def pair_batch(sources: list[list[int]], targets: list[list[int]]) -> Batch:
    """A batch of given pairs, with even fertilities."""
    pairs = zip(sources, targets, strict=True)
    return collate([Pair(source, target, even_fertilities(len(source), len(target))) for source, target in pairs])


def phrases_of(rows: list[list[list[int]]]) -> Phrases:
    """Phrases of each row, in ids above 0."""
    number = max(1, *(len(row) for row in rows))
    width = max([1, *(len(phrase) for row in rows for phrase in row)])
    tokens = torch.zeros((len(rows), number, width), dtype=torch.long)
    for i, row in enumerate(rows):
        for c, phrase in enumerate(row):
            tokens[i, c, : len(phrase)] = torch.tensor(phrase)
    return Phrases(tokens, tokens > 0)


def draft_of(rows: list[list[int]]) -> Draft:
    """Drafts of which nothing is fixed or closed."""
    target = Target.from_lists(rows)
    closed = torch.zeros(len(rows), target.tokens.size(1) + 1, dtype=torch.bool)
    return Draft(target.tokens, target.valid, torch.zeros_like(target.valid), closed)


def command(*arguments: str, name: str = "train") -> int:
    """nat-NAME in this process: its exit code."""
    try:
        importlib.import_module(f"nat.cli.{name}").main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("the command did not exit")


def distil(*arguments: str) -> int:
    return command(*arguments, name="distill")


def distilled_lines(folder: Path) -> list[dict[str, Any]]:
    """The corpus that nat-distill wrote."""
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def make_step(model: TranslationModel, *, max_tokens: int = 10_000, ranks: Ranks | None = None, **options: Any) -> Any:
    given: dict[str, Any] = {"precision": Precision.FP32, "clip_norm": None, "seed": 1} | options
    kind, cpu = Parallelism(given.pop("parallel", "ddp")), torch.device("cpu")
    parallel = parallel_of(kind, model, ranks or Ranks(), cpu)
    optimizer = given.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.0)
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(model.parameters())
    return UpdateStep(parallel, optimizer, device=cpu, max_tokens=max_tokens, **given)


def gradients(
    model: TranslationModel, pairs: list[Pair], *, max_tokens: int = 10_000, ranks: Ranks | None = None, **options: Any
) -> tuple[StepResult, dict[str, Tensor]]:
    step = make_step(model, max_tokens=max_tokens, ranks=ranks, **options)
    result = step(pairs, update=1, learning_rate=0.0)
    return result, whole({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of what ranks may have in parts."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in tensors.items()}


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """Of the last state, whole or in parts."""
    from nat.training import shard_files

    state = latest_checkpoint(folder)
    assert state is not None
    files = ("model.safetensors", "average.safetensors", "optimizer.safetensors")
    if (state / files[0]).is_file():
        return {f"{file}/{name}": value for file in files for name, value in load_tensors(state / file).items()}
    found = {name: torch.empty_like(value, device="cpu") for name, value in shard_files.stored(state).items()}
    shard_files.read(state, found)
    return found


def formula_rows(lengths: list[int], step: int) -> list[list[int]]:
    """Tokens by a formula, UNK among them."""
    size = VOCABULARIES.source_size - NUM_SYMBOLS
    numbers = [[(step * i + 3 * j * j + i) % (size + 1) for j in range(length)] for i, length in enumerate(lengths)]
    return [[1 if n == size else NUM_SYMBOLS + n for n in row] for row in numbers]


def loss_curve(name: str, updates: int = 6) -> list[float]:
    """The objective at each of a few steps of plain gradient descent, in float64."""
    model = make_model(name, dtype=torch.float64)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.3 * torch.sin(index * (number + 1) * 0.7 + number))
    batch = pair_batch(formula_rows([5, 3, 4, 2], 5), formula_rows([4, 3, 2, 3], 2))
    if model.points:
        packed = [
            [NUM_SYMBOLS + (7919 * token * (i + 3)) % (1 << 30) for i, token in enumerate(row)]
            for row in batch.source.to_lists()
        ]
        batch = pair_batch(
            packed, [[NUM_SYMBOLS + i for i in order] for order in ([2, 0, 4, 3], [1, 2], [0, 3, 1], [1, 0])]
        )
    curve = []
    for _ in range(updates):  # with the same noise at every step, so that the curve must fall
        loss = objective(model.loss(batch, update=1), int(batch.num_target_tokens))
        curve.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)
    return curve


def states(lengths: list[int], *, dim: int = 8, padding: int = 0, seed: int = 1) -> tuple[Tensor, Tensor]:
    """What enters an attention: random states in float64, right-padded by `padding` more columns than the longest row
    needs, with other junk at any padding; and where they are valid."""
    rows = [
        torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + n)) for n in lengths
    ]
    width = max(lengths) + padding
    x = torch.randn(len(rows), width, dim, dtype=torch.float64)
    for row, own in zip(x, rows, strict=True):
        row[: len(own)] = own
    return x, torch.arange(width) < torch.tensor(lengths)[:, None]


def check_padding(attention: Attention, *, lengths: list[int]) -> None:
    """A row's result and gradient are those that it has alone, without padding; padding has no gradient; a row that is
    all padding gives finite numbers."""
    x, valid = states([*lengths, 0], padding=2)
    x.requires_grad_()
    found = attention(x, x, valid)
    assert torch.isfinite(found).all()
    (gradient,) = torch.autograd.grad(found.masked_fill(~valid[:, :, None], 0.0).square().sum(), x, retain_graph=True)
    assert not gradient[~valid].any()
    for number, length in enumerate(lengths):
        alone = x[number : number + 1, :length].detach().requires_grad_()
        expected = attention(alone, alone, None)
        torch.testing.assert_close(found[number, :length], expected[0])
        torch.testing.assert_close(gradient[number, :length], torch.autograd.grad(expected.square().sum(), alone)[0][0])
    for gradient in torch.autograd.grad(found.sum(), [x, *attention.parameters()]):
        assert torch.isfinite(gradient).all()


def make_attention(name: str, *, dim: int = 8, num_heads: int = 2, layers: int = 1, **options: Any) -> list[Attention]:
    """A stack of configs/attention/NAME.yaml in float64 and evaluation mode, with random biases."""
    plain = load_yaml(config_directory() / "attention" / f"{name}.yaml") | options
    torch.manual_seed(0)
    found = attention_stack(parse(Component, plain, "attention"), num_layers=layers, dim=dim, num_heads=num_heads)
    for attention in found:
        attention.double().eval()
        for key, parameter in attention.named_parameters():
            if key.endswith("bias"):
                torch.nn.init.normal_(parameter)
    return found


def projected_positions(output: OutputLayer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each product of this layer from now on, how many positions it projects."""
    projected: list[int] = []
    original = type(output).forward

    def spy(self: Any, states: Tensor, *rest: Any) -> Tensor:
        projected.append(states.flatten(0, -2).size(0))
        return original(self, states, *rest)

    monkeypatch.setattr(type(output), "forward", spy)
    return projected
