"""A DAG model as one ONNX graph, from the tokens of a sentence to the path of greedy or lookahead search.

Where a path goes is computed in float64: one step that is decided otherwise changes all that follows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from nat.data.vocabulary import Symbol
from nat.engines.onnx_graph import IMPOSSIBLE, POSITIONS, Best, Samples, decoded_slots, largest_logits, log_total
from nat.engines.onnx_nodes import BOOL, DOUBLE
from nat.engines.onnx_operators import FUSED, Operators
from nat.engines.onnx_products import Products, array, parameters, write_graph
from nat.models.dag import DAG, USUAL_BETA, Search
from nat.models.options import DecodingOptions
from nat.nn.transitions import Transitions

BETA = "lookahead_beta"  # weight of a token's log-probability: an input that need not be given; 0 is greedy search
BLANK = int(Symbol.BLANK)


def write_dag(model: DAG, path: Path, *, samples: Samples | None, operators: Operators = FUSED) -> None:
    """tokens (1, S) -> path (1, A), the best token of each vertex that is visited, a blank at all others, and log_probs
    (1, A), of the best token of each. samples: as for `write_encoder`.

    The model has full attention and no copy head.
    """

    def describe(products: Products) -> None:
        graph, net = products.graph, model.net
        tokens = graph.input("tokens", "INT64", 1, "S")
        x, num_vertices = decoded_slots(products, tokens, net, model.split)
        symbols, logits, largest = largest_logits(products, graph.node("Squeeze", x, graph.ints(0)), net, "states")
        log_probs = graph.node("Neg", log_total(products, logits, largest))  # (A)
        scores = log_transitions(products, x, num_vertices, model.transitions)
        gains = graph.node(
            "Mul",
            graph.node("Cast", log_probs, to=DOUBLE),
            graph.node("Cast", graph.option(BETA, USUAL_BETA), to=DOUBLE),
        )
        gains = graph.node("Concat", gains, graph.constant(np.zeros(1)), axis=0)  # the end holds no token
        steps = upper(products, graph.node("Add", scores, gains), num_vertices, -np.inf)
        visited = followed(products, graph.node("ArgMax", steps, axis=1, keepdims=0), num_vertices)
        written = graph.node("Where", visited, symbols, graph.constant(np.int64(BLANK)))
        best = Best(written, log_probs if operators.scored else "")
        best.output(graph, lambda tensor: graph.node("Unsqueeze", tensor, graph.ints(0)), 1, "A")

    write_graph(describe, path, samples=samples, operators=operators)


def log_transitions(products: Products, x: str, num_vertices: str, layer: Transitions) -> str:
    """`Transitions` of vertices x (1, A, D): (A + 1, A + 1), meaningless below the diagonal."""
    graph, num_heads, dim = products.graph, layer.num_heads, layer.begin.numel()
    begin, end = (graph.constant(array(state)[None, None]) for state in (layer.begin, layer.end))
    origins = products.factor(graph.node("Concat", begin, x, axis=1), "origins")
    goals = products.factor(graph.node("Concat", x, end, axis=1), "goals")

    def heads(tensor: str, order: list[int]) -> str:
        parted = graph.node(
            "Reshape", graph.node("Cast", tensor, to=DOUBLE), graph.ints(-1, num_heads, dim // num_heads)
        )
        return graph.node("Transpose", parted, perm=order)

    queries = heads(products.linear(origins, *parameters(layer.query)), [1, 0, 2])  # (H, A + 1, E)
    keys = heads(products.linear(goals, array(layer.key.weight), None), [1, 2, 0])
    size = graph.constant(np.float64(math.sqrt(dim / num_heads)))
    scores = graph.node("Div", graph.node("MatMul", queries, keys), size)
    by_head = graph.node("LogSoftmax", upper(products, scores, num_vertices, IMPOSSIBLE), axis=2)
    gate = graph.node("Squeeze", products.linear(origins, *parameters(layer.gate)), graph.ints(0))
    shares = graph.node("LogSoftmax", graph.node("Cast", gate, to=DOUBLE), axis=1)  # (A + 1, H)
    shares = graph.node("Unsqueeze", graph.node("Transpose", shares, perm=[1, 0]), graph.ints(2))
    return graph.node("ReduceLogSumExp", graph.node("Add", by_head, shares), graph.ints(0), keepdims=0)


def upper(products: Products, scores: str, num_vertices: str, otherwise: float) -> str:
    """Scores (..., A + 1, A + 1) with another value below the diagonal, where steps lead back."""
    graph = products.graph
    size = graph.node("Add", num_vertices, graph.ints(1))
    square = graph.node("ConstantOfShape", graph.node("Concat", size, size, axis=0))
    back = graph.node("Trilu", graph.node("Add", square, graph.real(1.0)), graph.constant(np.int64(-1)), upper=0)
    return graph.node("Where", graph.node("Cast", back, to=BOOL), graph.constant(np.float64(otherwise)), scores)


def followed(products: Products, successors: str, num_vertices: str) -> str:
    """`nat.search.dag.follow` of one row (A + 1): which vertices (A) are visited."""
    graph = products.graph
    end = graph.node("Add", num_vertices, graph.ints(1))  # (1)
    jumps = graph.node("Concat", graph.node("Add", successors, graph.ints(1)), end, axis=0)  # (A + 2)
    nothing = graph.node("Sub", jumps, jumps)
    everywhere = graph.node("Add", nothing, graph.ints(1))
    visited = graph.node("ScatterElements", nothing, graph.ints(0), graph.ints(1), axis=0)
    for _ in range((POSITIONS + 1).bit_length()):
        arrived = graph.node("Where", graph.node("Cast", visited, to=BOOL), jumps, end)  # who is nowhere is at the end
        visited = graph.node("Max", visited, graph.node("ScatterElements", nothing, arrived, everywhere, axis=0))
        jumps = graph.node("Gather", jumps, jumps)
    inner = graph.node("Slice", visited, graph.ints(1), end)
    return graph.node("Cast", inner, to=BOOL)


def beta_of(decoding: DecodingOptions) -> float | None:
    """The graph's weight for these options; None where they are another model's, or it does not search so."""
    if not isinstance(decoding, DAG.Decoding):
        return None
    if decoding.chosen is Search.GREEDY:
        return 0.0
    beta = USUAL_BETA if decoding.lookahead_beta is None else decoding.lookahead_beta
    return beta if decoding.chosen is Search.LOOKAHEAD else None
