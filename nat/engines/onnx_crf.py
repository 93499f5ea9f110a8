"""A CRF model as one ONNX graph, from the tokens of a sentence to its most probable translation (Viterbi)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from nat.engines.onnx_graph import Samples, written_logits
from nat.engines.onnx_nodes import Graph
from nat.engines.onnx_operators import FUSED, Operators
from nat.engines.onnx_products import Products, array, parameters, write_graph
from nat.engines.onnx_single import canvas_states
from nat.models.crf import CRF
from nat.nn.token_transitions import TokenTransitions


def write_crf(model: CRF, path: Path, *, samples: Samples | None, operators: Operators = FUSED) -> None:
    """tokens (1, S) -> path (1, L), of the most probable length. samples: as for `write_encoder`.

    The model has full attention and no copy head.
    """

    def describe(products: Products) -> None:
        graph, net = products.graph, model.net
        states = graph.node("Squeeze", canvas_states(products, model), graph.ints(0))  # (L, D)
        logits, columns = written_logits(products, states, net, "states")
        size = min(model.config.beam, int((columns > 0).sum()))
        _, best = graph.nodes_of("TopK", 2, logits, graph.ints(size), axis=1, sorted=0)
        candidates, _ = graph.nodes_of("TopK", 2, best, graph.ints(size), axis=1, largest=0)  # (L, K), ascending
        emissions = graph.node("GatherElements", logits, candidates, axis=1)
        tokens = graph.node("Gather", graph.constant(columns), candidates)
        places = viterbi(graph, emissions, transitions(products, tokens, states, model.transitions), size)
        written = graph.node("GatherElements", tokens, graph.node("Unsqueeze", places, graph.ints(1)), axis=1)
        graph.output(
            graph.node("Unsqueeze", graph.node("Squeeze", written, graph.ints(1)), graph.ints(0)),
            "path",
            "INT64",
            1,
            "L",
        )

    write_graph(describe, path, samples=samples, operators=operators)


def all_but(graph: Graph, x: str, *, first: bool) -> str:
    """x (L, ...) without its first row, or without its last."""
    start, end = (1, np.iinfo(np.int64).max) if first else (0, -1)
    return graph.node("Slice", x, graph.ints(start), graph.ints(end), graph.ints(0))


def transitions(products: Products, tokens: str, states: str, layer: TokenTransitions) -> str:
    """`TokenTransitions` of tokens (L, K) and states (L, D): (L - 1, K, K)."""
    graph = products.graph
    before = products.rows_of(array(layer.before), all_but(graph, tokens, first=False))  # (L - 1, K, R)
    after = products.rows_of(array(layer.after), all_but(graph, tokens, first=True))
    if layer.mix is not None:
        widen, _, last = layer.mix
        assert isinstance(widen, nn.Linear) and isinstance(last, nn.Linear)
        both = graph.node("Concat", all_but(graph, states, first=False), all_but(graph, states, first=True), axis=1)
        hidden = products.linear(products.factor(both, "neighbours"), *parameters(widen))
        mixed = products.linear(products.factor(hidden, "mixed", relu=True), *parameters(last))
        before = graph.node("MatMul", before, graph.node("Reshape", mixed, graph.ints(-1, layer.rank, layer.rank)))
    return graph.node("MatMul", before, graph.node("Transpose", after, perm=[0, 2, 1]))


def viterbi(graph: Graph, emissions: str, steps: str, size: int) -> str:
    """`Chain.best` of emissions (L, K) and transitions (L - 1, K, K): (L).

    A last position is added in which all scores are 0, for a loop over nothing is an error.
    """
    zero, one = graph.ints(0), graph.ints(1)
    steps = graph.node("Concat", steps, graph.constant(np.zeros((1, size, size), dtype=np.float32)), axis=0)
    ended = graph.node("Concat", emissions, graph.constant(np.zeros((1, size), dtype=np.float32)), axis=0)
    back = Graph()
    back.input("onward", "FLOAT", size)
    back.input("step", "FLOAT", size, size)
    back.input("emission", "FLOAT", size)
    following = back.node("Add", "onward", "emission", names=["following"])
    ways = back.node("Add", "step", following, names=["ways"])  # (K, K)
    back.output(back.node("ReduceMax", ways, one, keepdims=0, names=["greatest"]), "onward_out", "FLOAT", size)
    back.output(back.node("ArgMax", ways, axis=1, keepdims=0, names=["best"]), "follower", "INT64", size)
    onward, followers = graph.nodes_of(
        "Scan",
        2,
        graph.constant(np.zeros(size, dtype=np.float32)),
        steps,
        all_but(graph, ended, first=True),
        body=back.part("back"),
        num_scan_inputs=2,
        scan_input_directions=[1, 1],
        scan_output_directions=[1],
    )
    front = graph.node("Squeeze", graph.node("Slice", emissions, zero, one, zero), zero)
    first = graph.node("ArgMax", graph.node("Add", front, onward), axis=0, keepdims=1)  # (1)
    along = Graph()
    along.input("place", "INT64", 1)
    along.input("choices", "INT64", size)
    following = along.node("Gather", "choices", "place", names=["next"])
    along.output(following, "place_out", "INT64", 1)
    along.output(following, "chosen", "INT64", 1)
    _, later = graph.nodes_of("Scan", 2, first, followers, body=along.part("along"), num_scan_inputs=1)  # (L, 1)
    return graph.node(
        "Concat", first, graph.node("Reshape", all_but(graph, later, first=False), graph.ints(-1)), axis=0
    )
