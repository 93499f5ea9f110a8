"""Passes do not wait for the host: what it knows beforehand is not asked, and it makes no tensors in between."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from builders import make_batch, make_model
from torch.utils._python_dispatch import TorchDispatchMode

SOURCE = make_batch([(9, 1), (8, 1)]).source
WAITS, MADE = "_local_scalar_dense", "lift_fresh"  # a number read from a device; a tensor made of Python's numbers


class Operations(TorchDispatchMode):
    """Counts what reaches the device, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def operations(name: str, **decoding: Any) -> Counter[str]:
    model = make_model(name)
    with torch.no_grad(), Operations() as seen:
        model.decode(SOURCE, decoding=type(model).Decoding(allow_unknown=False, **decoding))
    return seen.counts


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask_predict", {"length_beam": 1}),
        ("diffusion", {"length_beam": 1}),
        ("refinement", {"adaptive": False}),
        ("imputer", {}),
    ],
)
def test_more_passes_make_no_more_tensors_and_wait_no_more_often(name: str, options: dict[str, Any]) -> None:
    few, many = (operations(name, max_passes=passes, **options) for passes in (2, 6))
    assert many["linear"] + many["addmm"] > few["linear"] + few["addmm"]
    assert (many[WAITS], many[MADE]) == (few[WAITS], few[MADE])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoregressive", {}),
        ("autoregressive", {"beam_size": 3}),
        ("insertion", {"parallel": False, "end_penalty": 9.0}),
        ("kermit", {"parallel": False, "end_penalty": 9.0}),
    ],
)
def test_longer_translations_make_no_more_tensors(name: str, options: dict[str, Any]) -> None:
    few, many = (operations(name, max_length_factor=0.0, max_length_offset=length, **options) for length in (2, 7))
    assert many["addmm"] > few["addmm"]
    assert many[MADE] == few[MADE]
