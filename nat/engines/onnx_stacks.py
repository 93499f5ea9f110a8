"""Graphs in the place of a model's encoder, decoder and output layer; embeddings, lengths, slots and the loop of passes
stay what they are.

Graphs know no padding: rows of equal lengths are computed together, whatever batch they stand in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nat.data.batch import Source
from nat.decoding.translator import Translator
from nat.engines.onnx_graph import Samples, write_decoder, write_encoder, write_output
from nat.engines.onnx_session import open_session, run
from nat.models.contract import TranslationModel
from nat.nn.embedding import OutputLayer, TokenEmbedding
from nat.nn.transformer import Memory
from nat.runs.weights import load_fitting, save_tensors

ENCODER, DECODER, OUTPUT, WEIGHTS = "encoder.onnx", "decoder.onnx", "output.onnx", "weights.safetensors"


class GraphEncoder(nn.Module):
    """In the place of an `Encoder`."""

    def __init__(self, path: Path, max_length: int | None) -> None:
        super().__init__()
        self.session, self.max_length = open_session(path), max_length

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: (B, S, D), right-padded."""
        states = torch.zeros_like(x)
        for rows, (length,) in of_equal_lengths(as_mask(valid, x)):
            states[rows, :length] = run(self.session, "memory", states=x[rows, :length])
        return states


class GraphDecoder(nn.Module):
    """In the place of a `Decoder`."""

    def __init__(self, path: Path, max_length: int | None) -> None:
        super().__init__()
        self.session, self.max_length = open_session(path), max_length

    def forward(self, x: Tensor, valid: Tensor | None, memory: Memory) -> Tensor:
        """x: (N, L, D), right-padded, as the memory is."""
        states, read = torch.zeros_like(x), memory.valid.repeat_interleave(memory.copies, dim=0)
        for rows, (length, source) in of_equal_lengths(as_mask(valid, x), read):
            inputs = {"states": x[rows, :length], "memory": memory.states[rows // memory.copies, :source]}
            states[rows, :length] = run(self.session, "decoded", **inputs)
        return states

    def project(self, memory: Memory) -> Memory:
        """Keys and values are made within the graph."""
        return memory


class GraphOutput(OutputLayer):
    """In the place of an `OutputLayer`, without its bias."""

    def __init__(self, path: Path, forbidden: list[int]) -> None:
        nn.Module.__init__(self)
        self.session, self.forbidden = open_session(path), forbidden

    def forward(self, states: Tensor, embedding: TokenEmbedding) -> Tensor:
        """States (..., D) -> logits (..., V)."""
        return run(self.session, "logits", states=states.flatten(0, -2)).unflatten(0, states.shape[:-1])


def as_mask(valid: Tensor | None, x: Tensor) -> Tensor:
    """(B, L), where None says that all of x (B, L, D) is valid."""
    return torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid


def of_equal_lengths(*valid: Tensor) -> Iterator[tuple[Tensor, list[int]]]:
    """Indices of the rows of each combination of lengths, which are above 0, and the lengths. valid: (B, L), right-
    padded."""
    lengths = torch.stack([part.sum(dim=1) for part in valid], dim=1)  # (B, K)
    kinds, kind_of = lengths.unique(dim=0, return_inverse=True)
    for number, kind in enumerate(kinds.tolist()):
        if min(kind) > 0:
            yield (kind_of == number).nonzero().squeeze(1), kind


def write_stacks(translator: Translator, folder: Path, rows: Sequence[list[int]] | None) -> None:
    """Three graphs, and the weights around them. rows: ids of sentences to measure magnitudes on, for int8."""
    model: Any = translator.model
    net, samples = model.net, recorded(translator, rows) if rows is not None else dict[str, Samples]()
    write_encoder(net.encoder, folder / ENCODER, samples=samples.get(ENCODER))
    write_decoder(net.decoder, folder / DECODER, samples=samples.get(DECODER))
    write_output(net.output, net.embeddings.target, folder / OUTPUT, samples=samples.get(OUTPUT))
    inside = ("net.encoder.", "net.decoder.")
    around = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(inside)}
    save_tensors(around, folder / WEIGHTS)


@torch.inference_mode()
def recorded(translator: Translator, rows: Sequence[list[int]]) -> dict[str, list[dict[str, np.ndarray]]]:
    """What enters each graph while sentences are decoded one by one: of the first candidate of each."""
    model: Any = translator.model
    found: dict[str, list[dict[str, np.ndarray]]] = {ENCODER: [], DECODER: [], OUTPUT: []}

    def first(x: Tensor, valid: Tensor | None) -> np.ndarray:
        return numpy(x[:1] if valid is None else x[:1, : int(valid[0].sum())])

    def encoder(module: nn.Module, inputs: tuple[Tensor, Tensor | None]) -> None:
        found[ENCODER].append({"states": first(*inputs)})

    def decoder(module: nn.Module, inputs: tuple[Tensor, Tensor | None, Memory]) -> None:
        x, valid, memory = inputs
        found[DECODER].append({"states": first(x, valid), "memory": first(memory.states, memory.valid)})

    def output(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        found[OUTPUT].append({"states": numpy(inputs[0].flatten(0, -2))})

    parts = ((model.net.encoder, encoder), (model.net.decoder, decoder), (model.net.output, output))
    hooks = [part.register_forward_pre_hook(hook) for part, hook in parts]
    try:
        for row in rows:
            source = Source.from_lists([row]).to(translator.device)
            translator.model.decode(source, decoding=translator.decoding({}))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def read_stacks(model: Any, folder: Path) -> TranslationModel:
    """The model computed by what `write_stacks` wrote, whatever its own weights are. Raises DataError where they do not
    fit."""
    found, net = deepcopy(model), model.net
    found.net.encoder = GraphEncoder(folder / ENCODER, net.encoder.max_length)
    found.net.decoder = GraphDecoder(folder / DECODER, net.decoder.max_length)
    found.net.output = GraphOutput(folder / OUTPUT, net.output.forbidden)
    found.load_state_dict(load_fitting(folder / WEIGHTS, found.state_dict()))
    computed: TranslationModel = found.eval()
    return computed
