"""A causal decoder stack one position at a time, with what it keeps between steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.nn.attention.full import CausalAttention
from nat.nn.transformer import Decoder, Memory
from nat.rows import Rows

ROOM = 32  # keys that there is room for at first; then twice as many, and so on


@dataclass(frozen=True)
class LayerCache(Rows):
    """What a decoder layer keeps between steps. past: (B, R, 2 D), room for the keys and values, side by side, of all
    tokens so far of all hypotheses of a sentence; a step writes into it. memory_keys, memory_values: (B, H, S, E)."""

    past: Float[Tensor, "B R I"]
    memory_keys: Tensor
    memory_values: Tensor

    def with_room(self, num_keys: int) -> LayerCache:
        """For so many keys at least."""
        if num_keys <= self.past.size(1):
            return self
        wider = max(num_keys, ROOM, 2 * self.past.size(1))
        return replace(self, past=F.pad(self.past, (0, 0, 0, wider - self.past.size(1))))


@dataclass(frozen=True)
class DecoderState(Rows):
    """The decoder between two steps, for `nat.search.beam`. Keys stay where a step has written them: P of them so far,
    one for each hypothesis that there was at each step, and a hypothesis knows its own.

    past: (B, K, P) True at what each of K hypotheses has behind it; None where that is everything, for there is one
    hypothesis. used: P. valid: (B, S), or None where every source position is a token.
    """

    layers: tuple[LayerCache, ...]
    past: Bool[Tensor, "B K P"] | None
    used: int
    valid: Bool[Tensor, "B S"] | None

    @classmethod
    def start(cls, decoder: Decoder, memory: Memory) -> DecoderState:
        """The state before the first step: the memory's keys and values, and an empty past."""
        layers = []
        for layer in decoder.stack:
            assert layer.cross_attention is not None
            keys, values = memory.keys_values(layer.cross_attention)
            nothing = keys.new_zeros(len(keys), 0, 2 * keys.size(1) * keys.size(3))
            layers.append(LayerCache(nothing, keys, values))
        return cls(tuple(layers), None, 0, memory.mask)

    def reorder(self, origin: Int[Tensor, "B K"]) -> DecoderState:
        """See `nat.search.beam.StepState`: not the keys move, but who has them behind it."""
        shape = (*origin.shape, self.used)
        if self.past is None:
            return replace(self, past=torch.ones(shape, dtype=torch.bool, device=origin.device))
        return replace(self, past=self.past.gather(1, origin[:, :, None].expand(shape)))

    def keep(self, taken: Bool[Tensor, "B K"]) -> DecoderState:
        """See `nat.search.drafting.CheckedState`."""
        assert self.past is not None
        return replace(self, past=torch.cat((self.past, taken[:, None]), dim=2))

    def advanced(self, num_hypotheses: int) -> DecoderState:
        """One step later: each hypothesis has its own new key behind it, too."""
        used = self.used + num_hypotheses
        if self.past is None:
            assert num_hypotheses == 1, "several hypotheses come from `reorder`"
            return replace(self, used=used)
        own = torch.eye(num_hypotheses, dtype=torch.bool, device=self.past.device)
        past = torch.cat((self.past, own.expand(len(self.past), -1, -1)), dim=2)
        return replace(self, past=past, used=used)


def step_decoder(
    decoder: Decoder, x: Float[Tensor, "B K D"], state: DecoderState
) -> tuple[Float[Tensor, "B K D"], DecoderState]:
    """One position for every hypothesis. The K hypotheses of a sentence are K queries to one copy of its memory, and to
    all keys of the past, of which each sees its own. x: placed decoder inputs. `state` is used up: its room is the
    next one's."""
    after = state.advanced(x.size(1))
    x, layers = _through(decoder, x, state, None if after.past is None else after.past[:, None])
    return x, replace(after, layers=layers)


def check_decoder(
    decoder: Decoder, x: Float[Tensor, "B K D"], seen: Bool[Tensor, "K K"], state: DecoderState
) -> tuple[Float[Tensor, "B K D"], DecoderState]:
    """K tokens of one hypothesis, or of branches of it, each of which sees the past and those of the K that `seen`
    says. Of the state that comes back, `DecoderState.keep` must be told what of them is the past."""
    num_rows, num_new = x.shape[:2]
    past = state.past
    if past is None:
        past = seen.new_ones(num_rows, 1, state.used)
    everything = torch.cat((past.expand(-1, num_new, -1), seen.expand(num_rows, -1, -1)), dim=2)  # (B, K, P + K)
    x, layers = _through(decoder, x, state, everything[:, None])
    return x, replace(state, layers=layers, past=past, used=state.used + num_new)


def _through(
    decoder: Decoder, x: Float[Tensor, "B K D"], state: DecoderState, seen: Bool[Tensor, "B 1 K P"] | None
) -> tuple[Float[Tensor, "B K D"], tuple[LayerCache, ...]]:
    layers = []
    for layer, cache in zip(decoder.stack, state.layers, strict=True):
        attention, cross, residual = layer.self_attention, layer.cross_attention, layer.cross_residual
        assert isinstance(attention, CausalAttention)
        assert cross is not None
        assert residual is not None
        cache = cache.with_room(state.used + x.size(1))
        update = attention.step(layer.self_residual.enter(x), cache.past, seen, used=state.used)
        x = layer.self_residual.leave(x, update)
        queries = cross.queries(residual.enter(x))
        x = residual.leave(x, cross.attend(queries, cache.memory_keys, cache.memory_values, state.valid))
        x = layer.feed(x)
        layers.append(cache)
    return decoder.norm(x), tuple(layers)
