"""Vanilla and fertility models as one ONNX graph, from the tokens of a sentence to those of its translation.

How long the translation is, the graph finds itself. Graphs know no padding, so that it takes one sentence at a time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from nat.engines.onnx_graph import (
    POSITIONS,
    Samples,
    best_symbols,
    columns_of,
    embedded,
    largest_logits,
    layered,
    normalised,
    placed,
    stacked,
)
from nat.engines.onnx_nodes import DOUBLE, FLOAT, INT64
from nat.engines.onnx_operators import FUSED, Operators
from nat.engines.onnx_products import Factor, Products, array, parameters, write_graph
from nat.models.crf import CRF
from nat.models.fertility import Fertility
from nat.models.vanilla import Vanilla
from nat.nn.copied_inputs import DEFAULT_TAU, Copy
from nat.nn.seq2seq import Seq2Seq


def write_vanilla(model: Vanilla, path: Path, *, samples: Samples | None, operators: Operators = FUSED) -> None:
    """tokens (1, S) -> path (1, L), of the most probable length, and log_probs (1, L). samples: as for
    `write_encoder`."""

    def describe(products: Products) -> None:
        finish(products, canvas_states(products, model), model.net)

    write_graph(describe, path, samples=samples, operators=operators)


def canvas_states(products: Products, model: Vanilla | CRF) -> str:
    """tokens (1, S) -> the decoder's states (1, L, D) of a canvas of the most probable length."""
    graph, net = products.graph, model.net
    tokens = graph.input("tokens", "INT64", 1, "S")
    source, token = embedded(products, tokens, net.embeddings.source), model.length.token
    x = placed(products, source, net.source_positions, columns_of(products, tokens))
    if token is not None:
        x = graph.node("Concat", graph.constant(array(token)[None, None]), x, axis=1)
    x = stacked(products, x, net.encoder, "encoder")
    if token is None:
        mean = graph.node("ReduceMean", graph.node("Cast", x, to=DOUBLE), graph.ints(1), keepdims=0)
        summary = graph.node("Cast", mean, to=FLOAT)  # (1, D)
    else:
        summary = graph.node("Gather", x, graph.constant(np.int64(0)), axis=1)
        x = graph.node("Slice", x, graph.ints(1), graph.ints(POSITIONS), graph.ints(1))
    memory = products.factor(x, "memory")
    length = best_length(products, summary, columns_of(products, tokens), model)
    copied = copies(products, source, columns_of(products, tokens), length, model)
    return decoded(products, copied, length, memory, net)


def best_length(products: Products, summary: str, source_length: str, model: Vanilla | CRF) -> str:
    """(1): the most probable L, as `LengthPredictor.best` has it."""
    graph, most = products.graph, model.length.config.max_offset
    scores = products.linear(products.factor(summary, "summary"), *parameters(model.length.classify))  # (1, O)
    offsets = graph.ints(*range(-most, most + 1))
    lengths = graph.node("Add", offsets, source_length)  # (O)
    limit = model.max_target_length or POSITIONS
    possible = graph.node(
        "And",
        graph.node("GreaterOrEqual", lengths, graph.ints(1)),
        graph.node("LessOrEqual", lengths, graph.ints(limit)),
    )
    scores = graph.node("Where", possible, scores, graph.real(-np.inf))
    best = graph.node("ArgMax", scores, axis=1, keepdims=0)  # (1)
    return graph.node("Gather", lengths, best)


def copies(products: Products, source: str, source_length: str, length: str, model: Vanilla | CRF) -> str:
    """The decoder's input (1, L, D), without positions: `nat.ops.copying`, of one row."""
    graph, one = products.graph, products.graph.ints(1)
    ordinals = counted(products, length)  # (L), from 1
    if model.config.copy is Copy.UNIFORM:
        twice = graph.node("Mul", graph.node("Mul", ordinals, graph.ints(2)), source_length)
        rounded = graph.node("Div", graph.node("Add", twice, length), graph.node("Mul", length, graph.ints(2)))
        index = graph.node("Max", graph.node("Sub", rounded, one), graph.ints(0))
        return graph.node("Gather", source, index, axis=1)
    product = graph.node("Cast", graph.node("Mul", ordinals, source_length), to=DOUBLE)
    centres = graph.node("Div", product, graph.node("Cast", length, to=DOUBLE))
    centres = graph.node("Unsqueeze", centres, one)  # (L, 1)
    places = graph.node("Cast", counted(products, source_length), to=DOUBLE)  # (S)
    distances = graph.node("Abs", graph.node("Sub", places, centres))
    tau = graph.constant(np.float64(-(model.config.copy_tau or DEFAULT_TAU)))
    weights = graph.node("Softmax", graph.node("Div", distances, tau), axis=-1)
    return graph.node("Cast", graph.node("MatMul", weights, graph.node("Cast", source, to=DOUBLE)), to=FLOAT)


def counted(products: Products, length: str) -> str:
    """1, 2 ... up to `length` (1)."""
    graph = products.graph
    zero, one = (graph.constant(np.int64(number)) for number in (0, 1))
    return graph.node("Add", graph.node("Range", zero, graph.node("Squeeze", length), one), graph.ints(1))


def write_fertility(model: Fertility, path: Path, *, samples: Samples | None, operators: Operators = FUSED) -> None:
    """tokens (1, S) -> path (1, L), on the canvas of the most probable fertilities, and log_probs (1, L). samples: as
    for `write_encoder`."""

    def describe(products: Products) -> None:
        graph, net = products.graph, model.net
        tokens = graph.input("tokens", "INT64", 1, "S")
        source, source_length = embedded(products, tokens, net.embeddings.source), columns_of(products, tokens)
        x = stacked(products, placed(products, source, net.source_positions, source_length), net.encoder, "encoder")
        memory = products.factor(x, "memory")
        ends = graph.node("CumSum", fertilities(products, memory, model), graph.constant(np.int64(0)))  # (S)
        last = graph.node("Slice", ends, graph.ints(-1), graph.ints(POSITIONS))
        length = graph.node("Min", last, longest_canvas(products, source_length, model))
        before = graph.node("Sub", counted(products, length), graph.ints(1))
        ended = graph.node("LessOrEqual", ends, graph.node("Unsqueeze", before, graph.ints(1)))  # (L, S)
        index = graph.node("ReduceSum", graph.node("Cast", ended, to=INT64), graph.ints(1), keepdims=0)
        copied = graph.node("Gather", source, index, axis=1)
        finish(products, decoded(products, copied, length, memory, net), net)

    write_graph(describe, path, samples=samples, operators=operators)


def fertilities(products: Products, memory: Factor, model: Fertility) -> str:
    """(S): the most probable ones; where nothing would be left, one copy of the token least likely to have none."""
    graph = products.graph
    scores = products.linear(memory, *parameters(model.fertility))  # (1, S, F)
    scores = graph.node("LogSoftmax", graph.node("Squeeze", scores, graph.ints(0)), axis=-1)
    chosen = graph.node("ArgMax", scores, axis=1, keepdims=0)
    none = graph.node("Gather", scores, graph.constant(np.int64(0)), axis=1)  # (S)
    likeliest = graph.node("ArgMin", none, axis=0, keepdims=1)  # (1)
    total = graph.node("ReduceSum", chosen, graph.ints(0), keepdims=1)
    empty = graph.node("Cast", graph.node("Equal", total, graph.ints(0)), to=INT64)
    return graph.node("ScatterElements", chosen, likeliest, empty, reduction="add")


def longest_canvas(products: Products, source_length: str, model: Fertility) -> str:
    """(1): as `Fertility.limits` has it, with the factor that decoding has by default."""
    graph, factor = products.graph, Fertility.Decoding().max_length_factor
    scaled = graph.node("Mul", graph.node("Cast", source_length, to=FLOAT), graph.real(factor))
    limit = graph.node("Max", graph.node("Cast", scaled, to=INT64), graph.ints(1))
    return graph.node("Min", limit, graph.ints(model.max_target_length or POSITIONS))


def finish(products: Products, states: str, net: Seq2Seq) -> None:
    """states: (1, L, D) -> path (1, L), the best token of each position, and log_probs (1, L)."""
    graph = products.graph
    best = best_symbols(products, graph.node("Squeeze", states, graph.ints(0)), net)
    best.output(graph, lambda tensor: graph.node("Unsqueeze", tensor, graph.ints(0)), 1, "L")


def decoded(products: Products, copied: str, length: str, memory: Factor, net: Seq2Seq) -> str:
    """copied: (1, L, D) -> the states of the last layer."""
    x = placed(products, copied, net.target_positions, length)
    return (
        supervised(products, x, memory, net) if net.feedback else stacked(products, x, net.decoder, "decoder", memory)
    )


def supervised(products: Products, x: str, memory: Factor, net: Seq2Seq) -> str:
    """`Seq2Seq.layers` with deep supervision: every layer predicts, and feeds its prediction on."""
    graph = products.graph
    for number, layer in enumerate(net.decoder.stack):
        x = layered(products, x, layer, f"decoder.{number}", memory)
        states = normalised(products, x, net.decoder.norm)
        if number < len(net.feedback):
            flat = graph.node("Squeeze", states, graph.ints(0))
            best, _, _ = largest_logits(products, flat, net, f"states.{number}")
            tokens = graph.node("Unsqueeze", best, graph.ints(0))
            pair = graph.node("Concat", x, embedded(products, tokens, net.embeddings.target), axis=-1)
            feedback = net.feedback[number]
            assert isinstance(feedback, nn.Linear)
            x = products.linear(products.factor(pair, f"fed.{number}"), *parameters(feedback))
    return states
