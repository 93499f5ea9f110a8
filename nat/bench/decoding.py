"""nat-bench decoding: milliseconds of a sentence alone, and sentences a second in batches.

The weights are untrained, for speed does not depend on them, but for the lengths of translations: these are those of
the sources, by a length limit (teacher) or by a length predictor that is set to say so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nat.bench.memory import MEGABYTE
from nat.bench.systems import ModelSizes
from nat.bench.text import synthetic
from nat.config import nearest, option
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.decoding.graphs import CudaRecorder, GraphedDecoder
from nat.errors import ConfigError
from nat.evaluation.speed import synchronize
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.nn.length import LengthPredictor
from nat.progress import Progress
from nat.runs.precision import Precision
from nat.table import markdown_table, rounded

AS_LONG = {"max_length_factor": 1.0, "max_length_offset": 1}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (model, decoding options)
    "autoregressive greedy": ("autoregressive", AS_LONG),
    "autoregressive beam 4": ("autoregressive", AS_LONG | {"beam_size": 4}),
    "ctc": ("ctc", {}),
    "mask_predict 4": ("mask_predict", {"max_passes": 4}),
    "ctc graphs": ("ctc", {}),
}
GRAPHED = frozenset({"ctc graphs"})  # with CUDA graphs
WARM_UP = 3  # sentences


@dataclass(frozen=True, kw_only=True)
class DecodingSizes(ModelSizes):
    contenders: list[str] = option(
        [name for name in DECODERS if name not in GRAPHED], f"of {', '.join(DECODERS)} (on a GPU alone)"
    )
    sentences: int = option(30, "sentences that are translated alone", minimum=1, maximum=1_000_000)
    batch_size: int = option(128, "sentences of a batch", minimum=1, maximum=100_000)
    batches: int = option(4, "batches", minimum=1, maximum=1_000_000)
    precision: Precision = option(Precision.BF16, "fp32, bf16 or fp16 (autocast)")

    def __post_init__(self) -> None:
        unknown = [name for name in self.contenders if name not in DECODERS]
        if unknown:
            raise ConfigError(
                "\n".join(f"contenders={name}: no such decoder, {nearest(name, list(DECODERS))}" for name in unknown)
            )


@dataclass(frozen=True)
class Contender:
    """A model and how it decodes."""

    name: str
    model: TranslationModel
    decoding: DecodingOptions
    device: torch.device
    precision: Precision
    graphs: GraphedDecoder | None = None

    @classmethod
    def of(cls, name: str, sizes: DecodingSizes, device: torch.device) -> Contender:
        model_name, options = DECODERS[name]
        model = sizes.build(model_name).to(device).eval()
        for part in model.modules():
            if isinstance(part, LengthPredictor):
                as_long_as_the_source(part)
        graphs = GraphedDecoder(model, CudaRecorder()) if name in GRAPHED else None
        return cls(name, model, type(model).Decoding(**options), device, sizes.precision, graphs)

    def record(self, sources: Sequence[Sequence[int]]) -> None:
        """The graphs of these, where there are any, so that no time is taken of that."""
        if self.graphs is not None:
            self.decode(sources, batch_size=1)

    def decode(self, sources: Sequence[Sequence[int]], *, batch_size: int) -> tuple[float, list[Decoded]]:
        """Seconds, and the translations in some order."""
        synchronize(self.device)
        began = time.perf_counter()
        batches = decode_in_batches(
            self.model,
            sources,
            decoding=self.decoding,
            batches=BatchOptions(batch_size),
            device=self.device,
            precision=self.precision,
            graphs=self.graphs,
        )
        translations = [decoded for _, batch in batches for decoded in batch]
        synchronize(self.device)
        return time.perf_counter() - began, translations


def as_long_as_the_source(predictor: LengthPredictor) -> None:
    """The nearer to the source's length, the more probable, whatever the source."""
    with torch.no_grad():
        predictor.classify.weight.zero_()
        offsets = torch.arange(len(predictor.classify.bias)) - predictor.config.max_offset
        predictor.classify.bias.copy_(-offsets.abs())


def measure_decoding(
    sizes: DecodingSizes,
    device: torch.device,
    keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> list[dict[str, Any]]:
    """A row of each decoder; alone, they take turns sentence by sentence. keep: hears of the rows so far. Raises
    ConfigError for CUDA graphs on a CPU."""
    if device.type != "cuda" and (refused := GRAPHED & set(sizes.contenders)):
        raise ConfigError(f"contenders={', '.join(sorted(refused))}: CUDA graphs need a GPU, device=cuda")
    count = sizes.batch_size * sizes.batches
    sources = [pair.source for pair in synthetic(sizes.vocabulary_size, 26 * count)][:count]
    contenders = [Contender.of(name, sizes, device) for name in sizes.contenders]
    milliseconds: dict[str, list[float]] = {name: [] for name in sizes.contenders}
    total = len(contenders) * (WARM_UP + sizes.sentences + len(sources))
    with Progress("measure", total=total, unit="sentences") as progress:
        for contender in contenders:
            contender.record(sources[: WARM_UP + sizes.sentences])
        for number in range(WARM_UP + sizes.sentences):
            for contender in contenders:
                seconds, _ = contender.decode([sources[number % len(sources)]], batch_size=1)
                if number >= WARM_UP:
                    milliseconds[contender.name].append(1000.0 * seconds)
                progress.advance(1, contender.name)
        rows: list[dict[str, Any]] = []
        for contender in contenders:
            rows.append(row_of(contender, milliseconds[contender.name], sources, sizes.batch_size))
            keep(rows)
            progress.advance(len(sources), contender.name)
    return rows


def row_of(
    contender: Contender, milliseconds: Sequence[float], sources: Sequence[Sequence[int]], batch_size: int
) -> dict[str, Any]:
    """Plain figures of one decoder: what it took alone, and all sources in batches, after a batch to warm up."""
    device = contender.device
    contender.decode(sources[:batch_size], batch_size=batch_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, translations = contender.decode(sources, batch_size=batch_size)
    peak = torch.cuda.max_memory_allocated(device) / MEGABYTE if device.type == "cuda" else None
    return {
        "name": contender.name,
        "milliseconds_alone": statistics.median(milliseconds),
        "milliseconds_alone_95": sorted(milliseconds)[int(0.95 * len(milliseconds))],
        "sentences_per_second": len(sources) / seconds,
        "tokens_per_second": sum(len(one.tokens[0]) for one in translations) / seconds,
        "passes": statistics.mean(one.passes for one in translations),
        "peak_megabytes": peak,
    }


def describe_decoding(figures: Mapping[str, Any]) -> str:
    """The rows as a table, with what one needs to judge them."""
    columns = {
        "alone, ms": ("milliseconds_alone", 2),
        "95 %": ("milliseconds_alone_95", 2),
        "sentences/s": ("sentences_per_second", 1),
        "tokens/s": ("tokens_per_second", 0),
        "passes": ("passes", 1),
        "peak MB": ("peak_megabytes", 0),
    }
    rows = [
        [row["name"], *(rounded(row[key], digits) for key, digits in columns.values())] for row in figures["results"]
    ]
    sizes = figures["sizes"]
    shape = ", ".join(f"{name}={sizes[name]}" for name in ("num_layers", "dim", "vocabulary_size", "precision"))
    return (
        markdown_table(["decoder", *columns], rows)
        + f"\n\nmedian of {sizes['sentences']} sentences alone; batches of {sizes['batch_size']}; untrained weights, "
        f"translations as long as their sources; {shape}; {figures['device']}, {figures['num_threads']} CPU threads, "
        f"torch {figures['torch']}\n"
    )
