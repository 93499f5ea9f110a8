"""The precision of products: what is asked for, what is refused, and what computes in it."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from builders import make_batch, make_model

from nat.errors import ConfigError
from nat.models.ctc import CTC
from nat.runs import precision as precisions
from nat.runs.precision import Precision, choose_precision, decoding_in, precision_name

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "found"), [(None, "fp32"), ("fp32", "fp32"), ("bf16", "bf16"), ("auto", "fp32")], ids=str
)
def test_on_a_cpu(asked: str | None, found: str) -> None:
    assert choose_precision(asked, CPU) is Precision(found)


@pytest.mark.parametrize("able", [True, False])
def test_auto_on_a_gpu_is_bf16_where_it_computes_that(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert choose_precision("auto", GPU) is (Precision.BF16 if able else Precision.FP32)
    assert choose_precision("fp16", GPU) is Precision.FP16


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^precision=fp16: not on a CPU; use fp32, bf16 or auto$"):
        choose_precision("fp16", CPU)
    with pytest.raises(ConfigError, match=r"^x\.precision=int4: allowed are fp32, bf16, fp16, auto$"):
        choose_precision("int4", CPU, option="x.precision")


def test_fp32_is_tf32_where_the_device_has_it_and_only_while_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(precisions, "has_tf32", lambda device: device == CPU)
    for precision, name, inside in ((Precision.FP32, "tf32", "high"), (Precision.BF16, "bf16", before)):
        assert precision_name(precision, CPU) == name
        with decoding_in(precision, CPU):
            assert torch.get_float32_matmul_precision() == inside
            assert torch.is_autocast_enabled("cpu") is (precision is Precision.BF16)
        assert torch.get_float32_matmul_precision() == before
    monkeypatch.undo()
    assert precision_name(Precision.FP32, CPU) == "fp32"


def test_the_memory_is_kept_in_the_precision_of_products() -> None:
    model, source = cast(CTC, make_model("ctc")), make_batch([(4, 2)]).source
    with torch.no_grad(), decoding_in(Precision.BF16, CPU):
        assert model.net.encode(source).states.dtype is torch.bfloat16
    with torch.no_grad(), decoding_in(Precision.FP32, CPU):
        assert model.net.encode(source).states.dtype is torch.float32
    with decoding_in(Precision.BF16, CPU):  # training sums its gradients
        assert model.net.encode(source).states.dtype is torch.float32
