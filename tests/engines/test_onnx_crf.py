"""Viterbi in a graph against torch's."""

from __future__ import annotations

import pytest
import torch

from nat.ops.crf import Chain

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("length", [1, 2, 6])
def test_viterbi_of_a_graph_is_that_of_torch(length: int) -> None:
    from nat.engines.onnx_crf import viterbi
    from nat.engines.onnx_nodes import Graph
    from nat.engines.translate import open_session

    size, graph = 5, Graph()
    emissions, steps = graph.input("emissions", "FLOAT", "L", size), graph.input("steps", "FLOAT", "N", size, size)
    graph.output(viterbi(graph, emissions, steps, size), "places", "INT64", "L")
    session = open_session(graph.model().SerializeToString())
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        chain = Chain(
            torch.randn(1, length, size, generator=generator),
            torch.randn(1, length - 1, size, size, generator=generator),
            torch.tensor([length]),
        )
        given = {"emissions": chain.emissions[0].numpy(), "steps": chain.transitions[0].numpy()}
        assert session.run(["places"], given)[0].tolist() == chain.best()[0].tolist()
