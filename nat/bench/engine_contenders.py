"""The contenders of nat-bench engines: untrained models of given sizes, or two run folders, ready to translate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.bench.systems import ModelSizes
from nat.config import nearest, option
from nat.data.batch import Source
from nat.data.vocabulary import NUM_SYMBOLS
from nat.decoding.batch_options import ALONE, BatchOptions
from nat.drawing.style import check_plots
from nat.engines.ctranslate2 import convert, import_package, token_name
from nat.engines.onnx_ctc import write_ctc
from nat.engines.onnx_session import open_session
from nat.errors import ConfigError
from nat.evaluation.inputs import Split, read_split
from nat.evaluation.opening import SystemsConfig, open_systems
from nat.evaluation.speed import spread
from nat.evaluation.system import System
from nat.models.ctc import CTC

TEACHERS = {"6+6": (6, 6), "12+1": (12, 1)}
BASELINES = tuple(f"ctranslate2-int8-{layers}" for layers in TEACHERS)
OF_RUNS = {  # contenders of two run folders: name -> (whose it is, options)
    "student-onnx-int8": ("student", "engine=onnx&precision=int8"),
    "student-onnx-fp32": ("student", "engine=onnx"),
    "student-torch": ("student", "engine=torch"),
    "ctranslate2-int8": ("teacher", "engine=ctranslate2&precision=int8"),
    "ctranslate2-int8-beam-4": ("teacher", "engine=ctranslate2&precision=int8&beam_size=4"),
    "ctranslate2-float32": ("teacher", "engine=ctranslate2"),
}
RUN_BASELINES = ("ctranslate2-int8", "ctranslate2-int8-beam-4")
STUDENTS = ("student-onnx-int8", "student-onnx-fp32", "student-torch")
CONTENDERS = (*STUDENTS, *BASELINES, "ctranslate2-float32-6+6")
SURE = 12.0  # of the gate, in either direction: its usual odds
SAMPLES = 8  # batches that magnitudes of int8 are measured on
SENTENCES, MOST = 20, 512  # of each round: alone, and of a run's text in batches
Translate = Callable[[Any], object]  # of token ids (B, S), or of sentences


@dataclass(frozen=True, kw_only=True)
class EngineSizes:
    student: str | None = option(None, "run folder of a single-pass student, measured instead of untrained models")
    teacher: str | None = option(None, "run folder of its teacher, which CTranslate2 computes")
    contenders: list[str] = option(list(CONTENDERS), f"untrained models: of {', '.join(CONTENDERS)}")
    dims: list[int] = option(
        [512], "widths D of all models, one after the other; feed-forward layers have 4 D", minimum=4, maximum=65536
    )
    vocabulary_size: int = option(32000, "vocabulary V, one for both languages", minimum=300, maximum=1_000_000)
    head_dim: int = option(64, "width of an attention head; narrow models have four heads", minimum=1, maximum=4096)
    encoder_layers: int = option(10, "of the student, at source positions", minimum=1, maximum=1024)
    slot_layers: int = option(2, "of the student, at slots", minimum=1, maximum=1024)
    source_length: int = option(17, "tokens of a sentence", minimum=1, maximum=500)
    target_length: int = option(17, "tokens of a teacher's translation", minimum=1, maximum=500)
    batch_size: int = option(32, "sentences of a batch", minimum=1, maximum=100_000)
    picture: str | None = option(None, "SVG file of the ratios against the width; needs several dims (extra `plot`)")

    def __post_init__(self) -> None:
        if (self.student is None) != (self.teacher is None):
            raise ConfigError("student, teacher: one run folder is given without the other")
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
    """dim: width D. alone: translates one sentence; together: a batch, or many sentences."""

    name: str
    dim: int
    alone: Translate
    together: Translate


@dataclass(frozen=True)
class Round:
    """What every contender translates in one round: each of `alone` by itself, then `together`, `size` sentences."""

    alone: Sequence[Any]
    together: Any
    size: int


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
        yield Contender(name, dim, translate, translate)


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
    path = folder / f"ctranslate2-{encoder}-{decoder}-{dim}"
    if not path.exists():
        path.mkdir()
        convert(sizes.build("autoregressive", dim, encoder, decoder)).save(str(path))
    engine = import_package().Translator(str(path), device="cpu", compute_type=kind, inter_threads=1, intra_threads=1)
    length = sizes.target_length

    def translate(tokens: np.ndarray) -> object:
        rows = [[token_name(token) for token in row] for row in tokens.tolist()]
        return engine.translate_batch(rows, beam_size=1, min_decoding_length=length, max_decoding_length=length)

    return translate


def rounds_of_tokens(sizes: EngineSizes, count: int) -> Iterator[Round]:
    for tokens in batches(sizes, count):
        rows = range(min(SENTENCES, len(tokens)))
        yield Round([tokens[row : row + 1] for row in rows], tokens, len(tokens))


def run_contenders(sizes: EngineSizes) -> tuple[list[Contender], list[str]]:
    """The engines of two runs, from text to text, and the test text of the teacher's corpus."""
    folders = {"student": sizes.student, "teacher": sizes.teacher}
    entries = [f"{folders[whose]}?name={name}&{options}" for name, (whose, options) in OF_RUNS.items()]
    systems = open_systems(SystemsConfig(run_dirs=entries, output="", num_threads=1))
    sources = read_split(systems[-1].translator, Split.TEST, {}).sources
    return [run_contender(system, sizes.batch_size) for system in systems], [text for text in sources if text.strip()]


def run_contender(system: System, batch_size: int) -> Contender:
    def translating(batches: BatchOptions) -> Translate:
        return lambda sentences: system.translate(sentences, batches=batches)

    dim = system.translator.config["model"]["size"]["dim"]
    return Contender(system.name, dim, translating(ALONE), translating(BatchOptions(batch_size=batch_size)))


def rounds_of_text(sentences: Sequence[str], count: int) -> Iterator[Round]:
    """Other sentences alone in each round, always the same ones together."""
    chosen, together = spread(sentences, SENTENCES * count), spread(sentences, MOST)
    for number in range(count):
        yield Round([[text] for text in chosen[number::count]], together, len(together))
