"""nat-bench engines: a single-pass student beside the engine that a user would take instead, on the same core.

The student is CTC with late upsampling and a factored blank; the teachers are those that CTranslate2 runs, with 6+6 and
with 12+1 layers (Kasai et al. 2021, https://arxiv.org/abs/2006.10369; Helcl et al. 2022,
https://arxiv.org/abs/2205.01966). The weights are untrained, for speed does not depend on them, but for lengths: the
teachers are made to write as many tokens as is asked for, and half of the student's slots are blank.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.bench.systems import ModelSizes
from nat.config import nearest, option
from nat.data.batch import Source
from nat.data.vocabulary import NUM_SYMBOLS
from nat.drawing.chart import Chart, Guide, Series
from nat.drawing.charts import draw
from nat.drawing.style import check_plots, write_svg
from nat.engines.ctranslate2 import convert, token_name
from nat.engines.onnx_graph import write_ctc
from nat.engines.onnx_session import open_session
from nat.errors import ConfigError
from nat.models.ctc import CTC
from nat.progress import Progress
from nat.table import markdown_table, rounded

TEACHERS = {"6+6": (6, 6), "12+1": (12, 1)}
BASELINES = tuple(f"ctranslate2-int8-{layers}" for layers in TEACHERS)
STUDENTS = ("student-onnx-int8", "student-onnx-fp32", "student-torch")
CONTENDERS = (*STUDENTS, *BASELINES, "ctranslate2-float32-6+6")
SURE = 12.0  # of the gate, in either direction: its usual odds
SAMPLES = 8  # batches that magnitudes of int8 are measured on
ALONE = 5  # sentences alone, for each batch
Translate = Callable[[np.ndarray], object]  # token ids (B, S)


@dataclass(frozen=True, kw_only=True)
class EngineSizes:
    contenders: list[str] = option(list(CONTENDERS), f"of {', '.join(CONTENDERS)}")
    dims: list[int] = option([512], "widths D of all models, one after the other; feed-forward layers have 4 D")
    vocabulary_size: int = option(32000, "vocabulary V, one for both languages", minimum=300, maximum=1_000_000)
    head_dim: int = option(64, "width of an attention head; narrow models have four heads", minimum=1, maximum=4096)
    encoder_layers: int = option(10, "of the student, at source positions", minimum=1, maximum=1024)
    slot_layers: int = option(2, "of the student, at slots", minimum=1, maximum=1024)
    source_length: int = option(17, "tokens of a sentence", minimum=1, maximum=500)
    target_length: int = option(17, "tokens of a teacher's translation", minimum=1, maximum=500)
    batch_size: int = option(32, "sentences of a batch", minimum=1, maximum=100_000)
    picture: str | None = option(None, "SVG file of the ratios against the width; needs several dims (extra `plot`)")

    def __post_init__(self) -> None:
        unknown = [name for name in self.contenders if name not in CONTENDERS]
        if unknown:
            raise ConfigError(
                "\n".join(f"contenders={name}: no such contender, {nearest(name, CONTENDERS)}" for name in unknown)
            )
        for dim in self.dims:
            if dim % self.num_heads(dim):
                raise ConfigError(f"dims={dim}: must be a multiple of its {self.num_heads(dim)} heads")
        if self.picture is not None:
            check_plots("engines.picture")
            if len(self.dims) < 2:
                raise ConfigError(f"picture={self.picture}: needs several dims")

    def num_heads(self, dim: int) -> int:
        return max(4, dim // self.head_dim)

    def build(self, name: str, dim: int, encoder_layers: int, decoder_layers: int, *more: str) -> Any:
        """A model of configs/model with the first weights of a seed."""
        sizes = ModelSizes(
            vocabulary_size=self.vocabulary_size, dim=dim, num_heads=self.num_heads(dim), ffn_dim=4 * dim
        )
        layers = (f"encoder.num_layers={encoder_layers}", f"model.decoder.num_layers={decoder_layers}")
        return sizes.build(name, more=(*layers, *more)).eval()


@dataclass(frozen=True)
class Contender:
    name: str
    dim: int
    translate: Translate


# --- contenders ---------------------------------------------------------------------------------------


def contenders(sizes: EngineSizes, dim: int, folder: Path) -> Iterator[Contender]:
    """Those that are asked for, ready to translate. folder: for their files."""
    student = untrained_student(sizes, dim)
    samples = [{"tokens": tokens} for tokens in batches(sizes, SAMPLES)]
    for name in sizes.contenders:
        engine, kind, *layers = name.split("-")
        if name == "student-torch":
            translate = in_torch(student)
        elif engine == "student":
            path = folder / f"{name}.onnx"
            write_ctc(student, path, samples=samples if name.endswith("int8") else None)
            translate = in_onnx(path)
        else:
            translate = in_ctranslate2(sizes, dim, *TEACHERS[layers[0]], kind=kind, folder=folder)
        yield Contender(name, dim, translate)


@torch.no_grad()
def untrained_student(sizes: EngineSizes, dim: int) -> CTC:
    """Its gate says blank to one half of the slots, and is as sure as a trained one."""
    fast = ("model.decoder.cross_attention=false", "model.factored_blank=true")
    model = sizes.build("ctc", dim, sizes.encoder_layers, sizes.slot_layers, *fast)
    assert isinstance(model, CTC)
    gate = model.net.blank_gate
    assert gate is not None
    _, states, _ = model.states(Source.from_lists(next(batches(sizes, 1)).tolist()))
    gate.weight.normal_()
    odds = gate(states)
    gate.weight.mul_(SURE / odds.std())
    gate.bias.sub_(gate(states).median())
    return model


def batches(sizes: EngineSizes, count: int) -> Iterator[np.ndarray]:
    """Token ids (B, S) of ordinary words, the same at every call."""
    random = np.random.default_rng(1)
    for _ in range(count):
        yield random.integers(NUM_SYMBOLS, sizes.vocabulary_size, (sizes.batch_size, sizes.source_length))


def in_torch(model: CTC) -> Translate:
    @torch.inference_mode()
    def translate(tokens: np.ndarray) -> object:
        return model.decode(Source.from_lists(tokens.tolist()), decoding=CTC.Decoding())

    return translate


def in_onnx(path: Path) -> Translate:
    session = open_session(path)
    return lambda tokens: session.run(["path"], {"tokens": tokens})


def in_ctranslate2(sizes: EngineSizes, dim: int, encoder: int, decoder: int, *, kind: str, folder: Path) -> Translate:
    """Greedy search, forced to write the length that is asked for."""
    from ctranslate2 import Translator

    path = folder / f"ctranslate2-{encoder}-{decoder}-{dim}"
    if not path.exists():
        path.mkdir()
        convert(sizes.build("autoregressive", dim, encoder, decoder)).save(str(path))
    engine = Translator(str(path), device="cpu", compute_type=kind, inter_threads=1, intra_threads=1)
    length = sizes.target_length

    def translate(tokens: np.ndarray) -> object:
        rows = [[token_name(token) for token in row] for row in tokens.tolist()]
        return engine.translate_batch(rows, beam_size=1, min_decoding_length=length, max_decoding_length=length)

    return translate


# --- figures ------------------------------------------------------------------------------------------


def measure_engines(
    sizes: EngineSizes, *, repeats: int, keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None
) -> list[dict[str, Any]]:
    """A row of each contender and width. Of one width all take turns. keep: hears of the rows so far."""
    rows: list[dict[str, Any]] = []
    with Progress("measure", total=len(sizes.dims) * len(sizes.contenders) * (repeats + 1), unit="turns") as progress:
        for dim in sizes.dims:
            with tempfile.TemporaryDirectory(prefix="nat-engines-") as folder:
                measured = measure_turns(sizes, list(contenders(sizes, dim, Path(folder))), repeats, progress)
            rows += with_ratios(measured)
            keep(rows)
    if sizes.picture is not None:
        write_svg(draw(chart_of(rows)), Path(sizes.picture))
    return rows


def measure_turns(
    sizes: EngineSizes, contenders: Sequence[Contender], repeats: int, progress: Progress
) -> list[dict[str, Any]]:
    """Medians of CPU time over the rounds, in each of which every contender translates sentences alone and a batch;
    the first round warms up."""
    alone: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    together: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number, tokens in enumerate(batches(sizes, repeats + 1)):
        for contender in contenders:
            times = [cpu_seconds(contender, tokens[row : row + 1]) for row in range(min(ALONE, len(tokens)))]
            seconds = cpu_seconds(contender, tokens)
            if number:
                alone[contender.name] += times
                together[contender.name].append(seconds)
            progress.advance(1, f"{contender.name}, D={contender.dim}")
    return [
        {
            "name": contender.name,
            "dim": contender.dim,
            "ms_alone": 1000.0 * statistics.median(alone[contender.name]),
            "sentences_per_second": sizes.batch_size / statistics.median(together[contender.name]),
        }
        for contender in contenders
    ]


def cpu_seconds(contender: Contender, tokens: np.ndarray) -> float:
    """Of all threads of this process, so that what else the machine does counts little."""
    began = time.process_time()
    contender.translate(tokens)
    return time.process_time() - began


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one width with how many times as fast as each baseline they are."""
    baselines = [row for row in rows if row["name"] in BASELINES]
    return [
        row
        | {
            "times_as_fast": {
                other["name"]: {
                    "alone": other["ms_alone"] / row["ms_alone"],
                    "batches": row["sentences_per_second"] / other["sentences_per_second"],
                }
                for other in baselines
            }
        }
        for row in rows
    ]


def describe_engines(figures: Mapping[str, Any]) -> str:
    """The ratios, then the figures, with what one needs to judge them."""
    sizes, rows = figures["sizes"], figures["results"]
    columns = [(name, kind) for name in BASELINES for kind in ("alone", "batches")]
    ratios = [
        [
            str(row["dim"]),
            row["name"],
            *(ratio_text(row["times_as_fast"].get(name, {}).get(kind)) for name, kind in columns),
        ]
        for row in rows
    ]
    plain = [
        [str(row["dim"]), row["name"], rounded(row["ms_alone"], 2), rounded(row["sentences_per_second"], 0)]
        for row in rows
    ]
    heads = ["D", "times as fast as", *(f"{name.removeprefix('ctranslate2-')}, {kind}" for name, kind in columns)]
    return (
        f"{markdown_table(heads, ratios)}\n\n{markdown_table(['D', '', 'ms alone', 'sentences/s'], plain)}\n\n"
        f"CPU time, medians of {figures['repeats']} rounds, taking turns; batches of {sizes['batch_size']}; "
        f"CTranslate2 in greedy search; V={sizes['vocabulary_size']}, {sizes['source_length']} source tokens, "
        f"{sizes['target_length']} target tokens, student of {sizes['encoder_layers']}+{sizes['slot_layers']} layers, "
        f"untrained weights; {figures['machine']}, one thread, torch {figures['torch']}\n"
    )


def ratio_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def chart_of(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """How many times as fast as each baseline the int8 student is, against the width."""
    student = [row for row in rows if row["name"] == STUDENTS[0]]
    series = [
        Series(
            number=number,
            name=f"{kind}, over {baseline}",
            family=baseline,
            points=[(row["dim"], row["times_as_fast"][baseline][kind]) for row in student],
            notes=[""] * len(student),
        )
        for number, (kind, baseline) in enumerate(
            ((kind, baseline) for kind in ("alone", "batches") for baseline in student[0]["times_as_fast"]), start=1
        )
    ]
    dims = [row["dim"] for row in student]
    return Chart(
        name="engines",
        title="Speed of a single pass in int8 over CTranslate2 int8, greedy",
        caption="One core; above the line the single pass is faster.",
        x="width D",
        y="times as fast",
        series=series,
        x_base=2,
        y_base=2,
        guide=Guide("equally fast", [(min(dims), 1.0), (max(dims), 1.0)]),
    )
