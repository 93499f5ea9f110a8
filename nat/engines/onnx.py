"""ONNX Runtime as the engine of non-autoregressive runs, https://onnxruntime.ai, on the CPU.

A model of a single pass is one graph, from tokens to tokens (`GraphTranslator`). A model of several passes keeps its
own loop, `nat.search.refine`, and all that lies around its stacks (`StacksTranslator`, `nat.engines.onnx_stacks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.data.tokenized import TokenizedCorpus, prepare
from nat.decoding.batched import Decoded
from nat.decoding.options import data_options
from nat.decoding.translator import Translator
from nat.engines.base import ComputeType, EngineTranslator, WorkerTranslator
from nat.engines.onnx_crf import write_crf
from nat.engines.onnx_ctc import write_ctc
from nat.engines.onnx_dag import BETA, beta_of, write_dag
from nat.engines.onnx_graph import IMPOSSIBLE, POSITIONS, UNKNOWN
from nat.engines.onnx_operators import FUSED, Operators
from nat.engines.onnx_session import ENGINE, PACKAGE, open_session, require
from nat.engines.onnx_single import write_fertility, write_vanilla
from nat.engines.onnx_stacks import read_stacks, write_stacks
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.models.crf import CRF
from nat.models.ctc import CTC
from nat.models.dag import DAG
from nat.models.diffusion import Diffusion
from nat.models.fertility import Fertility
from nat.models.imputer import Imputer
from nat.models.mask_predict import MaskPredict
from nat.models.options import DecodingOptions
from nat.models.refinement import Refinement
from nat.models.vanilla import Vanilla
from nat.nn.attention.base import Attention, tightest
from nat.nn.attention.full import FullAttention
from nat.nn.attention.positional import OthersAttention, PositionalAttention

PACKAGES = ("onnx", PACKAGE)  # that a folder is made and computed with
MODEL = "model.onnx"
NUM_SAMPLES = 100  # sentences that magnitudes are measured on
SINGLE_PASS: dict[type[TranslationModel], Any] = {
    CTC: write_ctc,
    Vanilla: write_vanilla,
    Fertility: write_fertility,
    DAG: write_dag,
    CRF: write_crf,
}
SEVERAL_PASSES = (MaskPredict, Diffusion, Refinement, Imputer)
ATTENTIONS = (FullAttention, OthersAttention, PositionalAttention)


class GraphTranslator(WorkerTranslator):
    """A single pass as one graph. It has no scores."""

    engine, package = ENGINE, PACKAGE

    def __init__(self, translator: Translator, kind: ComputeType, folder: Path) -> None:
        super().__init__(translator, kind, longest=longest_source(translator.model))
        self._session = open_session(folder / MODEL)
        self._num_workers = torch.get_num_threads()

    def decoding(self, options: dict[str, Any]) -> DecodingOptions:
        """As `Translator.decoding`. Raises ConfigError for what the graph does not do, which has one answer."""
        decoding, free = super().decoding(options), {"allow_unknown"}
        if beta_of(decoding) is not None:
            free |= {"search", BETA}
        for f in fields(decoding):
            value = getattr(decoding, f.name)
            if value != f.default and f.name not in free:
                raise ConfigError(
                    f"decoding.{f.name}={getattr(value, 'value', value)}: {self.folder} is computed by one {ENGINE} "
                    f"graph, made with {f.name}={f.default}; engine=torch can"
                )
        return decoding

    def computed(self, batches: list[list[list[int]]], decoding: DecodingOptions) -> Iterator[list[Decoded]]:
        """As `WorkerTranslator.computed`. What one worker does needs no other thread."""
        given = {} if decoding.allow_unknown else {UNKNOWN: IMPOSSIBLE}
        if (beta := beta_of(decoding)) is not None:
            given[BETA] = beta
        more = {name: np.array(value, dtype=np.float32) for name, value in given.items()}
        work = partial(self._translate, more)
        num_workers = min(self._num_workers, len(batches))
        if num_workers <= 1:
            yield from map(work, batches)
            return
        with ThreadPoolExecutor(num_workers) as workers:  # made anew, for threads do not come along into a fork
            yield from workers.map(work, batches)

    def _translate(self, more: dict[str, np.ndarray], rows: list[list[int]]) -> list[Decoded]:
        from nat.engines import translate

        written = translate.run(self._session, rows, collapses(self.model), **more)
        return [Decoded([ids], [math.nan], 1, False) for ids in written]


class StacksTranslator(EngineTranslator):
    """Several passes: the model's own loop, around graphs."""

    engine, package = ENGINE, PACKAGE

    def __init__(self, translator: Translator, kind: ComputeType, folder: Path) -> None:
        super().__init__(translator, kind)
        self.model = read_stacks(translator.model, folder)


def check(translator: Translator) -> None:
    """Raises ConfigError where a package is missing, and where the run's model or the device cannot be served."""
    model, where = translator.model, f"engine={ENGINE}: {translator.folder}"
    for package in PACKAGES:
        require(package)
    if not isinstance(model, (*SINGLE_PASS, *SEVERAL_PASSES)):
        raise ConfigError(
            f"{where} holds a {type(model).__name__} model; {named(SINGLE_PASS)} become one graph, "
            f"{named(SEVERAL_PASSES)} graphs around their loop, and Autoregressive is for ctranslate2"
        )
    if model.vocabularies.points:
        raise ConfigError(f"{where} reads points, only text can be exported")
    for part in model.modules():
        if isinstance(part, Attention) and type(part) not in ATTENTIONS:
            raise ConfigError(f"{where} has {type(part).__name__}, which no graph is written for, only full attention")
    if isinstance(model, SEVERAL_PASSES):
        return
    net: Any = model.net
    for option, present in (
        ("copying.enabled=true", net.copying is not None),
        ("deep_supervision.enabled=true", net.feedback and isinstance(model, CTC)),
        ("crf.weight", isinstance(model, DAG) and model.crf is not None),
    ):
        if present:
            raise ConfigError(f"{where} has model.{option}, which no graph is written for")


def named(kinds: Any) -> str:
    *first, last = (kind.__name__ for kind in kinds)
    return f"{', '.join(first)} and {last}" if first else last


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """The graphs of a run that `check` takes, and what is needed beside them. For int8, magnitudes are measured on
    sentences of the run's validation text. Raises ConfigError or DataError where that cannot be read."""
    if isinstance(translator.model, SEVERAL_PASSES):
        write_stacks(translator, folder, sample_rows(translator, kind))
    else:
        write_single(translator, folder, kind)


def write_single(translator: Translator, folder: Path, kind: ComputeType, operators: Operators = FUSED) -> None:
    """The graph of a single pass."""
    model, rows = translator.model, sample_rows(translator, kind)
    samples = None if rows is None else [{"tokens": np.array([row])} for row in rows]
    SINGLE_PASS[type(model)](model, folder / MODEL, samples=samples, operators=operators)


def sample_rows(translator: Translator, kind: ComputeType) -> list[list[int]] | None:
    """Ids of at most NUM_SAMPLES sources of the validation text, evenly spread, that the graph can take; None where no
    magnitudes are needed."""
    if kind is not ComputeType.INT8:
        return None
    corpus = prepare(data_options(translator, {}), "valid", translator.tokenizers, filtered=False)
    assert isinstance(corpus, TokenizedCorpus)
    places = np.unique(np.linspace(0, len(corpus) - 1, min(NUM_SAMPLES, len(corpus))).round().astype(int))
    rows, most = [pair.source for pair in corpus.pairs(places)], longest_source(translator.model)
    return [row for row in rows if row and (most is None or len(row) <= most)]


def open_written(translator: Translator, folder: Path, kind: ComputeType) -> EngineTranslator:
    """What `write` wrote of the translator's model. Raises ConfigError without the package, and for a GPU."""
    if translator.device.type != "cpu":
        raise ConfigError(f"device={translator.device.type}: {ENGINE} computes on the CPU; use device=cpu")
    several = isinstance(translator.model, SEVERAL_PASSES)
    return (StacksTranslator if several else GraphTranslator)(translator, kind, folder)


def longest_source(model: TranslationModel) -> int | None:
    """The most tokens of a sentence: a graph's sinusoids have a limit, those of a canvas too."""
    if isinstance(model, SEVERAL_PASSES):
        return model.max_source_length
    slots = model.split.num_slots if isinstance(model, CTC | DAG) else 1
    return tightest((model.max_source_length, POSITIONS // slots))


def collapses(model: TranslationModel) -> bool:
    """Whether a graph's path is of slots."""
    return isinstance(model, CTC)
