"""Whatever translates, from its folder: a run, or an export of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from nat.config import load_yaml, parse
from nat.data.lines import file_digest
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Vocabularies
from nat.decoding import translator as runs
from nat.decoding.translator import Translator
from nat.engines.base import ComputeType, EngineTranslator
from nat.engines.choice import TOOLS, Engine
from nat.engines.hub_teacher import PREFIX as HUB_TEACHER
from nat.engines.hub_teacher import open_hub_teacher
from nat.engines.manifest import MANIFEST, is_export, read_manifest
from nat.engines.onnx import SEVERAL_PASSES
from nat.errors import ConfigError, DataError
from nat.models.contract import TranslationModel
from nat.runs.device import choose_device
from nat.runs.folder import read_component
from nat.runs.locations import run_folder
from nat.runs.precision import choose_precision
from nat.runs.weights import WEIGHTS

COMPUTES = ("loss", "decode", "score", "cross_attention")  # what a model without weights cannot do


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    weights: str | Path | None = None,
    trust: str | Sequence[str] = (),
) -> Translator:
    """The translator of a run folder, see `nat.decoding.translator.load`; or of a folder of nat-export, which has its
    own precision and no other weights. folder: also embedded:NAME, hub:USER/NAME[@REVISION]. Raises ConfigError or
    DataError where the folder cannot be used."""
    if str(folder).startswith(HUB_TEACHER):
        chosen = choose_device(device)
        return open_hub_teacher(str(folder), chosen, choose_precision(precision, chosen))
    folder = run_folder(folder)
    if not is_export(Path(folder)):
        return runs.load(folder, device=device, precision=precision, weights=weights, trust=trust)
    if weights is not None:
        raise ConfigError(f"weights={weights}: {folder} is an export, which has no other weights than its own")
    opened = open_export(Path(folder), device=device)
    return opened.in_precision(choose_precision(precision, opened.device))


def open_export(folder: Path, *, device: str = "auto") -> EngineTranslator:
    """Raises DataError where a file is missing or not as it was written, ConfigError where the engine is not
    installed or has no such device."""
    manifest = read_manifest(folder)
    try:
        engine, kind = parse(Engine, manifest.engine, "engine"), parse(ComputeType, manifest.precision, "precision")
        tool = TOOLS[engine]
    except (ConfigError, KeyError) as error:
        raise DataError(f"{folder}/{MANIFEST}: damaged or unreadable ({error})") from None
    chosen = choose_device("cpu" if device == "auto" and engine is Engine.ONNX else device)
    tokenizers = Tokenizers.load(folder / "tokenizer")
    model = model_of(folder, tokenizers.vocabularies)
    config, weights = load_yaml(folder / "config.yaml"), manifest.source
    translator = Translator(model, tokenizers, chosen, config=config, folder=folder, weights=weights)
    return tool.open_written(translator, folder, kind)


def model_of(folder: Path, vocabularies: Vocabularies) -> TranslationModel:
    """What config.yaml describes. One of several passes is built, for graphs to take the place of its stacks; any other
    is without weights, and knows its options and limits alone."""
    component = read_component(folder)
    if issubclass(component.target, SEVERAL_PASSES):
        whole: TranslationModel = component.build(vocabularies=vocabularies)
        return whole
    with torch.device("meta"):
        outline: TranslationModel = component.build(vocabularies=vocabularies)
    for name in COMPUTES:
        setattr(outline, name, lambda *_, name=name, **__: refuse(folder, name))
    return outline.eval()


def refuse(folder: Path, name: str) -> NoReturn:
    """Raises ConfigError."""
    raise ConfigError(f"{folder} is an export, which translates and does nothing else ({name}); name the run it is of")


def weights_digest(folder: Path) -> str:
    """A key of the weights that a folder translates with: the hash of a run's file, or of an export's manifest, which
    has those of its files. Raises DataError."""
    return file_digest(folder / (MANIFEST if is_export(folder) else WEIGHTS))
