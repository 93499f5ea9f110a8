"""Graphs against the modules that they are written from."""

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
from nat.engines.onnx_ctc import write_ctc
from nat.engines.onnx_graph import write_decoder, write_encoder, write_output
from nat.engines.onnx_products import FloatProducts, quantised_rows
from nat.models.ctc import CTC
from nat.nn.transformer import Memory

BLANK = int(Symbol.BLANK)
VOCABULARIES = Vocabularies(NUM_SYMBOLS + 300, NUM_SYMBOLS + 301, False)  # several blocks, the last one not full
FORMS: list[dict[str, Any]] = [
    {},
    {"factored_blank": True},
    {"factored_blank": True, "decoder": {"cross_attention": False}, "upsampling": 3},
    {"size": {"norm": "post"}, "positions": {"kind": "learned", "max_length": 64}},
]


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def sources(*lengths: int) -> list[np.ndarray]:
    """Rows (4, S) of random tokens, for each length."""
    random = np.random.default_rng(1)
    return [random.integers(NUM_SYMBOLS, VOCABULARIES.source_size, (4, length)) for length in lengths]


def ctc(**options: Any) -> CTC:
    """With sure words, and a gate of both minds that is often close."""
    model: Any = make_model("ctc", vocabularies=VOCABULARIES, seed=2, **options)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(6)
        if model.net.blank_gate is not None:
            model.net.blank_gate.weight.normal_(std=0.5)
            states = model.states(Source.from_lists(sources(9)[0].tolist()))[1]
            model.net.blank_gate.bias.sub_(model.net.blank_gate(states).mean() + 0.5)
    assert isinstance(model, CTC)
    return model


@torch.no_grad()
def best_path(model: CTC, tokens: np.ndarray) -> torch.Tensor:
    head, states, _ = model.states(Source.from_lists(tokens.tolist()))
    return head.full(states).argmax(dim=2)


@pytest.mark.parametrize("options", FORMS)
def test_a_graph_in_float32_writes_the_best_path(options: dict[str, Any], tmp_path: Path) -> None:
    model = ctc(**options)
    write_ctc(model, tmp_path / "model.onnx", samples=None)
    graph, blanks = session(tmp_path / "model.onnx"), 0
    for tokens in sources(1, 2, 9, 20):
        (path,) = graph.run(["path"], {"tokens": tokens})
        assert path.tolist() == best_path(model, tokens).tolist()
        blanks += int((path == BLANK).sum())
    assert blanks > 0 or not options.get("factored_blank")


def test_a_gate_below_zero_may_still_be_blank_and_the_graph_knows(tmp_path: Path) -> None:
    """Words that are unsure of each other lose to a blank of less than one half."""
    model: Any = ctc(factored_blank=True)
    write_ctc(model, tmp_path / "model.onnx", samples=None)
    tokens = sources(20)[0]
    with torch.no_grad():
        odds = model.net.blank_gate(model.states(Source.from_lists(tokens.tolist()))[1]).squeeze(2)
    path = best_path(model, tokens)
    below = (path == BLANK) & (odds < 0)
    assert below.any() and ((path != BLANK) & (odds > -3)).any()
    (written,) = session(tmp_path / "model.onnx").run(["path"], {"tokens": tokens})
    assert written[below.numpy()].tolist() == [BLANK] * int(below.sum())


@pytest.mark.parametrize("options", FORMS)
def test_int8_says_nearly_the_same_and_a_row_alone_what_it_says_in_a_batch(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = ctc(**options)
    samples = [{"tokens": tokens} for tokens in sources(3, 9, 20)]
    write_ctc(model, tmp_path / "model.onnx", samples=samples)
    graph = session(tmp_path / "model.onnx")
    same = []
    for tokens in sources(1, 9, 20):
        (path,) = graph.run(["path"], {"tokens": tokens})
        alone = [graph.run(["path"], {"tokens": tokens[row : row + 1]})[0][0].tolist() for row in range(4)]
        assert path.tolist() == alone
        assert graph.run(["path"], {"tokens": tokens[::-1].copy()})[0][::-1].tolist() == alone
        same.append((torch.from_numpy(path) == best_path(model, tokens)).double().mean())
    assert torch.stack(same).mean() > 0.9


def test_every_product_with_weights_is_in_int8_and_columns_have_scales_of_their_own(tmp_path: Path) -> None:
    kinds = {}
    for name, samples in (("fp32", None), ("int8", [{"tokens": sources(9)[0]}])):
        write_ctc(ctc(), tmp_path / name, samples=samples)
        kinds[name] = Counter(node.op_type for node in onnx.load(tmp_path / name).graph.node)
    assert kinds["fp32"]["MatMul"] == kinds["int8"]["MatMulIntegerToFloat"] > 20
    assert kinds["fp32"]["MatMulIntegerToFloat"] == kinds["int8"]["MatMul"] == 0
    weight = np.array([[0.5, -1.0], [100.0, 3.0], [0.0, 0.0]], dtype=np.float32)
    values, scales = quantised_rows(weight)
    assert values.dtype == np.int8 and np.abs(values).max() == 127
    assert np.abs(values * scales[:, None] - weight).max(axis=1) == pytest.approx([0.0, 0.0, 0.0], abs=0.5 * 100 / 127)
    assert scales.tolist() == pytest.approx([1 / 127, 100 / 127, 1.0])


@torch.no_grad()
def test_stacks_and_the_output_layer_are_those_of_the_model(tmp_path: Path) -> None:
    model: Any = make_model("mask_predict", vocabularies=VOCABULARIES, seed=1)
    net, random = model.net, torch.Generator().manual_seed(0)
    x, context = (torch.randn(3, length, 16, generator=random) for length in (7, 5))
    write_encoder(net.encoder, tmp_path / "encoder", samples=None)
    write_decoder(net.decoder, tmp_path / "decoder", samples=None)
    write_output(net.output, net.embeddings.target, tmp_path / "output", samples=None)
    all_of = torch.ones(3, 5, dtype=torch.bool)
    (memory,) = session(tmp_path / "encoder").run(["memory"], {"states": context.numpy()})
    torch.testing.assert_close(torch.from_numpy(memory), net.encoder(context, all_of), rtol=1e-4, atol=1e-5)
    (decoded,) = session(tmp_path / "decoder").run(["decoded"], {"states": x.numpy(), "memory": context.numpy()})
    expected = net.decoder(x, torch.ones(3, 7, dtype=torch.bool), Memory(context, all_of))
    torch.testing.assert_close(torch.from_numpy(decoded), expected, rtol=1e-4, atol=1e-5)
    (logits,) = session(tmp_path / "output").run(["logits"], {"states": x[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), net.output(x[0], net.embeddings.target), rtol=1e-4, atol=1e-5)


def test_a_graph_that_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: a bias that is lost changes the path."""
    model = ctc()
    original = FloatProducts.linear
    monkeypatch.setattr(FloatProducts, "linear", lambda self, x, weight, bias: original(self, x, weight * 0.5, bias))
    write_ctc(model, tmp_path / "model.onnx", samples=None)
    tokens = sources(20)[0]
    assert (
        session(tmp_path / "model.onnx").run(["path"], {"tokens": tokens})[0].tolist()
        != best_path(model, tokens).tolist()
    )
