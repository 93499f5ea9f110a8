"""Matrix products of an ONNX graph in float32 or in int8.

int8 here never depends on what else is in a batch: weights have a scale for each column, activations one for the whole
model, measured once on sample sentences (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, "static" quantisation).
Activations are uint8 around 128, or from 0 behind a ReLU, which the rounding then does for nothing; weights are int8:
what CPUs multiply fastest. Attention, normalisation and softmax stay in floating point (`nat.engines.onnx_operators`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from nat.engines.onnx_nodes import FLOAT, MICROSOFT, Graph
from nat.engines.onnx_operators import FUSED, Operators
from nat.files import write_atomically

LEVELS = 127  # on either side of zero


class Factor(NamedTuple):
    """The left side of products: a tensor; if it is quantised, with its scale and what stands for zero."""

    values: str
    scale: str = ""
    zero: str = ""


class Products(ABC):
    """How a graph multiplies. Each left side has a key, the same at every writing of a graph."""

    def __init__(self, operators: Operators) -> None:
        self.graph, self.operators = Graph(), operators

    @abstractmethod
    def factor(self, x: str, key: str, *, relu: bool = False) -> Factor:
        """x (..., I), made ready for products; relu: its positive part."""

    @abstractmethod
    def linear(self, x: Factor, weight: np.ndarray, bias: np.ndarray | str | None) -> str:
        """x (..., I) times weight (O, I), transposed, plus bias (O), which may be a tensor of the graph."""

    @abstractmethod
    def rows_of(self, table: np.ndarray, index: str) -> str:
        """Rows of a table (N, D), in float32."""


class FloatProducts(Products):
    def factor(self, x: str, key: str, *, relu: bool = False) -> Factor:
        return Factor(self.graph.node("Relu", x) if relu else x)

    def linear(self, x: Factor, weight: np.ndarray, bias: np.ndarray | str | None) -> str:
        product = self.graph.node("MatMul", x.values, self.graph.constant(weight.T))
        return product if bias is None else self.graph.node("Add", product, self.graph.known(bias))

    def rows_of(self, table: np.ndarray, index: str) -> str:
        return self.graph.node("Gather", self.graph.constant(table), index)


class MeasuredProducts(FloatProducts):
    """In float32, with an output for each left side: the largest magnitude in it."""

    def factor(self, x: str, key: str, *, relu: bool = False) -> Factor:
        factor = super().factor(x, key, relu=relu)
        largest = self.graph.node("ReduceMax", self.graph.node("Abs", factor.values), keepdims=0)
        self.graph.output(largest, key, "FLOAT")
        return factor


class Int8Products(Products):
    """largest: the magnitude that each left side may have; what is beyond it is cut."""

    def __init__(self, operators: Operators, largest: Mapping[str, float]) -> None:
        super().__init__(operators)
        self.largest = largest

    def factor(self, x: str, key: str, *, relu: bool = False) -> Factor:
        zero, levels = (0, 2 * LEVELS + 1) if relu else (LEVELS + 1, LEVELS)
        scale = self.graph.real(max(self.largest[key], 1e-6) / levels)
        at_zero = self.graph.constant(np.uint8(zero))
        return Factor(self.graph.node("QuantizeLinear", x, scale, at_zero), scale, at_zero)

    def linear(self, x: Factor, weight: np.ndarray, bias: np.ndarray | str | None) -> str:
        quantised, scales = quantised_rows(weight)
        inputs = [x.values, self.graph.constant(quantised.T), x.scale, self.graph.constant(scales), x.zero]
        more = [] if bias is None else ["", self.graph.known(bias)]
        return self.graph.node("MatMulIntegerToFloat", *inputs, *more, domain=MICROSOFT)

    def rows_of(self, table: np.ndarray, index: str) -> str:
        """float16 holds more than what int8 products keep."""
        half = self.graph.node("Gather", self.graph.constant(table.astype(np.float16)), index)
        return self.graph.node("Cast", half, to=FLOAT)


def quantised_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values (O, I) and float32 scales (O) of a weight (O, I)."""
    scales = np.abs(weight).max(axis=1) / LEVELS
    scales[scales == 0] = 1.0
    return np.rint(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def write_graph(
    describe: Callable[[Products], None],
    path: Path,
    *,
    samples: Sequence[Mapping[str, np.ndarray]] | None,
    operators: Operators = FUSED,
) -> None:
    """Write the graph that `describe` makes of products: float32, or int8 if there are samples of its inputs, on which
    the magnitudes are measured."""
    products: Products = FloatProducts(operators)
    if samples is not None:
        products = Int8Products(operators, measured(describe, samples))
    describe(products)
    content = products.graph.model().SerializeToString()
    write_atomically(path, lambda part: part.write_bytes(content))


def measured(describe: Callable[[Products], None], samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The largest magnitude of each left side in all samples."""
    from nat.engines.translate import open_session

    products = MeasuredProducts(FUSED)
    describe(products)
    session = open_session(products.graph.model().SerializeToString())
    keys = [output.name for output in products.graph.outputs if not output.type.tensor_type.shape.dim]
    largest = dict.fromkeys(keys, 0.0)
    for sample in samples:
        for key, value in zip(keys, session.run(keys, dict(sample)), strict=True):
            largest[key] = max(largest[key], float(value))
    return largest


def array(tensor: Tensor) -> np.ndarray:
    """float32."""
    return tensor.detach().cpu().float().contiguous().numpy()


def parameters(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return array(linear.weight), array(linear.bias)
