"""A causal decoder stack one position at a time, with what it keeps between steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.nn.attention.full import CausalAttention
from nat.nn.transformer import Decoder, Memory
from nat.rows import Rows


@dataclass(frozen=True)
class LayerCache(Rows):
    """What a decoder layer keeps between steps. past_keys, past_values: (B * K, H, L, D/H) of the tokens so
    far; memory_keys, memory_values: (B, H, S, D/H), shared by the K hypotheses of a sentence."""

    past_keys: Tensor
    past_values: Tensor
    memory_keys: Tensor
    memory_values: Tensor


@dataclass(frozen=True)
class DecoderState(Rows):
    """The decoder between two steps, for `decoding/beam.py`. valid: (B, S), or None where every source
    position is a token."""

    layers: tuple[LayerCache, ...]
    valid: Bool[Tensor, "B S"] | None

    @classmethod
    def start(cls, decoder: Decoder, memory: Memory) -> DecoderState:
        """The state before the first step: the memory's keys and values, and an empty past."""
        layers = []
        for layer in decoder.stack:
            assert layer.cross_attention is not None
            keys, values = memory.keys_values(layer.cross_attention)
            layers.append(LayerCache(keys[:, :, :0], values[:, :, :0], keys, values))
        return cls(tuple(layers), None if bool(memory.valid.all()) else memory.valid)

    def select_sentences(self, rows: Int[Tensor, " N"]) -> DecoderState:
        num_hypotheses = self.layers[0].past_keys.size(0) // self.layers[0].memory_keys.size(0)
        flat = (rows[:, None] * num_hypotheses + torch.arange(num_hypotheses, device=rows.device)).flatten()
        return DecoderState(
            tuple(
                LayerCache(
                    layer.past_keys[flat], layer.past_values[flat], layer.memory_keys[rows], layer.memory_values[rows]
                )
                for layer in self.layers
            ),
            None if self.valid is None else self.valid[rows],
        )

    def reorder(self, origin: Int[Tensor, "B K"]) -> DecoderState:
        num_rows = origin.size(0)
        before = self.layers[0].past_keys.size(0) // num_rows
        flat = (torch.arange(num_rows, device=origin.device)[:, None] * before + origin).flatten()
        return replace(
            self,
            layers=tuple(
                replace(layer, past_keys=layer.past_keys[flat], past_values=layer.past_values[flat])
                for layer in self.layers
            ),
        )


def step_decoder(
    decoder: Decoder, x: Float[Tensor, "B K D"], state: DecoderState
) -> tuple[Float[Tensor, "B K D"], DecoderState]:
    """One position for every hypothesis, attending to its own past through the cache. The K hypotheses of a
    sentence are K queries to one copy of its memory. x: placed decoder inputs."""
    num_rows, num_hypotheses = x.shape[:2]
    layers = []
    for layer, cache in zip(decoder.stack, state.layers, strict=True):
        attention, cross, residual = layer.self_attention, layer.cross_attention, layer.cross_residual
        assert isinstance(attention, CausalAttention)
        assert cross is not None
        assert residual is not None
        entered = layer.self_residual.enter(x).flatten(0, 1)[:, None]  # (B * K, 1, D)
        update, keys, values = attention.step(entered, cache.past_keys, cache.past_values)
        x = layer.self_residual.leave(x, update.view(num_rows, num_hypotheses, -1))
        queries = cross.queries(residual.enter(x))
        x = residual.leave(x, cross.attend(queries, cache.memory_keys, cache.memory_values, state.valid))
        x = layer.feed(x)
        layers.append(replace(cache, past_keys=keys, past_values=values))
    return decoder.norm(x), replace(state, layers=tuple(layers))
