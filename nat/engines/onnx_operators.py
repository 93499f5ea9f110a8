"""Normalisation and attention in a graph: the parts whose rounding depends on the order of sums, in two ways.

Their last bits matter: where one falls on the other side of a step of int8, another token may come out in the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from nat.engines.onnx_nodes import DOUBLE, FLOAT, MICROSOFT, Graph


class Operators(ABC):
    """scored: whether a graph of a single pass writes the log-probability of each symbol, too."""

    scored: ClassVar[bool]

    @abstractmethod
    def normalised(self, graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        """x (..., D) normalised (Ba et al. 2016, https://arxiv.org/abs/1607.06450), times weight (D), plus bias (D)."""

    @abstractmethod
    def mixed(self, graph: Graph, queries: str, keys: str, values: str, num_heads: int, added: str = "") -> str:
        """(B, L, D): values (B, S, D), mixed by the products of queries (B, L, D) with keys (B, S, D). added: to these
        products, (1, 1, L, S)."""


class FusedOperators(Operators):
    """The runtime's own, in float32: the fastest."""

    scored = False

    def normalised(self, graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        return graph.node("LayerNormalization", x, graph.constant(weight), graph.constant(bias), epsilon=epsilon)

    def mixed(self, graph: Graph, queries: str, keys: str, values: str, num_heads: int, added: str = "") -> str:
        more = ["", "", added] if added else []
        inputs = [queries, keys, values, *more]
        return graph.node("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=num_heads)


class PortableOperators(Operators):
    """Written out in float64 and rounded to float32 at their end, which forgives the order of sums: with int8 products,
    whose sums are exact, processors and WebAssembly come to the same tokens."""

    scored = True

    def normalised(self, graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        wide, last = graph.node("Cast", x, to=DOUBLE), graph.ints(-1)
        centred = graph.node("Sub", wide, graph.node("ReduceMean", wide, last))
        variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), last)
        deviation = graph.node("Sqrt", graph.node("Add", variance, graph.constant(np.float64(epsilon))))
        scaled = graph.node("Mul", graph.node("Div", centred, deviation), graph.constant(weight.astype(np.float64)))
        shifted = graph.node("Add", scaled, graph.constant(bias.astype(np.float64)))
        return graph.node("Cast", shifted, to=FLOAT)

    def mixed(self, graph: Graph, queries: str, keys: str, values: str, num_heads: int, added: str = "") -> str:
        def heads(x: str, order: list[int]) -> str:
            parted = graph.node("Reshape", graph.node("Cast", x, to=DOUBLE), graph.ints(0, 0, num_heads, -1))
            return graph.node("Transpose", parted, perm=order)

        asked = heads(queries, [0, 2, 1, 3])  # (B, H, L, D/H)
        size = graph.node("Cast", graph.node("Shape", asked, start=3), to=DOUBLE)
        products = graph.node("MatMul", asked, heads(keys, [0, 2, 3, 1]))
        scores = graph.node("Div", products, graph.node("Sqrt", size))  # (B, H, L, S)
        if added:
            scores = graph.node("Add", scores, graph.node("Cast", added, to=DOUBLE))
        weights = graph.node("Softmax", scores, axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", weights, heads(values, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return graph.node("Cast", graph.node("Reshape", mixed, graph.ints(0, 0, -1)), to=FLOAT)


FUSED, PORTABLE = FusedOperators(), PortableOperators()
