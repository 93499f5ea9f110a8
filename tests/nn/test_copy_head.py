"""The pointer-generator head in models: steps and passes, layers, what must not be written, what becomes learnable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import VOCABULARIES, make_batch, make_model, pair_batch
from oracles import uncached_greedy
from torch import Tensor

from nat.config import parse
from nat.data.batch import Batch
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.autoregressive import Autoregressive
from nat.models.contract import TranslationModel
from nat.nn.copying import CopyHead, Copying
from nat.nn.transformer import Memory, Size
from nat.training.objective import objective

COPYING = {"copying": {"enabled": True}}
UNK = int(Symbol.UNK)


def head(forbidden: list[int], **options: Any) -> CopyHead:
    torch.manual_seed(0)
    config = parse(Copying, {"enabled": True} | options, "copying")
    return CopyHead(config, size=Size(dim=8, num_heads=2), forbidden=forbidden).double()


def memory_of(tokens: list[list[int]]) -> Memory:
    ids = torch.tensor(tokens)
    states = torch.randn(*ids.shape, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Memory(states, ids != int(Symbol.PAD), ids)


def plain(vocabulary: int, forbidden: list[int]) -> Tensor:
    """log P_vocab at 2 positions of 2 rows."""
    logits = torch.randn(2, 2, vocabulary, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits[:, :, forbidden] = -torch.inf
    return logits.log_softmax(dim=2)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_the_head_mixes_as_the_paper_says(num_heads: int) -> None:
    """Equations 8 and 9, with a mean of heads; positions and tokens one by one."""
    forbidden, size = [0, 2], 12
    copy = head(forbidden, num_heads=num_heads)
    memory = memory_of([[7, 9, 7, 1], [5, 2, 0, 0]])  # the second row: one token that may be copied, one that may not
    log_probs, states = plain(size, forbidden), torch.randn(2, 2, 8, dtype=torch.float64)
    found = copy(log_probs, states, copy.copyable(memory)).exp()
    for b, places in enumerate([[0, 1, 2, 3], [0]]):
        queries = copy.query(states[b]).view(2, num_heads, -1)
        keys = copy.key(memory.states[b, places]).view(len(places), num_heads, -1)
        scores = torch.einsum("lhe,she->lhs", queries, keys) / (8 / num_heads) ** 0.5
        weights = scores.softmax(dim=-1).mean(dim=1)
        context = weights @ memory.states[b, places]
        generate = torch.sigmoid(copy.gate(torch.cat((states[b], context), dim=1)))
        expected = generate * log_probs[b].exp()
        for column, place in enumerate(places):
            expected[:, int(memory.tokens[b, place])] += (1 - generate[:, 0]) * weights[:, column]  # type: ignore[index]
        assert torch.allclose(found[b], expected, atol=1e-12)


def test_what_the_method_must_not_write_is_not_copied() -> None:
    log_probs, states = plain(12, [0, UNK]), torch.randn(2, 2, 8, dtype=torch.float64)
    copy = head([0, UNK])
    found = copy(log_probs, states, copy.copyable(memory_of([[UNK, 9], [UNK, UNK]])))
    assert (found[:, :, UNK] == -torch.inf).all()
    assert torch.allclose(found.exp().sum(dim=2), torch.ones(2, 2, dtype=torch.float64))
    assert torch.equal(found[1], log_probs[1])
    may = head([0])(plain(12, [0]), states, head([0]).copyable(memory_of([[UNK, 9], [UNK, UNK]])))
    assert (may[:, :, UNK] > plain(12, [0])[:, :, UNK]).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_training_begins_with_the_asked_share_of_copies(share: float) -> None:
    copy = head([0], initial_share=share)
    torch.nn.init.zeros_(copy.gate.weight)
    log_probs = plain(12, [0]).masked_fill(
        torch.arange(12) == 9, -50.0
    )  # no longer a distribution, but almost none at 9
    found = copy(log_probs, torch.zeros(2, 2, 8, dtype=torch.float64), copy.copyable(memory_of([[9, 9], [9, 0]])))
    assert found.exp()[:, :, 9].flatten().tolist() == pytest.approx([share] * 4)


# --- models -----------------------------------------------------------------------------------------


def teacher() -> Autoregressive:
    model = make_model("autoregressive", dtype=torch.float64, seed=3, **COPYING)
    assert isinstance(model, Autoregressive)
    with torch.no_grad():
        for parameter in model.net.copying.parameters():  # type: ignore[union-attr]
            parameter.mul_(3)
    return model


def test_steps_with_a_cache_give_what_a_forced_pass_gives() -> None:
    model, batch = teacher(), make_batch([(5, 1), (2, 1), (7, 1)])
    options = Autoregressive.Decoding(max_length_factor=1.0, max_length_offset=3)
    with torch.no_grad():
        found = model.decode(batch.source, decoding=options)
        for i, row in enumerate(batch.source.to_lists()):
            tokens, score, _ = uncached_greedy(model, row, len(row) + 3)
            assert found.tokens[i, 0][found.valid[i, 0]].tolist() == tokens
            assert found.scores[i, 0].item() == pytest.approx(score, abs=1e-9)


def test_hypotheses_of_a_beam_are_scored_as_forced_ones() -> None:
    model, batch = teacher(), make_batch([(5, 1), (2, 1), (7, 1)])
    options = Autoregressive.Decoding(beam_size=4, num_candidates=3, max_length_factor=1.0, max_length_offset=3)
    with torch.no_grad():
        found = model.decode(batch.source, decoding=options)
        for n in range(3):
            targets = [row[keep].tolist() for row, keep in zip(found.tokens[:, n], found.valid[:, n], strict=True)]
            forced = model.score(pair_batch(batch.source.to_lists(), targets))
            assert torch.allclose(forced, found.scores[:, n], atol=1e-9)


def test_every_layer_under_deep_supervision_copies() -> None:
    model = make_model("vanilla", dtype=torch.float64, deep_supervision={"enabled": True}, **COPYING)
    net: Any = model.net
    torch.nn.init.constant_(net.copying.gate.bias, 50.0)  # never a copy: what the layers predict without
    batch = make_batch([(4, 4), (3, 3)])
    x, valid = model.copied(batch.source, batch.target.lengths)  # type: ignore[operator]
    memory = net.encode(batch.source)

    def predictions() -> list[torch.Tensor]:
        return [net.head(memory).full(states) for states in net.layers(net.place(x), valid, memory)]

    generated = predictions()
    torch.nn.init.constant_(net.copying.gate.bias, -50.0)
    copied = predictions()
    absent = torch.tensor([t for t in range(VOCABULARIES.target_size) if t not in batch.source.tokens[0]])
    assert len(generated) == len(copied) == 2
    for one, other in zip(generated, copied, strict=True):
        assert one[0, :, absent].exp().sum() > 1
        assert other[0, :, absent].exp().sum() < 1e-9


@pytest.mark.parametrize("summary", ["mean", "token"])
def test_a_memory_has_the_tokens_of_its_source(summary: str) -> None:
    """Also where a position for the length stood before them."""
    model, source = make_model("mask_predict", length={"summary": summary}), make_batch([(4, 4), (3, 3)]).source
    memory, _ = model.length.encode(model.net, source)  # type: ignore[operator, union-attr]
    assert torch.equal(memory.tokens, source.tokens)
    assert memory.repeat_rows(2).tokens.tolist() == source.repeat_rows(2).tokens.tolist()


def test_two_vocabularies_are_refused() -> None:
    two = Vocabularies(NUM_SYMBOLS + 9, NUM_SYMBOLS + 9, False)
    with pytest.raises(
        ConfigError, match=r"^copying\.enabled=true: needs one vocabulary .* data\.tokenizer\.joint=true$"
    ):
        make_model("ctc", vocabularies=two, **COPYING)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^copying\.num_heads=3: must divide dim=16$"):
        make_model("ctc", copying={"enabled": True, "num_heads": 3})


@pytest.mark.parametrize(("key", "value"), [("num_heads", 2), ("initial_share", 0.1)])
def test_options_without_effect_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{key}={value}: has no effect without enabled=true"):
        parse(Copying, {key: value}, "model.copying")


def test_half_precision_states_are_mixed_in_float32() -> None:
    model, batch = make_model("autoregressive", **COPYING), make_batch([(4, 3), (2, 2)])
    assert isinstance(model, Autoregressive)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs, _, _ = model.log_probs(model.net.encode(batch.source), batch.target)
    assert log_probs.dtype == torch.float32
    assert torch.allclose(log_probs.exp().sum(dim=2), torch.ones(2, 4), atol=1e-5)


# --- learning ---------------------------------------------------------------------------------------

WORDS = range(NUM_SYMBOLS, NUM_SYMBOLS + 4)
NAMES = range(WORDS.stop, WORDS.stop + 60)
UNSEEN = range(NAMES.stop, NAMES.stop + 20)


def names(count: int, pool: range, seed: int) -> Batch:
    """A name and a word in any order; the translation is the name."""
    generator = torch.Generator().manual_seed(seed)

    def draw(numbers: range) -> int:
        return numbers[int(torch.randint(len(numbers), (1,), generator=generator))]

    pairs = [(draw(pool), draw(WORDS)) for _ in range(count)]
    return pair_batch([[*pair][:: 1 if i % 2 else -1] for i, pair in enumerate(pairs)], [[name] for name, _ in pairs])


def learnt(name: str, *, updates: int = 120, **options: Any) -> TranslationModel:
    vocabularies = Vocabularies(UNSEEN.stop, UNSEEN.stop, True)
    model = make_model(name, vocabularies=vocabularies, label_smoothing=0.0, seed=1, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for update in range(1, updates + 1):
        batch = names(32, NAMES, update)
        optimizer.zero_grad()
        objective(model.loss(batch, update=update), int(batch.num_target_tokens)).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def right(model: TranslationModel, batch: Batch) -> float:
    found = model.decode(batch.source, decoding=type(model).Decoding())
    rows = [row[keep].tolist() for row, keep in zip(found.tokens[:, 0], found.valid[:, 0], strict=True)]
    return sum(row == target for row, target in zip(rows, batch.target.to_lists(), strict=True)) / len(rows)


@pytest.mark.parametrize("name", ["autoregressive", "vanilla"])
def test_names_that_no_pair_had_can_be_copied_and_not_generated(name: str) -> None:
    unseen = names(40, UNSEEN, 0)
    assert right(learnt(name, copying={"enabled": True}), unseen) > 0.8
    assert right(learnt(name), unseen) < 0.2
