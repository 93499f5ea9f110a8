"""Deterministic refinement: where decoding stops, and what each training pass reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import VOCABULARIES, Literal, make_batch, make_model
from torch import Tensor

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.refinement import Refinement
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.search.canvas import Fate

BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6)])
# With shared embeddings and small weights an untrained model copies its input: then every pass reads the same.
UNSHARED = Vocabularies(VOCABULARIES.source_size, VOCABULARIES.target_size, shared=False)


def refinement(**options: Any) -> Refinement:
    model = make_model("refinement", **({"dtype": torch.float64} | options))
    assert isinstance(model, Refinement)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(3)  # sharper than at initialisation
    return model


def decode(model: Refinement, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=Refinement.Decoding(**options))


def log_probs_of(model: Refinement, inputs: Tensor, valid: Tensor, memory: Memory) -> Tensor:
    return model.net.head(memory).full(model.states(inputs, valid, memory))


# --- decoding ---------------------------------------------------------------------------------------

CHANGES = [3, 0, 1, 9]  # passes after the first that still change the row


def counting(model: Refinement, monkeypatch: pytest.MonkeyPatch) -> Source:
    """In pass t a row's tokens are all number t, until they have changed as often as CHANGES says."""
    calls: list[int] = []

    def encode(net: Any, source: Source) -> tuple[Memory, Tensor]:
        rows = torch.arange(len(CHANGES))[:, None, None].expand(-1, 2, 16).double()
        lengths = torch.full((len(CHANGES), 513), -9.0)
        lengths[:, 257] = 0.0  # a token more than the source
        return Memory(rows, source.valid), lengths.log_softmax(dim=1)

    def log_probs(inputs: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        calls.append(len(inputs))
        changes = torch.tensor(CHANGES)[memory.states[:, 0, 0].long()]
        token = NUM_SYMBOLS + changes.clamp(max=len(calls) - 1)
        found = torch.full((*valid.shape, NUM_SYMBOLS + 13), -20.0)
        return found.scatter(2, token[:, None, None].expand(-1, valid.size(1), 1), 0.0).log_softmax(dim=2)

    monkeypatch.setattr(model.length, "encode", encode)
    monkeypatch.setattr(model, "states", log_probs)
    monkeypatch.setattr(model.net, "head", lambda memory: Literal())
    return make_batch([(2, 1)] * len(CHANGES)).source


def test_a_row_stops_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = refinement()
    found = decode(model, counting(model, monkeypatch), max_passes=6, history=True)
    assert found.passes.tolist() == [5, 2, 3, 6]
    assert found.tokens[:, 0].tolist() == [[NUM_SYMBOLS + n] * 3 for n in (3, 0, 1, 5)]
    (history,) = found.history
    written, kept, none = int(Fate.WRITTEN), int(Fate.KEPT), int(Fate.NONE)
    assert history.fate[:, :, 0].tolist() == [
        [written] * 4 + [kept, none],
        [written, kept] + [none] * 4,
        [written, written, kept] + [none] * 3,
        [written] * 6,
    ]


@pytest.mark.parametrize("passes", [1, 3, 6])
def test_without_adapting_every_row_takes_all_passes(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = refinement()
    found = decode(model, counting(model, monkeypatch), max_passes=passes, adaptive=False)
    assert found.passes.tolist() == [passes] * 4
    assert found.tokens[:, 0, 0].tolist() == [NUM_SYMBOLS + min(n, passes - 1) for n in CHANGES]


def test_each_pass_translates_anew_from_the_output_before() -> None:
    """By hand, one row at a time, to the fixpoint or the limit."""
    model, source = refinement(seed=2, length={"max_offset": 3}), make_batch([(5, 1), (8, 1), (2, 1)]).source
    found = decode(model, source, max_passes=5)
    for row, ids in enumerate(source.to_lists()):
        alone, length = Source.from_lists([ids]), int(found.valid[row, 0].sum())
        with torch.no_grad():
            memory, lengths = model.length.encode(model.net, alone)
            inputs, valid = model.copied(alone, torch.tensor([length]))
            before, passes = None, 0
            while passes < 5:
                best = log_probs_of(model, inputs, valid, memory)[0].max(dim=1)
                inputs, passes = model.net.embed(best.indices[None]), passes + 1
                if before is not None and torch.equal(before, best.indices):
                    break
                before = best.indices
        assert found.tokens[row, 0, :length].tolist() == best.indices.tolist()
        assert found.passes[row] == passes
        assert found.scores[row, 0].item() == pytest.approx(best.values.sum().item() + lengths.max().item(), abs=1e-5)


def test_samples_are_of_the_first_pass_and_are_refined() -> None:
    model, source = refinement(), make_batch([(9, 1), (6, 1)]).source
    several = {"temperature": 1.0, "history": True}
    one, three = (decode(model, source, num_candidates=n, max_passes=2, **several) for n in (1, 3))
    assert torch.equal(one.tokens, three.tokens[:, :1])
    first = [history.tokens[:, 0] for history in three.history]
    assert not torch.equal(first[0], first[1])
    again = decode(model, source, num_candidates=3, max_passes=1, **several)
    assert all(torch.equal(h.tokens[:, 0], t) for h, t in zip(again.history, first, strict=True))
    width = three.tokens.size(2)
    for number, tokens in enumerate(first):  # the second pass is the arg max, given the sample
        for row in range(2):
            keep = three.valid[row, number]
            alone = source.select(torch.tensor([row]))
            with torch.no_grad():
                memory, _ = model.length.encode(model.net, alone)
                inputs = model.net.embed(tokens[row : row + 1, :width][:, keep])
                best = log_probs_of(model, inputs, torch.ones_like(inputs[:, :, 0], dtype=torch.bool), memory)
            assert three.tokens[row, number][keep].tolist() == best[0].argmax(dim=1).tolist()


# --- training ---------------------------------------------------------------------------------------


def passes_of(
    model: Refinement, batch: Batch, monkeypatch: pytest.MonkeyPatch, update: int = 1
) -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
    """The loss terms, and what each training pass read and said."""
    read, said = [], []
    original = model.states

    def spy(inputs: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        states = original(inputs, valid, memory)
        read.append(inputs)
        said.append(model.net.head(memory).full(states))
        return states

    with monkeypatch.context() as patched:
        patched.setattr(model, "states", spy)
        return model.loss(batch, update=update), read, said


def test_passes_read_the_output_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = refinement(denoising=0.0, train_passes=3, label_smoothing=0.0, vocabularies=UNSHARED)
    with torch.no_grad():
        for parameter in model.net.decoder.parameters():
            parameter.mul_(4)
    terms, read, said = passes_of(model, BATCH, monkeypatch)
    assert len(read) == 3
    first, valid = model.copied(BATCH.source, BATCH.target.lengths)
    assert torch.equal(read[0], first)
    for inputs, before in zip(read[1:], said, strict=False):
        assert torch.equal(inputs[valid], model.net.embed(before.argmax(dim=-1))[valid])
    assert not torch.equal(*(s.argmax(dim=-1)[valid] for s in said[:2]))  # so that one pass is told from another
    nlls = [-s.gather(2, BATCH.target.tokens[:, :, None]).squeeze(2)[valid].sum().item() for s in said]
    assert terms["cross_entropy"].total.item() == pytest.approx(sum(nlls))
    assert terms["cross_entropy"].count.item() == 3 * BATCH.num_target_tokens
    assert terms["nll"].total.item() == pytest.approx(nlls[-1])


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_denoising_passes_read_the_corrupted_reference(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = refinement(denoising=1.0, corruption=rate)
    _, read, _ = passes_of(model, BATCH, monkeypatch)
    target = BATCH.target
    random = RowRandom.of((BATCH.source.tokens, BATCH.source.valid), (target.tokens, target.valid), seed=1)
    noisy = [model.corrupted(BATCH, random.fork(number)) for number in (1, 2, 3)]
    for inputs, tokens in zip(read[1:], noisy, strict=True):
        assert torch.equal(inputs, model.net.embed(tokens))
        assert torch.equal(tokens, target.tokens) == (rate == 0.0)
        assert ((tokens >= NUM_SYMBOLS) | (tokens == target.tokens) | (tokens == 1)).all()
    assert torch.equal(noisy[0], noisy[1]) == (rate == 0.0)


@pytest.mark.parametrize("kind", ["repeat", "replace", "swap"])
def test_each_corruption_has_its_own_weight(kind: str) -> None:
    model = refinement(corruption=1.0, **{name: float(name == kind) for name in ("repeat", "replace", "swap")})
    target = BATCH.target
    noisy = model.corrupted(BATCH, RowRandom.of((target.tokens, target.valid), seed=1))
    for found, y in zip(Target(noisy, target.valid).to_lists(), target.to_lists(), strict=True):
        repeated = y[:1] + y[:-1]
        swapped = [y[t ^ 1] if t ^ 1 < len(y) else y[t] for t in range(len(y))]
        if kind == "replace":
            assert found not in (y, repeated, swapped) or len(y) == 1
        else:
            assert found == {"repeat": repeated, "swap": swapped}[kind]


def test_a_share_of_the_sentences_denoises_in_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(2000)[:, None]
    tokens = torch.cat((rows % 13, rows // 13 % 13, rows // 169), dim=1) + NUM_SYMBOLS
    batch = Batch(Source(tokens, tokens > 0), Target(tokens.flip(1), tokens > 0))
    model = refinement(denoising=0.3, corruption=0.0, train_passes=3)
    with torch.no_grad():
        _, read, said = passes_of(model, batch, monkeypatch)
        wanted = model.net.embed(batch.target.tokens)
    second, third = ((inputs == wanted).flatten(1).all(dim=1) for inputs in read[1:])  # what these passes read
    right = [(s.argmax(dim=-1) == batch.target.tokens).all(dim=1) for s in said]  # what the passes before gave
    assert (~right[0]).sum() > 1000
    assert second[~right[0]].double().mean().item() == pytest.approx(0.3, abs=0.04)
    denoised = second & ~right[0]
    assert third[denoised].all()
    assert not third[~second & ~right[1]].any()


def test_a_denoiser_needs_something_to_undo() -> None:
    with pytest.raises(ConfigError, match=r"repeat=0.0, replace=0.0, swap=0.0: one of the three must be above 0"):
        refinement(repeat=0.0, replace=0.0, swap=0.0)
