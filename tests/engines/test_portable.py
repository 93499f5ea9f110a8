"""Graphs for machines of every kind: the same symbols as the model, and their log-probabilities."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from builders import make_model

from nat.data.batch import Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.engines.onnx import SINGLE_PASS
from nat.engines.onnx_operators import FUSED, PORTABLE
from nat.search.canvas import Fate

VOCABULARIES = Vocabularies(NUM_SYMBOLS + 300, NUM_SYMBOLS + 301, False)
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("ctc", {}),
    ("ctc", {"factored_blank": True, "decoder": {"cross_attention": False}, "size": {"norm": "post"}}),
    ("vanilla", {}),
    ("vanilla", {"length": {"summary": "token"}, "copy": "soft", "deep_supervision": {"enabled": True}}),
    ("fertility", {}),
    ("dag", {}),
    ("dag", {"upsampling": 3, "decoder": {"cross_attention": False}, "size": {"num_heads": 4}}),
]


def random_model(name: str, options: dict[str, Any]) -> Any:
    """Of which symbols are neither sure nor all alike."""
    model, chance = make_model(name, vocabularies=VOCABULARIES, seed=2, **options), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=chance)
        model.net.embeddings.target.weight.mul_(3)
        if name == "ctc" and model.net.blank_gate is not None:  # of both minds: often close, at times quite sure
            model.net.blank_gate.weight.mul_(8)
            odds = model.net.blank_gate(model.states(Source.from_lists([sources()[-1]]))[1])
            model.net.blank_gate.bias -= odds.mean() + 0.5
    return model


def sources() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(NUM_SYMBOLS, VOCABULARIES.source_size, length).tolist() for length in (1, 2, 9, 9, 20)]


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_symbols_and_their_log_probabilities_are_those_of_the_model(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model, symbols = random_model(name, options), set[int]()
    SINGLE_PASS[type(model)](model, tmp_path / "graph", samples=None, operators=PORTABLE)
    graph = onnxruntime.InferenceSession(str(tmp_path / "graph"), providers=["CPUExecutionProvider"])
    for row in sources():
        path, log_probs = graph.run(["path", "log_probs"], {"tokens": np.array([row])})
        with torch.inference_mode():
            decoded = model.decode(Source.from_lists([row]), decoding=type(model).Decoding(history=True))
        (history,) = decoded.history
        left_out = history.fate[:, 0] == Fate.DELETED  # vertices of a graph that its path does not visit
        assert path.tolist() == history.tokens[:, 0].masked_fill(left_out, int(Symbol.BLANK)).tolist()
        np.testing.assert_allclose(log_probs, history.confidence[:, 0].numpy(), rtol=1e-3, atol=1e-4)
        symbols |= set(history.tokens[0, 0].tolist())
    assert len(symbols) > 5


def test_no_sum_of_a_portable_graph_is_left_to_operators_of_float32(tmp_path: Path) -> None:
    model, kinds = random_model("vanilla", FORMS[3][1]), {}
    samples = [{"tokens": np.array([row])} for row in sources()]
    for operators in (FUSED, PORTABLE):
        SINGLE_PASS[type(model)](model, tmp_path / "graph", samples=samples, operators=operators)
        graph = onnx.load(tmp_path / "graph").graph
        kinds[operators] = Counter(node.op_type for node in graph.node)
    assert kinds[FUSED]["LayerNormalization"] > 4 and kinds[FUSED]["MultiHeadAttention"] > 4
    assert not {"LayerNormalization", "MultiHeadAttention"} & set(kinds[PORTABLE])
    assert kinds[PORTABLE]["MatMulIntegerToFloat"] == kinds[FUSED]["MatMulIntegerToFloat"]
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "graph")).graph.value_info
    }
    sums = [node for node in graph.node if node.op_type in ("MatMul", "Softmax", "ReduceMean")]
    assert len(sums) > 20
    assert all(types.get(node.output[0], onnx.TensorProto.DOUBLE) == onnx.TensorProto.DOUBLE for node in sums)
