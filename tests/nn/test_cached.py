"""The decoder one position at a time: hypotheses that are reordered, widened and left over see their own past alone."""

from __future__ import annotations

import pytest
import torch
from builders import make_batch, make_model
from torch import Tensor

from nat.data.batch import Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.models.autoregressive import Autoregressive
from nat.nn import cached
from nat.nn.attention.full import FullAttention

STEPS = 40  # more than there is room for at first


def teacher() -> Autoregressive:
    model = make_model("autoregressive", dtype=torch.float64)
    assert isinstance(model, Autoregressive)
    return model


def forced(model: Autoregressive, rows: Tensor, tokens: Tensor) -> Tensor:
    """(B, K, V) of what follows the hypotheses (B, K, t + 1), BOS first, of these sentences, by a forced pass."""
    flat = tokens.flatten(0, 1)[:, 1:]
    memory = model.net.encode(SOURCE.select(rows.repeat_interleave(tokens.size(1))))
    log_probs, _, _ = model.log_probs(memory, Target(flat, torch.ones_like(flat, dtype=torch.bool)))
    return log_probs[:, -1].unflatten(0, tokens.shape[:2])


SOURCE = make_batch([(5, 1), (3, 1), (7, 1)]).source


@pytest.mark.parametrize("beam", [1, 3])
@torch.no_grad()
def test_each_step_is_that_of_a_forced_pass(beam: int) -> None:
    model, generator = teacher(), torch.Generator().manual_seed(1)
    state, rows = model.start(model.net.encode(SOURCE)), torch.arange(3)
    tokens = torch.full((3, 1, 1), int(Symbol.BOS))
    if beam > 1:
        state, tokens = state.reorder(torch.zeros(3, beam, dtype=torch.long)), tokens.expand(-1, beam, -1)
    for position in range(STEPS):
        log_probs, state = model.step(tokens[:, :, -1], position, state)
        if position % 6 == 5:
            assert torch.allclose(log_probs, forced(model, rows, tokens), rtol=0, atol=1e-12)
        if beam > 1:
            origin = torch.randint(beam, tokens.shape[:2], generator=generator)
            state, tokens = state.reorder(origin), tokens.gather(1, origin[:, :, None].expand_as(tokens))
        if position == 20:
            state, tokens, rows = state.select(torch.tensor([2, 0])), tokens[[2, 0]], rows[[2, 0]]
        new = torch.randint(NUM_SYMBOLS, NUM_SYMBOLS + 13, (*tokens.shape[:2], 1), generator=generator)
        tokens = torch.cat((tokens, new), dim=2)
    assert state.decoder.used == STEPS * beam


@torch.no_grad()
def test_a_step_writes_its_own_keys_and_moves_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is no more room, and then as many as there are."""
    model, moved = teacher(), 0
    pad = torch.nn.functional.pad

    def counted(tensor: Tensor, *args: object) -> Tensor:
        nonlocal moved
        moved += 1
        return pad(tensor, *args)  # type: ignore[arg-type]

    state = model.start(model.net.encode(SOURCE)).reorder(torch.zeros(3, 2, dtype=torch.long))
    monkeypatch.setattr(cached.F, "pad", counted)
    monkeypatch.setattr(FullAttention, "keys_values", lambda *a: pytest.fail("the memory's keys are made once"))
    places = []
    for position in range(20):
        _, state = model.step(torch.full((3, 2), NUM_SYMBOLS), position, state)
        state = state.reorder(torch.tensor([[1, 0]] * 3))
        places.append(state.decoder.layers[0].past.data_ptr())
    layers = len(state.decoder.layers)
    assert moved == 2 * layers  # at the first step, and when 2 * 16 keys filled the room
    assert len(set(places)) == 2
