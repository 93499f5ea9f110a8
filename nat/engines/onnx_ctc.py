"""A CTC model as one ONNX graph, from the tokens of sentences of one length to the symbols of their slots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from nat.data.vocabulary import Symbol
from nat.engines.onnx_graph import (
    Best,
    Samples,
    best_symbols,
    decoded_slots,
    largest_logits,
    log_total,
)
from nat.engines.onnx_operators import FUSED, Operators
from nat.engines.onnx_products import Products, parameters, write_graph
from nat.models.ctc import CTC

BLANK = int(Symbol.BLANK)


def write_ctc(model: CTC, path: Path, *, samples: Samples | None, operators: Operators = FUSED) -> None:
    """tokens (B, S) -> path (B, A), the best symbol of each slot, and log_probs (B, A). samples: as for the encoder.

    The model has full attention, no copy head and no deep supervision.
    """

    def describe(products: Products) -> None:
        graph, net, split = products.graph, model.net, model.split
        tokens = graph.input("tokens", "INT64", "B", "S")
        x, num_slots = decoded_slots(products, tokens, net, split)
        states = graph.node("Reshape", x, graph.ints(-1, net.embeddings.target.embedding_dim))  # (B A, D)
        best = best_symbols(products, states, net) if net.blank_gate is None else gated_symbols(products, states, model)
        shape = graph.node("Concat", graph.ints(-1), num_slots, axis=0)
        best.output(graph, lambda tensor: graph.node("Reshape", tensor, shape), "B", "A")

    write_graph(describe, path, samples=samples, operators=operators)


def gated_symbols(products: Products, states: str, model: CTC) -> Best:
    """As `best_symbols`, with a factored blank: the same decisions as `nat.nn.factored_blank`, word for word.

    Where the gate g is below zero, the blank still wins if sigmoid(g) >= (1 - sigmoid(g)) max softmax, that is
    g >= -log sum exp(logits - largest); it cannot below -log V, so that few rows need the sum. Scores need all of them.
    """
    graph, gate, scored = products.graph, model.net.blank_gate, products.operators.scored
    assert gate is not None
    weight, bias = parameters(gate)
    odds = graph.node("ReduceSum", graph.node("Mul", states, graph.constant(weight)), graph.ints(1), keepdims=0)
    odds = graph.node("Add", odds, graph.constant(bias))  # (N)
    undecided = _places(products, graph.node("Less", odds, graph.real(0.0)))  # (M)
    words, logits, largest = largest_logits(products, graph.node("Gather", states, undecided), model.net, "states")
    odds_left = graph.node("Gather", odds, undecided)
    least = -math.inf if scored else -math.log(model.vocabularies.target_size)
    close = _places(products, graph.node("Greater", odds_left, graph.real(least)))  # (C)
    total = log_total(products, graph.node("Gather", logits, close), graph.node("Gather", largest, close))
    blank = graph.constant(np.int64(BLANK))
    wins = graph.node(
        "GreaterOrEqual", graph.node("Add", graph.node("Gather", odds_left, close), total), graph.real(0.0)
    )
    decided = graph.node("Where", wins, blank, graph.node("Gather", words, close))
    words = graph.node("ScatterElements", words, close, decided)
    blanks = graph.node("Expand", blank, graph.node("Shape", odds))
    symbols = graph.node("ScatterElements", blanks, undecided, words)
    return Best(symbols, _gated_log_probs(products, symbols, odds, undecided, total) if scored else "")


def _gated_log_probs(products: Products, symbols: str, odds: str, undecided: str, total: str) -> str:
    """(N): log sigmoid(g) of a blank, log(1 - sigmoid(g)) + log softmax of a word. total: (M), see `log_total`."""
    graph = products.graph
    of_blank = graph.node("Neg", graph.node("Softplus", graph.node("Neg", odds)))
    no_blank = graph.node("Neg", graph.node("Softplus", graph.node("Gather", odds, undecided)))
    of_word = graph.node("ScatterElements", of_blank, undecided, graph.node("Sub", no_blank, total))
    is_blank = graph.node("Equal", symbols, graph.constant(np.int64(BLANK)))
    return graph.node("Where", is_blank, of_blank, of_word)


def _places(products: Products, where: str) -> str:
    """Indices (M) of what is True in (N)."""
    graph = products.graph
    return graph.node("Squeeze", graph.node("NonZero", where), graph.ints(0))
