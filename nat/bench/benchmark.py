"""nat-bench's benchmarks by name, and what is written with the figures of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nat.bench.alignments import AlignmentSizes, alignments
from nat.bench.attention import AttentionSizes, Curve, measure
from nat.bench.attention_results import Panels, describe_kinds, read_figures, rows_of
from nat.bench.card import CardSizes, describe_card, measure_card
from nat.bench.dag import DagSizes, describe_dag, measure_dag
from nat.bench.decoding import DecodingSizes, describe_decoding, measure_decoding
from nat.bench.edits import EditSizes, edits
from nat.bench.engine_contenders import EngineSizes
from nat.bench.engines import describe_engines, measure_engines
from nat.bench.feed import FeedSizes, describe_feed, measure_feed
from nat.bench.training import TrainingSizes, describe_training, measure_training
from nat.bench.turns import Contender, compare, describe_turns
from nat.bench.waits import WaitsSizes, describe_waits, measure_waits
from nat.config import option, to_plain
from nat.decoding.options import MOST_THREADS, CommandConfig, Device
from nat.errors import ConfigError
from nat.evaluation.speed import device_name, machine_name, threads
from nat.files import write_json
from nat.runs.device import choose_device
from nat.runs.outputs import SVG, Output


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(CommandConfig):
    """Everything that `configs/bench.yaml` holds."""

    first_keys = ("benchmark",)
    repeats: int = option(15, "times that everything is measured", minimum=1, maximum=1_000_000)
    device: Device = option(Device.CPU, "cpu, cuda or auto")
    num_threads: int = option(1, "CPU threads of torch", minimum=1, maximum=MOST_THREADS)
    alignments: AlignmentSizes = field(default_factory=AlignmentSizes)
    edits: EditSizes = field(default_factory=EditSizes)
    dag: DagSizes = field(default_factory=DagSizes)
    attention: AttentionSizes = field(default_factory=AttentionSizes)
    training: TrainingSizes = field(default_factory=TrainingSizes)
    decoding: DecodingSizes = field(default_factory=DecodingSizes)
    waits: WaitsSizes = field(default_factory=WaitsSizes)
    feed: FeedSizes = field(default_factory=FeedSizes)
    card: CardSizes = field(default_factory=CardSizes)
    engines: EngineSizes = field(default_factory=EngineSizes)

    @property
    def inputs(self) -> Iterable[str | None]:
        return (self.attention.figures,)

    @property
    def outputs(self) -> dict[str, Output]:
        pictures = {"attention.picture": self.attention.picture, "engines.picture": self.engines.picture}
        return super().outputs | {name: Output(Path(path), SVG) for name, path in pictures.items() if path is not None}

    def __post_init__(self) -> None:
        if self.attention.figures is not None and self.output is not None:
            raise ConfigError(
                f"output={self.output}: has no effect with attention.figures, which are not measured anew"
            )
        if self.attention.cpu_time and (self.num_threads > 1 or self.device is not Device.CPU):
            raise ConfigError("attention.cpu_time=true: needs device=cpu num_threads=1")


def run_benchmark(name: str, config: BenchmarkConfig) -> tuple[dict[str, Any], str]:
    """Measure one benchmark: its figures, and a table of them. Raises ConfigError for an unknown name, or where there
    is no GPU to use; DataError where the output cannot be written."""
    if name not in BENCHMARKS:
        raise ConfigError(f"{name or 'no benchmark'}: a benchmark's name comes first; known: {', '.join(BENCHMARKS)}")
    device = choose_device(config.device.value)
    config.prepare()
    with threads(config.num_threads):
        return BENCHMARKS[name](config, device)


Rows = list[dict[str, Any]]
Figures = dict[str, Any]
Keep = Callable[[Rows], object]  # writes what is known so far
Benchmark = Callable[[BenchmarkConfig, torch.device], tuple[Figures, str]]  # -> figures, and a table of them


def benchmark(
    name: str,
    measure_rows: Callable[[Any, BenchmarkConfig, torch.device, Keep], Rows],
    describe: Callable[[Mapping[str, Any]], str],
) -> Benchmark:
    """Of rows. measure_rows: gets the config's part of this name first."""

    def run(config: BenchmarkConfig, device: torch.device) -> tuple[Figures, str]:
        sizes = getattr(config, name)

        def keep(rows: Rows) -> Figures:
            return with_provenance(name, to_plain(sizes), rows, config, device)

        figures = keep(measure_rows(sizes, config, device, keep))
        return figures, describe(figures)

    return run


def taking_turns(name: str, contenders_of: Callable[[Any, torch.device], list[Contender]]) -> Benchmark:
    return benchmark(
        name,
        lambda sizes, config, device, _: to_plain(
            compare(contenders_of(sizes, device), repeats=config.repeats, device=device)
        ),
        describe_turns,
    )


def attention(config: BenchmarkConfig, device: torch.device) -> tuple[dict[str, Any], str]:
    """Every kind of self-attention against the length of its input, and the picture beside scores."""
    sizes = config.attention
    figures = None if sizes.figures is None else read_figures(Path(sizes.figures))
    kinds = sizes.contenders if figures is None else [row["name"] for row in figures["results"]]
    panels = Panels.read(sizes, kinds)  # what is missing is better known before minutes of measuring

    def keep(curves: Sequence[Curve]) -> Figures:
        rows = rows_of(curves, fit_from=sizes.fit_from)
        return with_provenance("attention", to_plain(sizes), rows, config, device)

    if figures is None:
        figures = keep(measure(sizes, repeats=config.repeats, device=device, keep=keep))
    return figures, describe_kinds(figures) + panels.draw(figures)


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


BENCHMARKS: dict[str, Benchmark] = {
    "alignments": taking_turns("alignments", alignments),
    "edits": taking_turns("edits", edits),
    "dag": benchmark(
        "dag",
        lambda sizes, config, device, _: measure_dag(sizes, repeats=config.repeats, device=device),
        describe_dag,
    ),
    "attention": attention,
    "training": benchmark(
        "training",
        lambda sizes, config, device, keep: measure_training(
            sizes, repeats=config.repeats, num_threads=config.num_threads, device=device, keep=keep
        ),
        describe_training,
    ),
    "decoding": benchmark(
        "decoding", lambda sizes, _, device, keep: measure_decoding(sizes, device, keep), describe_decoding
    ),
    "waits": benchmark("waits", lambda sizes, _, device, keep: measure_waits(sizes, device, keep), describe_waits),
    "engines": benchmark(
        "engines",
        lambda sizes, config, _, keep: measure_engines(sizes, repeats=config.repeats, keep=keep),
        describe_engines,
    ),
    "feed": benchmark("feed", lambda sizes, config, *_: measure_feed(sizes, repeats=config.repeats), describe_feed),
    "card": benchmark("card", lambda sizes, _, device, keep: measure_card(sizes, device), describe_card),
}
