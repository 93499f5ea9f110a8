"""What computes a run: the engine, its precision and its batches are chosen, or refused by name, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nat.decoding.batch_options import BatchOptions
from nat.decoding.translator import Translator, load
from nat.engines.choice import Engine, decoding_options
from nat.errors import ConfigError
from nat.runs.precision import Precision


@pytest.fixture
def tiny(tiny_runs: dict[str, Path]) -> Translator:
    return load(tiny_runs["autoregressive"], device="cpu")


def test_what_decoding_holds_is_told_apart(tiny: Translator) -> None:
    options = {"batch_size": 3, "max_tokens": 50, "precision": "bf16", "beam_size": 2}
    computed, decoding, batches = decoding_options(tiny, options)
    assert (computed.engine, computed.precision, computed.computed_in) == ("torch", Precision.BF16, "bf16")
    assert (computed.model, tiny.precision) == (tiny.model, Precision.FP32)
    assert batches == BatchOptions(batch_size=3, max_tokens=50)
    assert decoding == tiny.decoding({"beam_size": 2})


def test_without_options_it_is_torch_in_float32(tiny: Translator) -> None:
    computed, decoding, batches = decoding_options(tiny, {"batch_size": 64, "max_tokens": None, "precision": None})
    assert (computed.engine, computed.computed_in) == ("torch", "fp32")
    assert (decoding, batches) == (tiny.decoding({}), BatchOptions(batch_size=64, max_tokens=None))


@pytest.mark.parametrize(("precision", "found"), [(None, "fp32"), ("fp32", "fp32"), ("int8", "int8")])
def test_ctranslate2_computes_in_float32_unless_int8_is_asked_for(tiny: Translator, precision: Any, found: str) -> None:
    pytest.importorskip("ctranslate2")
    computed, *_ = decoding_options(tiny, {"precision": precision}, Engine.CTRANSLATE2)
    assert (computed.engine, computed.computed_in) == ("ctranslate2", found)


def test_other_engines_record_nothing(tiny: Translator) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ConfigError, match=r"^decoding\.cuda_graphs=true: has no effect, ctranslate2 computes "):
        decoding_options(tiny, {"cuda_graphs": True}, Engine.CTRANSLATE2)


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        (Engine.TORCH, {"precision": "int8"}, "decoding.precision=int8: allowed are fp32, bf16, fp16, auto"),
        (Engine.TORCH, {"precision": "fp16"}, "decoding.precision=fp16: not on a CPU; use fp32, bf16 or auto"),
        (Engine.TORCH, {"precision": 16}, "decoding.precision=16: allowed are fp32, bf16, fp16, auto"),
        (Engine.CTRANSLATE2, {"precision": "bf16"}, "decoding.precision=bf16: allowed are fp32, int8"),
        (Engine.TORCH, {"batch_size": 0}, "decoding.batch_size=0: must be at least 1"),
        (Engine.TORCH, {"max_tokens": 0}, "decoding.max_tokens=0: must be at least 1"),
        (Engine.TORCH, {"cuda_graphs": True}, "decoding.cuda_graphs=true: needs a GPU, device=cuda"),
        (Engine.TORCH, {"cuda_graphs": "yes"}, "decoding.cuda_graphs=yes: true or false is needed"),
        (Engine.TORCH, {"beam": 2}, "decoding.beam=2: a Autoregressive checkpoint"),
    ],
)
def test_refusals(tiny: Translator, engine: Engine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decoding_options(tiny, options, engine)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)
