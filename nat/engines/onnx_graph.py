"""The stacks of `nat.nn.transformer` as ONNX graphs, and what stands around them in a graph from tokens to tokens.

Graphs know no padding: all rows of a call are of one length, so that what a sentence becomes cannot depend on the
others, down to the last bit, and nothing is computed in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from nat.data.vocabulary import Symbol
from nat.engines.onnx_nodes import FLOAT, Graph
from nat.engines.onnx_products import Factor, Products, array, parameters, write_graph
from nat.nn.attention.full import FullAttention
from nat.nn.attention.positional import OthersAttention, PositionalAttention
from nat.nn.embedding import OutputLayer, Positions, TokenEmbedding
from nat.nn.seq2seq import Seq2Seq
from nat.nn.slots import SlotSplit
from nat.nn.transformer import Decoder, Encoder, Layer, Residual

POSITIONS = 1024  # sinusoids that are written out
BLOCK = 128  # columns of which the largest is found first: an arg max over all at once is several times slower
IMPOSSIBLE = -1e30  # a logit
UNKNOWN = "unknown"  # what is added to the logit of <unk>: an input that need not be given
Samples = Sequence[Mapping[str, np.ndarray]]  # inputs of a graph, to measure magnitudes on


# --- stacks -------------------------------------------------------------------------------------------


def normalised(products: Products, x: str, module: nn.Module) -> str:
    if not isinstance(module, nn.LayerNorm):  # the stack normalises behind each sub-layer
        return x
    weight, bias = array(module.weight), array(module.bias)
    return products.operators.normalised(products.graph, x, weight, bias, module.eps)


def stacked(products: Products, x: str, stack: Encoder | Decoder, key: str, memory: Factor | None = None) -> str:
    """Placed inputs (B, L, D) -> states (B, L, D). memory: (B, S, D), for layers with cross-attention."""
    for number, layer in enumerate(stack.layers):
        assert isinstance(layer, Layer)
        x = layered(products, x, layer, f"{key}.{number}", memory)
    return normalised(products, x, stack.norm)


def layered(products: Products, x: str, layer: Layer, key: str, memory: Factor | None) -> str:
    residual, attention = layer.self_residual, layer.self_attention
    entered = products.factor(entering(products, x, residual), f"{key}.self")
    x = leaving(products, x, looking_around(products, entered, attention, f"{key}.self_mixed"), residual)
    if layer.positional_attention is not None and layer.positional_residual is not None:
        residual, attention = layer.positional_residual, layer.positional_attention
        entered = products.factor(entering(products, x, residual), f"{key}.places")
        x = leaving(products, x, looking_around(products, entered, attention, f"{key}.places_mixed"), residual)
    if layer.cross_attention is not None and layer.cross_residual is not None:
        assert memory is not None
        entered = products.factor(entering(products, x, layer.cross_residual), f"{key}.cross")
        update = attended(products, entered, memory, layer.cross_attention, f"{key}.cross_mixed")
        x = leaving(products, x, update, layer.cross_residual)
    residual, feed_forward = layer.feed_forward_residual, layer.feed_forward
    entered = products.factor(entering(products, x, residual), f"{key}.feed")
    wide = products.factor(products.linear(entered, *parameters(feed_forward.widen)), f"{key}.wide", relu=True)
    return leaving(products, x, products.linear(wide, *parameters(feed_forward.narrow)), residual)


def entering(products: Products, x: str, residual: Residual) -> str:
    return normalised(products, x, residual.norm) if residual.pre else x


def leaving(products: Products, x: str, update: str, residual: Residual) -> str:
    x = products.graph.node("Add", x, update)
    return x if residual.pre else normalised(products, x, residual.norm)


def looking_around(products: Products, x: Factor, attention: nn.Module, key: str) -> str:
    """x: (B, L, D), which looks at itself by one of the three kinds that graphs are written for."""
    assert isinstance(attention, FullAttention)
    if isinstance(attention, PositionalAttention):
        return placed_attention(products, x, attention, key)
    if isinstance(attention, OthersAttention):
        return others_attention(products, x, attention, key)
    return attended(products, x, x, attention, key)


def attended(products: Products, x: Factor, context: Factor, attention: FullAttention, key: str) -> str:
    """x: (B, L, D) for queries. context: (B, S, D) for keys and values."""
    inputs = projected(products, x, context, attention)
    mixed = products.operators.mixed(products.graph, *inputs, attention.num_heads)
    return products.linear(products.factor(mixed, key), *parameters(attention.project_out))


def others_attention(products: Products, x: Factor, attention: OthersAttention, key: str) -> str:
    """No position looks at itself; one that is alone mixes nothing."""
    graph, inputs, length = products.graph, projected(products, x, x, attention), columns_of(products, x.values)
    square = graph.node("ConstantOfShape", graph.node("Concat", length, length, axis=0))
    itself = graph.node("Mul", graph.node("EyeLike", square, k=0), graph.real(IMPOSSIBLE))  # (L, L)
    itself = graph.node("Unsqueeze", itself, graph.ints(0, 1))
    mixed = products.operators.mixed(graph, *inputs, attention.num_heads, itself)
    several = graph.node("Cast", graph.node("Greater", length, graph.ints(1)), to=FLOAT)
    mixed = graph.node("Mul", mixed, several)
    return products.linear(products.factor(mixed, key), *parameters(attention.project_out))


def placed_attention(products: Products, x: Factor, attention: PositionalAttention, key: str) -> str:
    """Where a position looks is the same for all sentences: its queries and keys are constants."""
    graph, table, length = products.graph, array(attention.positions(POSITIONS)), columns_of(products, x.values)
    *places, values = split_parameters(attention)
    constants = [graph.constant((table @ weight.T + bias)[None]) for weight, bias in places]  # (1, POSITIONS, D)
    queries, keys = (graph.node("Slice", part, graph.ints(0), length, graph.ints(1)) for part in constants)
    mixed = products.operators.mixed(graph, queries, keys, products.linear(x, *values), attention.num_heads)
    return products.linear(products.factor(mixed, key), *parameters(attention.project_out))


def split_parameters(attention: FullAttention) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of queries, keys and values."""
    weight, bias = parameters(attention.project_in)
    return list(zip(np.split(weight, 3), np.split(bias, 3), strict=True))


def projected(products: Products, x: Factor, context: Factor, attention: FullAttention) -> tuple[str, str, str]:
    """Queries of x, keys and values of the context."""
    queries, keys, values = split_parameters(attention)
    return products.linear(x, *queries), products.linear(context, *keys), products.linear(context, *values)


def columns_of(products: Products, x: str) -> str:
    """(1): L of x (B, L, ...)."""
    graph = products.graph
    return graph.node("Slice", graph.node("Shape", x), graph.ints(1), graph.ints(2))


def write_encoder(encoder: Encoder, path: Path, *, samples: Samples | None) -> None:
    """states (B, S, D), placed -> memory (B, S, D). samples: of the inputs, for int8; None: float32."""

    def describe(products: Products) -> None:
        x = products.graph.input("states", "FLOAT", "B", "S", "D")
        products.graph.output(stacked(products, x, encoder, "encoder"), "memory", "FLOAT", "B", "S", "D")

    write_graph(describe, path, samples=samples)


def write_decoder(decoder: Decoder, path: Path, *, samples: Samples | None) -> None:
    """states (B, L, D), placed, and memory (B, S, D) -> decoded (B, L, D). samples: as for the encoder."""

    def describe(products: Products) -> None:
        x = products.graph.input("states", "FLOAT", "B", "L", "D")
        memory = products.factor(products.graph.input("memory", "FLOAT", "B", "S", "D"), "decoder.memory")
        products.graph.output(stacked(products, x, decoder, "decoder", memory), "decoded", "FLOAT", "B", "L", "D")

    write_graph(describe, path, samples=samples)


def write_output(output: OutputLayer, embedding: TokenEmbedding, path: Path, *, samples: Samples | None) -> None:
    """states (N, D) -> logits (N, V). samples: as for the encoder."""

    def describe(products: Products) -> None:
        states = products.factor(products.graph.input("states", "FLOAT", "N", "D"), "output.states")
        logits = products.linear(states, array(embedding.weight), array(output.bias))
        products.graph.output(logits, "logits", "FLOAT", "N", "V")

    write_graph(describe, path, samples=samples)


# --- from tokens, to symbols --------------------------------------------------------------------------


def embedded(products: Products, tokens: str, embedding: nn.Module) -> str:
    """tokens: (B, L) -> (B, L, D), without positions."""
    assert isinstance(embedding, TokenEmbedding)
    return products.rows_of(array(embedding.weight) * embedding.scale, tokens)


def placed(products: Products, x: str, positions: Positions, length: str) -> str:
    """x: (B, L, D) with positions added. length: (1) L."""
    graph, table = products.graph, array(positions(positions.max_length or POSITIONS))
    return graph.node("Add", x, graph.node("Slice", graph.constant(table), graph.ints(0), length))


def decoded_slots(products: Products, tokens: str, net: Seq2Seq, split: SlotSplit) -> tuple[str, str]:
    """tokens: (B, S) -> the decoder's states of all slots (B, A, D), and (1) A."""
    graph, length = products.graph, columns_of(products, tokens)
    x = placed(products, embedded(products, tokens, net.embeddings.source), net.source_positions, length)
    memory = products.factor(stacked(products, x, net.encoder, "encoder"), "memory")
    num_slots = graph.node("Mul", length, graph.ints(split.num_slots))
    x = products.linear(memory, array(split.weight), array(split.bias))  # (B, S, s D)
    canvas = graph.node("Concat", graph.ints(-1), num_slots, graph.ints(net.embeddings.target.embedding_dim), axis=0)
    x = placed(products, graph.node("Reshape", x, canvas), net.target_positions, num_slots)
    return stacked(products, x, net.decoder, "decoder", memory), num_slots


class Best(NamedTuple):
    """symbols: (N), the best of each state. log_probs: of these (N); "" where the graph does not write them."""

    symbols: str
    log_probs: str

    def output(self, graph: Graph, shaped: Callable[[str], str], *shape: str | int) -> None:
        """As `path` and `log_probs` of the graph."""
        graph.output(shaped(self.symbols), "path", "INT64", *shape)
        if self.log_probs:
            graph.output(shaped(self.log_probs), "log_probs", "FLOAT", *shape)


def best_symbols(products: Products, states: str, net: Seq2Seq) -> Best:
    """The best symbols of states (N, D)."""
    symbols, logits, largest = largest_logits(products, states, net, "states")
    scored = products.operators.scored
    return Best(symbols, products.graph.node("Neg", log_total(products, logits, largest)) if scored else "")


def log_total(products: Products, logits: str, largest: str) -> str:
    """(N): log sum exp(logits - largest), of logits (N, W)."""
    graph = products.graph
    powers = graph.node("Exp", graph.node("Sub", logits, graph.node("Unsqueeze", largest, graph.ints(1))))
    return graph.node("Log", graph.node("ReduceSum", powers, graph.ints(1), keepdims=0))


def written_logits(products: Products, states: str, net: Seq2Seq, key: str) -> tuple[str, np.ndarray]:
    """Of states (N, D): the logits (N, W) of all that can be written, in ascending order, and of columns of no
    probability, which fill the last block; and the symbol of each column (W)."""
    graph, output = products.graph, net.output
    weight = array(net.embeddings.target.weight)
    allowed = np.array([i for i in range(len(weight)) if i not in output.forbidden])
    columns = np.pad(allowed, (0, -len(allowed) % BLOCK))
    bias = graph.constant(np.where(np.arange(len(columns)) < len(allowed), 0.0, IMPOSSIBLE).astype(np.float32))
    unknown = graph.constant((columns == int(Symbol.UNK)).astype(np.float32))
    bias = graph.node("Add", bias, graph.node("Mul", unknown, graph.option(UNKNOWN, 0.0)))
    return products.linear(products.factor(states, key), weight[columns], bias), columns


def largest_logits(products: Products, states: str, net: Seq2Seq, key: str) -> tuple[str, str, str]:
    """Of states (N, D): the best symbols (N), the logits (N, W) of `written_logits`, and the largest of each (N).

    The maximum of each block of columns, then the arg max among the blocks and within one: of equal logits the first
    wins, as it does in torch.
    """
    graph = products.graph
    logits, columns = written_logits(products, states, net, key)
    blocks = graph.node("Reshape", logits, graph.ints(-1, len(columns) // BLOCK, BLOCK))
    maxima = graph.node("ReduceMax", blocks, graph.ints(2), keepdims=0)  # (N, blocks)
    block = graph.node("ArgMax", maxima, axis=1, keepdims=1)  # (N, 1)
    column = graph.node("ArgMax", graph.node("GatherND", blocks, block, batch_dims=1), axis=1, keepdims=0)  # (N)
    first = graph.node("Mul", graph.node("Squeeze", block, graph.ints(1)), graph.ints(BLOCK))
    symbols = graph.node("Gather", graph.constant(columns), graph.node("Add", first, column))
    return symbols, logits, graph.node("ReduceMax", maxima, graph.ints(1), keepdims=0)
