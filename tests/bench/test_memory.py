"""Peak memory against what is known to be allocated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.bench.memory import peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_what_stood_at_one_time() -> None:
    kept: list[Tensor] = []

    def work() -> None:
        first = torch.empty(1000, dtype=torch.float64)  # 8000 bytes
        second = torch.empty(500, dtype=torch.float64)
        del first
        kept.append(torch.empty(250, dtype=torch.float64))
        del second

    assert peak_bytes(work, CPU) == 12_000
    assert peak_bytes(kept.clear, CPU) == 0  # a release is no use of memory
    assert peak_bytes(lambda: None, CPU) == 0


def test_tensors_saved_for_the_backward_pass_count() -> None:
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)

    def work() -> None:
        x.exp().exp().exp().sum().backward()  # each result is saved for its own gradient

    with torch.no_grad():
        alone = peak_bytes(lambda: x.exp().exp().exp().sum(), CPU)
    assert alone < 17_000 < 24_000 < peak_bytes(work, CPU)


def test_inner_buffers_of_kernels_count() -> None:
    """sort copies its input; matrices of N x N are never made by the fused attention, and are by the plain one."""
    x = torch.randn(1, 1, 512, 8)
    square = 512 * 512 * 4
    assert peak_bytes(lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x), CPU) < square
    assert peak_bytes(lambda: (x @ x.transpose(2, 3)).softmax(-1) @ x, CPU) >= 2 * square


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    peak_bytes(lambda: torch.ones(3), CPU)
    assert capfd.readouterr() == ("", "")
