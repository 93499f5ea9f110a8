"""nat-bench's work: what a part of nat costs beside the same thing done by torch, on this machine, now.

All contenders take turns in one process, so that what else the machine does hits all alike; medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nat.bench.attention import AttentionSizes, measure
from nat.bench.attention_results import Panels, describe_kinds, read_figures, rows_of
from nat.bench.card import CardSizes, describe_card, measure_card
from nat.bench.training import TrainingSizes, describe_training, measure_training
from nat.composition import compose
from nat.config import Component, option, parse, to_plain
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.decoding.options import MOST_THREADS, CommandConfig, Device
from nat.errors import ConfigError
from nat.evaluation.speed import device_name, machine_name, synchronize, threads
from nat.files import write_json
from nat.models.levenshtein import Levenshtein
from nat.nn.rng import RowRandom
from nat.nn.roll_in import damaged, dropped
from nat.ops.ctc import best_alignment
from nat.ops.edit_distance import best_edits
from nat.ops.imputer import constrained_loss
from nat.runs.device import choose_device
from nat.table import markdown_table, rounded
from nat.training.objective import objective

WARM_UP = 2  # rounds before the clock counts


@dataclass(frozen=True)
class AlignmentSizes:
    batch_size: int = option(64, "rows B", minimum=1)
    source_length: int = option(30, "source tokens S", minimum=1)
    target_length: int = option(30, "target tokens T", minimum=1)
    upsampling: int = option(3, "slots s for each source token: a canvas of s S", minimum=1)
    vocabulary_size: int = option(8000, "vocabulary V", minimum=3)

    def __post_init__(self) -> None:
        if self.target_length > self.canvas_length:
            raise ConfigError(
                f"target_length={self.target_length}: must be at most upsampling * source_length={self.canvas_length}"
            )

    @property
    def canvas_length(self) -> int:
        return self.upsampling * self.source_length


@dataclass(frozen=True)
class EditSizes:
    batch_size: int = option(48, "rows B", minimum=1)
    source_length: int = option(20, "source tokens S", minimum=1)
    target_length: int = option(20, "target tokens T", minimum=1)
    vocabulary_size: int = option(4000, "vocabulary V", minimum=NUM_SYMBOLS + 1)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(CommandConfig):
    """Everything that `configs/bench.yaml` holds."""

    first_keys = ("benchmark",)
    repeats: int = option(15, "times that everything is measured", minimum=1)
    device: Device = option(Device.CPU, "cpu, cuda or auto")
    num_threads: int = option(1, "CPU threads of torch", minimum=1, maximum=MOST_THREADS)
    alignments: AlignmentSizes = field(default_factory=AlignmentSizes)
    edits: EditSizes = field(default_factory=EditSizes)
    attention: AttentionSizes = field(default_factory=AttentionSizes)
    training: TrainingSizes = field(default_factory=TrainingSizes)
    card: CardSizes = field(default_factory=CardSizes)

    def __post_init__(self) -> None:
        if self.attention.figures is not None and self.output is not None:
            raise ConfigError(
                f"output={self.output}: has no effect with attention.figures, which are not measured anew"
            )
        if self.attention.cpu_time and (self.num_threads > 1 or self.device is not Device.CPU):
            raise ConfigError("attention.cpu_time=true: needs device=cpu num_threads=1")


@dataclass(frozen=True)
class Contender:
    """What is timed. limit: how many times the first contender's median it may take; None: the first itself."""

    name: str
    work: Callable[[], object]
    limit: float | None = None


@dataclass(frozen=True)
class Measured:
    """milliseconds: median of a contender. ratio: over the first contender's; limit: what the ratio may be."""

    name: str
    milliseconds: float
    ratio: float
    limit: float | None


def run_benchmark(name: str, config: BenchmarkConfig) -> tuple[dict[str, Any], str]:
    """Measure one benchmark: its figures, and a table of them. Raises ConfigError for an unknown name, or where there
    is no GPU to use; DataError where the output cannot be written."""
    if name not in BENCHMARKS:
        raise ConfigError(f"{name or 'no benchmark'}: a benchmark's name comes first; known: {', '.join(BENCHMARKS)}")
    device = choose_device(config.device.value)
    config.prepare()
    with threads(config.num_threads):
        return BENCHMARKS[name](config, device)


def turns(name: str) -> Benchmark:
    """The benchmark in which contenders take turns."""

    def run(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, Any], str]:
        sizes, contenders = CONTENDERS[name](config, device)
        measured = compare(contenders, repeats=config.repeats, device=device)
        figures = with_provenance(name, sizes, to_plain(measured), config, device)
        return figures, describe(figures)

    return run


def attention(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, Any], str]:
    """Every kind of self-attention against the length of its input, and the picture beside scores."""
    sizes = config.attention
    figures = None if sizes.figures is None else read_figures(Path(sizes.figures))
    kinds = sizes.contenders if figures is None else [row["name"] for row in figures["results"]]
    panels = Panels.read(sizes, kinds)  # what is missing is better known before minutes of measuring
    if figures is None:
        curves = measure(sizes, repeats=config.repeats, device=device)
        rows = rows_of(curves, fit_from=sizes.fit_from)
        figures = with_provenance("attention", to_plain(sizes), rows, config, device)
    return figures, describe_kinds(figures) + panels.draw(figures)


def training(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, Any], str]:
    """The speed of every system's training, and how it compares with another checkout's."""
    rows = measure_training(config.training, repeats=config.repeats, num_threads=config.num_threads, device=device)
    figures = with_provenance("training", to_plain(config.training), rows, config, device)
    return figures, describe_training(figures)


def card(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, Any], str]:
    """The rates that the machine reaches at best."""
    figures = with_provenance("card", to_plain(config.card), measure_card(config.card, device), config, device)
    return figures, describe_card(figures)


def with_provenance(
    name: str, sizes: dict[str, Any], results: list[dict[str, Any]], config: BenchmarkConfig, device: torch.device
) -> dict[str, Any]:
    """The figures with what made them, written to `output`."""
    figures = {
        "benchmark": name,
        "sizes": sizes,
        "repeats": config.repeats,
        "device": device_name(device),
        "machine": machine_name(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_threads": config.num_threads,
        "torch": torch.__version__,
        "results": results,
    }
    if config.output is not None:
        write_json(Path(config.output), figures)
    return figures


def compare(contenders: Sequence[Contender], *, repeats: int, device: torch.device) -> list[Measured]:
    """Medians over `repeats` rounds, in each of which every contender works once."""
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(WARM_UP + repeats):
        for row, contender in zip(times, contenders, strict=True):
            synchronize(device)
            began = time.perf_counter()
            contender.work()
            synchronize(device)
            if number >= WARM_UP:
                row.append(1000.0 * (time.perf_counter() - began))
    medians = [statistics.median(row) for row in times]
    return [
        Measured(contender.name, median, median / medians[0], contender.limit)
        for contender, median in zip(contenders, medians, strict=True)
    ]


def describe(figures: Mapping[str, Any]) -> str:
    """The figures as a table, with what one needs to judge them."""
    rows = [
        [row["name"], rounded(row["milliseconds"], 1), rounded(row["ratio"], 3)]
        + ["" if row["limit"] is None else f"{row['limit']:g}"]
        for row in figures["results"]
    ]
    table = markdown_table(["", "ms", "ratio", "at most"], rows)
    sizes = ", ".join(f"{name}={value}" for name, value in figures["sizes"].items())
    where = f"{figures['device']}, {figures['num_threads']} CPU threads, torch {figures['torch']}"
    return f"{table}\n\nmedians of {figures['repeats']}, taking turns; float32; {sizes}; {where}\n"


# --- alignments ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlignmentProblem:
    """log_probs: (B, A, V). targets: (B, T), no token twice in a row. Token 0 is the blank; no row is padded."""

    log_probs: Tensor
    targets: Tensor
    canvas_lengths: Tensor
    target_lengths: Tensor

    @classmethod
    def random(cls, sizes: AlignmentSizes, device: torch.device) -> AlignmentProblem:
        generator = torch.Generator().manual_seed(1)
        rows, slots, tokens = sizes.batch_size, sizes.canvas_length, sizes.vocabulary_size - 1
        log_probs = torch.randn(rows, slots, tokens + 1, generator=generator).log_softmax(-1)
        steps = torch.randint(1, tokens, (rows, sizes.target_length), generator=generator)
        lengths = torch.full((rows,), slots), torch.full((rows,), sizes.target_length)
        return cls(*(x.to(device) for x in (log_probs, 1 + steps.cumsum(1) % tokens, *lengths)))

    @property
    def rest(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.targets, self.canvas_lengths, self.target_lengths


def alignments(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, int], list[Contender]]:
    """Forward and backward of torch's CTC loss, and of the Imputer's constrained marginal with half of the slots
    known; the best alignment, forward alone, as glancing needs it. The gradient is that in (B, A, V)."""
    problem = AlignmentProblem.random(config.alignments, device)
    turned = problem.log_probs.transpose(0, 1).contiguous()  # in the order that torch wants
    known = best_alignment(problem.log_probs, *problem.rest, blank=0)
    is_known = torch.rand(known.shape, generator=torch.Generator().manual_seed(2)).to(device) < 0.5

    def torch_loss() -> None:
        leaf = turned.detach().requires_grad_()
        F.ctc_loss(leaf, *problem.rest, reduction="sum").backward()

    def constrained() -> None:
        leaf = problem.log_probs.detach().requires_grad_()
        constrained_loss(leaf, known, is_known, *problem.rest, blank=0)[0].sum().backward()

    return to_plain(config.alignments), [
        Contender("torch.nn.functional.ctc_loss, forward and backward", torch_loss),
        Contender("constrained_loss, forward and backward", constrained, limit=3.0),
        Contender("best_alignment", lambda: best_alignment(problem.log_probs, *problem.rest, blank=0), limit=1.0),
    ]


# --- edits --------------------------------------------------------------------------------------------


def edits(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, int], list[Contender]]:
    """Forward and backward of the Levenshtein Transformer of experiment=small/levenshtein, and the expert's part in it:
    the edits of the two sequences that the policies start from."""
    sizes = config.edits
    model, batch = levenshtein(sizes).to(device).train(), random_pairs(sizes).to(device)
    target, alphabet = batch.target, (NUM_SYMBOLS, sizes.vocabulary_size)
    random = RowRandom.of((target.tokens, target.valid), seed=1)
    starts = dropped(target, random), damaged(target, random.fork(0), most=1.0, alphabet=alphabet)

    def step() -> None:
        model.zero_grad()
        objective(model.loss(batch, update=1), target.tokens.numel()).backward()

    def expert() -> None:
        for start in starts:
            best_edits(start.tokens, start.valid, target.tokens, target.valid)

    return to_plain(sizes), [
        Contender("training step of small/levenshtein, forward and backward", step),
        Contender("best_edits, as often as a step calls it", expert, limit=0.05),
    ]


def levenshtein(sizes: EditSizes) -> Levenshtein:
    plain = compose("train", ["experiment=small/levenshtein", "run_dir=unused"])
    vocabularies = Vocabularies(sizes.vocabulary_size, sizes.vocabulary_size, shared=True)
    torch.manual_seed(1)
    built: Levenshtein = parse(Component, plain["model"], "model").build(vocabularies=vocabularies)
    return built


def random_pairs(sizes: EditSizes) -> Batch:
    """Ordinary tokens, no padding."""
    generator = torch.Generator().manual_seed(2)

    def side(length: int) -> tuple[Tensor, Tensor]:
        shape = (sizes.batch_size, length)
        tokens = torch.randint(NUM_SYMBOLS, sizes.vocabulary_size, shape, generator=generator)
        return tokens, torch.ones(shape, dtype=torch.bool)

    return Batch(Source(*side(sizes.source_length)), Target(*side(sizes.target_length)))


CONTENDERS: dict[str, Callable[[BenchmarkConfig, torch.device], tuple[dict[str, int], list[Contender]]]] = {
    "alignments": alignments,
    "edits": edits,
}
Benchmark = Callable[[BenchmarkConfig, torch.device], tuple[dict[str, Any], str]]
BENCHMARKS: dict[str, Benchmark] = {name: turns(name) for name in CONTENDERS} | {
    "attention": attention,
    "training": training,
    "card": card,
}
