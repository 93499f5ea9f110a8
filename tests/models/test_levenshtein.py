"""The Levenshtein Transformer by hand, and with oracles that know the edit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import Literal, make_batch, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nat.composition import compose
from nat.config import Component, parse
from nat.data.batch import Draft, Phrases, Source, Target, Tokens
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.levenshtein import Levenshtein
from nat.nn import roll_in
from nat.nn.edit_heads import Policy
from nat.nn.head import Head
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.ops.edit_distance import best_edits
from nat.search.canvas import Fate

BOS, EOS, PLH = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.PLH)
SIZE = NUM_SYMBOLS + 13
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6)])


def levenshtein(**options: Any) -> Levenshtein:
    model = make_model("levenshtein", **({"dtype": torch.float64, "max_placeholders": 6} | options))
    assert isinstance(model, Levenshtein)
    with torch.no_grad():  # sharper than at initialisation
        model.heads.keep_or_delete.weight.mul_(20)
        model.heads.count.weight.mul_(20)
    return model


def lists(sequence: Tokens) -> list[list[int]]:
    return sequence.to_lists()


def memory_of(model: Levenshtein) -> Memory:
    return model.net.encode(BATCH.source)


def rows_random(number: int, seed: int = 1) -> RowRandom:
    ids = torch.arange(number)[:, None]
    return RowRandom.of((ids, ids >= 0), seed=seed)


# --- training: where each policy starts ---------------------------------------------------------------


def states_of(model: Levenshtein, monkeypatch: pytest.MonkeyPatch, update: int = 1) -> dict[str, Any]:
    """What `loss` gives its parts, and the terms."""
    seen: dict[str, Any] = {}
    initial, ready, deletion = model.initial, model.insertion_roll_in, model.deletion_loss
    insertion = model.insertion_loss

    def keep(name: str, value: Any) -> Any:
        seen[name] = value
        return value

    with monkeypatch.context() as patch:
        patch.setattr(model, "initial", lambda *a: keep("initial", initial(*a)))
        patch.setattr(model, "insertion_roll_in", lambda *a: keep("ready", ready(*a)))
        patch.setattr(model, "insertion_loss", lambda *a: keep("inserted", insertion(*a)))
        patch.setattr(model, "deletion_loss", lambda edited, *a: deletion(keep("edited", edited), *a))
        seen["terms"] = model.loss(BATCH, update=update)
    seen["inserted"] = seen["inserted"][1]
    return seen


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_deletion_starts_from_the_initial_sequence_or_from_the_insertion(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = states_of(levenshtein(alpha=alpha, drafts=1.0), monkeypatch)
    assert lists(seen["edited"]) == lists(seen["initial" if alpha else "inserted"])
    assert lists(seen["initial"]) != lists(seen["inserted"])


def test_between_them_each_row_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = states_of(levenshtein(drafts=1.0, draft_noise=1.0), monkeypatch)
    edited, initial, inserted = (lists(seen[name]) for name in ("edited", "initial", "inserted"))
    choices = {(e == i, e == j) for e, i, j in zip(edited, initial, inserted, strict=True)}
    assert choices == {(True, False), (False, True)}


def test_insertion_starts_from_the_target_with_words_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = levenshtein(beta=0.0, drafts=1.0)
    monkeypatch.setattr(model.heads, "deletion", lambda *a: pytest.fail("no deletion is needed"))
    random = rows_random(len(BATCH))
    found = model.insertion_roll_in(
        Tokens(BATCH.target.tokens, BATCH.target.valid), BATCH.target, memory_of(model), random
    )
    assert lists(found) == lists(roll_in.dropped(BATCH.target, random.fork(1)))
    assert lists(found) != lists(BATCH.target)


@pytest.mark.parametrize("choice", ["sample", "argmax"])
def test_insertion_starts_from_what_the_model_leaves_of_the_initial_sequence(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake deletes even tokens for sure, and 9 with probability 0.4."""
    model = levenshtein(beta=1.0, roll_in=choice)
    rows = torch.randint(NUM_SYMBOLS, SIZE, (400, 6), generator=torch.Generator().manual_seed(0))
    initial = Tokens(rows, torch.arange(6) < torch.arange(400)[:, None] % 7)

    def deletion(net: Any, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        assert (memory.states[:, 0, 0].long() % 7 > 0).all(), "rows of nothing are not asked"
        share = torch.where(tokens == 9, 0.4, torch.where(tokens % 2 == 0, 1.0, 0.0))
        return torch.stack((1 - share, share), dim=2).log()

    monkeypatch.setattr(model.heads, "deletion", deletion)
    memory = Memory(torch.arange(400)[:, None, None].double(), torch.ones(400, 1, dtype=torch.bool))
    found = model.insertion_roll_in(initial, Target(rows, initial.valid), memory, rows_random(400))
    wanted = [[token for token in row if token % 2] for row in initial.to_lists()]
    if choice == "argmax":
        assert lists(found) == wanted
    else:
        assert [[t for t in row if t != 9] for row in lists(found)] == [[t for t in row if t != 9] for row in wanted]
        share = sum(row.count(9) for row in lists(found)) / sum(row.count(9) for row in wanted)
        assert share == pytest.approx(0.6, abs=0.15)


def test_from_nothing_insertion_starts_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = states_of(levenshtein(beta=1.0, alpha=1.0, drafts=0.0), monkeypatch)
    assert lists(seen["initial"]) == lists(seen["ready"]) == lists(seen["edited"]) == [[]] * 5
    assert lists(seen["inserted"]) != lists(BATCH.target)  # the model's own words
    assert list(map(len, lists(seen["inserted"]))) == BATCH.target.lengths.tolist()
    assert seen["terms"]["deletion"].count == 0
    assert seen["terms"]["token"].count == BATCH.num_target_tokens


@pytest.mark.parametrize("choice", ["sample", "argmax"])
def test_the_model_fills_the_experts_placeholders(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = levenshtein(roll_in=choice, drafts=1.0)
    asked: list[tuple[Tensor, Tensor]] = []
    original = model.heads.token_states

    def spy(net: Any, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        states = original(net, tokens, valid, memory)
        asked.append((tokens, net.head(memory).full(states)))
        return states

    monkeypatch.setattr(model.heads, "token_states", spy)
    seen = states_of(model, monkeypatch)
    ((tokens, log_probs),) = asked
    ready, inserted = seen["ready"], seen["inserted"]
    for row, ids in enumerate(ready.to_lists()):
        assert [t for t in tokens[row, inserted.valid[row]].tolist() if t != PLH] == ids
    new = tokens == PLH
    assert torch.equal(inserted.tokens[~new], tokens[~new])
    best = log_probs.argmax(dim=2)
    assert torch.equal(inserted.tokens[new], best[new]) == (choice == "argmax")


def test_random_deletion_is_uniform_in_number_and_place() -> None:
    number = 4000
    valid = (torch.arange(6) < 5).expand(number, 6)
    target = Target((torch.arange(6) + 7).expand(number, 6), valid)
    found = roll_in.dropped(target, rows_random(number))
    share = found.lengths.bincount(minlength=6) / number
    assert torch.allclose(share, torch.full((6,), 1 / 6), atol=0.03)
    for token in range(7, 12):
        assert ((found.tokens == token) & found.valid).sum() / number == pytest.approx(0.5, abs=0.04)
    assert (found.tokens.diff(dim=1)[found.valid[:, 1:]] > 0).all()


def test_drafts_have_dropped_and_replaced_words() -> None:
    number = 4000
    tokens = torch.full((number, 10), 7)
    target = Target(tokens, torch.arange(10).expand(number, 10) < 9)
    found = roll_in.damaged(target, rows_random(number), most=0.8, alphabet=(8, 12))
    lost, replaced = 9 - found.lengths, ((found.tokens != 7) & found.valid).sum(dim=1)
    assert lost.float().mean() / 9 == pytest.approx(0.2, abs=0.01)
    assert replaced.float().mean() / 9 == pytest.approx(0.2, abs=0.01)
    share = found.tokens[found.valid & (found.tokens != 7)].bincount(minlength=12)[8:] / replaced.sum()
    assert torch.allclose(share, torch.full((4,), 0.25), atol=0.02)
    hit = (lost + replaced).float() / 9  # uniform in 0 .. 0.8, and then binomial
    assert hit.var() == pytest.approx(0.8**2 / 12 + (0.4 - 0.16 - 0.8**2 / 12) / 9, rel=0.1)


@pytest.mark.parametrize(("drafts", "empty"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_the_share_of_drafts(drafts: float, empty: float) -> None:
    target = Target(torch.full((1000, 8), 9), torch.ones(1000, 8, dtype=torch.bool))
    found = levenshtein(drafts=drafts).initial(target, rows_random(1000))
    assert (found.lengths == 0).float().mean() == pytest.approx(empty, abs=0.05)


# --- training: what is learnt -------------------------------------------------------------------------


def log_probs_by_hand(model: Levenshtein, head: str, tokens: list[int], memory: Memory) -> Tensor:
    """Of one row without padding, from the states between BOS and EOS: (L, C)."""
    marked = torch.tensor([[BOS, *tokens, EOS]])
    own = head in model.heads.decoders
    decoder = model.heads.decoders[head] if own else model.net.decoder
    h = decoder(model.net.place(model.net.embed(marked)), None, memory)[0]
    if head == "deletion":
        return (h[1:-1] @ model.heads.keep_or_delete.weight.T + model.heads.keep_or_delete.bias).log_softmax(-1)
    if head == "placeholder":
        both = torch.stack([torch.cat((h[i], h[i + 1])) for i in range(len(h) - 1)])
        return (both @ model.heads.count.weight.T + model.heads.count.bias).log_softmax(-1)
    return model.net.head_for(None).scores(h[None, 1:-1])[0].log_softmax(-1)


def smoothed(log_probs: Tensor, label: int, smoothing: float) -> float:
    possible = log_probs[log_probs > -torch.inf]
    return (-(1 - smoothing) * log_probs[label] - smoothing * possible.mean()).item()


@pytest.mark.parametrize("sharing", ["all", "none"])
@pytest.mark.parametrize("most", [6, 2])
def test_the_loss_is_that_of_the_plain_sums(sharing: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`best_edits` has its own tests; here it is asked one row at a time, and everything else is over lists."""
    model = levenshtein(share_decoders=sharing, max_placeholders=most)
    seen = states_of(model, monkeypatch, update=2)
    ready, edited, targets = (lists(x) for x in (seen["ready"], seen["edited"], BATCH.target))
    sums = dict.fromkeys(("deletion", "placeholder", "token", "nll", "wide_gaps"), 0.0)
    counts = dict.fromkeys(sums, 0)
    for row, target in enumerate(targets):
        memory = model.net.encode(Source.from_lists([BATCH.source.to_lists()[row]]))
        wanted, missing = plain_edits(ready[row], target)[1:]
        canvas, labels, words = [], [], iter(missing)
        for count, token in zip(wanted, [*ready[row], None], strict=True):
            gap = [next(words) for _ in range(count)][:most]
            canvas += [PLH] * len(gap) + ([] if token is None else [token])
            labels += gap + ([] if token is None else [None])
        for g, log_probs in enumerate(log_probs_by_hand(model, "placeholder", ready[row], memory)):
            sums["placeholder"] += smoothed(log_probs, min(most, wanted[g]), 0.01)
            sums["wide_gaps"] += wanted[g] > most
            counts["placeholder"] += 1
            counts["wide_gaps"] += 1
        for log_probs, label in zip(log_probs_by_hand(model, "token", canvas, memory), labels, strict=True):
            if label is not None:
                sums["token"] += smoothed(log_probs, label, 0.1)
                sums["nll"] -= log_probs[label].item()
                counts["token"] += 1
                counts["nll"] += 1
        deleted = plain_edits(edited[row], target)[0]
        for log_probs, label in zip(log_probs_by_hand(model, "deletion", edited[row], memory), deleted, strict=True):
            sums["deletion"] -= log_probs[int(label)].item()
            counts["deletion"] += 1
    assert {name: term.total.item() for name, term in seen["terms"].items()} == pytest.approx(sums, abs=1e-9)
    assert {name: term.count.item() for name, term in seen["terms"].items()} == counts
    assert (sums["wide_gaps"] > 0) == (most == 2)
    assert all(counts.values())
    assert {name: term.weight for name, term in seen["terms"].items() if not term.weight} == {"nll": 0, "wide_gaps": 0}


def plain_edits(draft: list[int], target: list[int]) -> tuple[list[bool], list[int], list[int]]:
    """What is deleted, placeholders in each gap, and what fills them."""
    given, wanted = Tokens.from_lists([draft]), Tokens.from_lists([target])
    edits = best_edits(given.tokens, given.valid, wanted.tokens, wanted.valid)
    missing = [token for token, new in zip(target, edits.missing[0].tolist(), strict=False) if new]
    return edits.deleted[0, : len(draft)].tolist(), edits.placeholders[0, : len(draft) + 1].tolist(), missing


# --- decoders -------------------------------------------------------------------------------------------


def calls_of_layers(model: Levenshtein, head: str) -> dict[str, int]:
    """How many layers of each decoder a head uses."""
    used: dict[str, int] = {}
    hooks = []
    for name, part in model.named_modules():
        decoder, _, number = name.rpartition(".layers.")
        if number.isdigit() and "encoder" not in name:
            hooks.append(part.register_forward_hook(lambda *a, d=decoder: used.update({d: used.get(d, 0) + 1})))
    target = BATCH.target
    getattr(model.heads, head)(model.net, target.tokens, target.valid, memory_of(model))
    for hook in hooks:
        hook.remove()
    return used


def test_early_exit_uses_fewer_layers() -> None:
    model = levenshtein(decoder={"num_layers": 4}, exits={"deletion": 1, "placeholder": 3})
    assert calls_of_layers(model, "deletion") == {"net.decoder": 1}
    assert calls_of_layers(model, "placeholders") == {"net.decoder": 3}
    assert calls_of_layers(model, "token_states") == {"net.decoder": 4}


def test_an_own_decoder_has_just_the_layers_that_its_head_uses() -> None:
    model = levenshtein(
        decoder={"num_layers": 4}, share_decoders="placeholder_token", exits={"deletion": 2, "token": 3}
    )
    assert calls_of_layers(model, "deletion") == {"heads.decoders.deletion": 2}
    assert calls_of_layers(model, "placeholders") == {"net.decoder": 4}
    assert calls_of_layers(model, "token_states") == {"net.decoder": 3}
    assert len(model.heads.decoders["deletion"].layers) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sharing", "own"),
    [
        ("all", set()),
        ("placeholder_token", {"deletion"}),
        ("deletion_token", {"placeholder"}),
        ("none", {"deletion", "placeholder"}),
    ],
)
def test_heads_that_do_not_share_have_parameters_of_their_own(sharing: str, own: set[str]) -> None:
    model = levenshtein(share_decoders=sharing)
    names = {"deletion": "deletion", "placeholder": "placeholders", "token": "token_states"}
    assert set(model.heads.decoders) == own
    for head in Policy:
        decoder = f"heads.decoders.{head.value}" if head.value in own else "net.decoder"
        assert calls_of_layers(model, names[head.value]) == {decoder: 2}
    parameters = list(model.parameters())
    assert len(parameters) == len({p.data_ptr() for p in parameters})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.exits.deletion=7"], "exits.deletion=7: must be at most decoder.num_layers=6"),
        (["model.exits={deletion: 2, placeholder: 3, token: 4}"], "exits.token=4: .*num_layers=4 is the same"),
        (["model.share_decoders=none", "model.exits.token=4"], "exits.token=4: .*num_layers=4 is the same"),
        (["model.drafts=0", "model.draft_noise=0.2"], "draft_noise=0.2: has no effect with drafts=0"),
        (["model.max_placeholders=0"], "max_placeholders=0.*at least 1"),
        (["model.roll_in=greedy"], "roll_in=.*allowed are sample, argmax"),
        (["model.share_decoders=pairs"], "allowed are all, placeholder_token, deletion_token, none"),
    ],
)
def test_refusals(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Component, compose("train", ["run_dir=x", "model=levenshtein", *options])["model"], "model")


# --- decoding: an oracle that knows the edit --------------------------------------------------------------

Words = st.lists(st.integers(NUM_SYMBOLS, NUM_SYMBOLS + 4), max_size=7)


def oracle(model: Levenshtein, targets: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that know the target of each row, whose number is its memory."""
    most = model.config.max_placeholders

    def encode(source: Source) -> Memory:
        numbers = torch.arange(len(source))[:, None, None].expand(-1, 1, 16).double()
        return Memory(numbers, torch.ones(len(source), 1, dtype=torch.bool))

    def wanted(memory: Memory) -> Tokens:
        return Tokens.from_lists([targets[row] for row in memory.states[:, 0, 0].long().tolist()])

    def certain(classes: Tensor, number: int) -> Tensor:
        return torch.nn.functional.one_hot(classes, number).double().mul(0.98).add(0.01 / number).log()

    def deletion(net: Any, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        target = wanted(memory)
        return certain(best_edits(tokens, valid, target.tokens, target.valid).deleted.long(), 2)

    def placeholders(net: Any, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        target = wanted(memory)
        edits = best_edits(tokens, valid, target.tokens, target.valid)
        return certain(edits.limited(most).placeholders, most + 1)

    def token_states(net: Any, canvas: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        target, blank = wanted(memory), canvas == PLH
        rest = Tokens(canvas, valid & ~blank)
        kept = rest.compact()
        edits = best_edits(kept.tokens, kept.valid, target.tokens, target.valid).limited(most)
        filled, new = roll_in.completed(kept, edits, Target(target.tokens, target.valid))
        width = max(canvas.size(1), target.tokens.size(1))
        words, answers, asked = (
            torch.nn.functional.pad(x, (0, width - x.size(1)))[:, : canvas.size(1)]
            for x in (filled.tokens, target.tokens, new)
        )
        whole = (valid.sum(dim=1) == target.lengths)[:, None]  # then the target says what is hidden, too
        assert (whole | (asked == blank)).all()
        return certain(answers.where(whole, words), SIZE)

    monkeypatch.setattr(model.net, "encode", encode)
    monkeypatch.setattr(model.net, "head", lambda memory: Literal())
    for head in (deletion, placeholders, token_states):
        monkeypatch.setattr(model.heads, head.__name__, head)


def draft_of(rows: list[list[int]]) -> Draft:
    target = Target.from_lists(rows)
    closed = torch.zeros(len(rows), target.tokens.size(1) + 1, dtype=torch.bool)
    return Draft(target.tokens, target.valid, torch.zeros_like(target.valid), closed)


def decode(model: Levenshtein, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=Levenshtein.Decoding(**options))


def outputs(found: Translation, candidate: int = 0) -> list[list[int]]:
    return [ids[keep].tolist() for ids, keep in zip(found.tokens[:, candidate], found.valid[:, candidate], strict=True)]


MODEL = levenshtein()
NARROW = levenshtein(max_placeholders=2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(Words, Words.filter(bool)), min_size=1, max_size=4), st.booleans())
def test_an_oracle_turns_any_draft_into_the_target_in_one_pass(
    pairs: list[tuple[list[int], list[int]]], has_draft: bool
) -> None:
    drafts = [draft if has_draft else [] for draft, _ in pairs]
    targets = [target[:6] for _, target in pairs]
    source = Source.from_lists([[9, 9]] * len(pairs))
    given_draft = replace(source, draft=draft_of(drafts)) if has_draft else source
    with pytest.MonkeyPatch.context() as patch:
        oracle(MODEL, targets, patch)
        found = decode(MODEL, given_draft, history=True)
    assert outputs(found) == targets
    assert not found.truncated.any()
    (history,) = found.history
    for row, (draft, target) in enumerate(zip(drafts, targets, strict=True)):
        deleted, counts, missing = plain_edits(draft if has_draft else [], target)
        first = bool(draft) + 1 + bool(missing)  # calls; then one round that finds nothing more to do
        given = 0 if all(deleted) or not has_draft else 2  # calls that score what is left of the draft
        assert found.passes[row] == (first if draft == target else first + 2) + given
        fates, tokens = history.fate[row, 0], history.tokens[row, 0]
        there = (fates == Fate.KEPT) | (fates == Fate.INSERTED)
        assert tokens[there].tolist() == target
        assert tokens[fates == Fate.INSERTED].tolist() == missing
        assert sum(counts) == len(missing)
        assert tokens[fates == Fate.DELETED].tolist() == [t for t, gone in zip(draft, deleted, strict=False) if gone]
        stood = (fates == Fate.KEPT) | (fates == Fate.DELETED)
        assert tokens[stood].tolist() == (draft if has_draft else [])  # nothing is lost, and all in its place


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(Words, Words.filter(bool)), min_size=1, max_size=3))
def test_gaps_wider_than_the_most_placeholders_need_more_passes(pairs: list[tuple[list[int], list[int]]]) -> None:
    drafts, targets = [draft for draft, _ in pairs], [target for _, target in pairs]
    source = replace(Source.from_lists([[9, 9]] * len(pairs)), draft=draft_of(drafts))
    with pytest.MonkeyPatch.context() as patch:
        oracle(NARROW, targets, patch)
        found = decode(NARROW, source)
    assert outputs(found) == targets
    for row, (draft, target) in enumerate(zip(drafts, targets, strict=True)):
        widest = max(plain_edits(draft, target)[1])
        changing = max(-(-widest // 2), int(draft != target))
        rounds_without_words = 0 if draft else 1
        fillings = max(0, -(-widest // 2))
        given = 0 if all(plain_edits(draft, target)[0]) else 2  # calls that score what is left of the draft
        assert found.passes[row] == 2 * (changing + 1) - rounds_without_words + fillings + given


# --- decoding: constraints --------------------------------------------------------------------------------


def eager(**options: Any) -> Levenshtein:
    """Untrained, and keen to delete and to insert."""
    model = levenshtein(**({"dtype": torch.float32} | options))
    with torch.no_grad():
        model.heads.keep_or_delete.bias[1] += 0.5
        model.heads.count.bias[0] -= 1.0
        model.heads.count.bias[1:3] += 1.0
    return model


def random_phrases(rows: int, generator: torch.Generator) -> Phrases:
    """One to three phrases of one to three tokens."""
    tokens = torch.randint(NUM_SYMBOLS, SIZE, (rows, 3, 3), generator=generator)
    lengths = torch.randint(1, 4, (rows, 3), generator=generator)
    lengths[:, 1:] *= torch.rand((rows, 2), generator=generator).cumsum(dim=1) < 0.8
    valid = torch.arange(3) < lengths[:, :, None]
    return Phrases(tokens.masked_fill(~valid, 0), valid)


def holds(output: list[int], phrase: list[int]) -> bool:
    return any(output[i : i + len(phrase)] == phrase for i in range(len(output)))


@pytest.mark.parametrize("seed", range(5))
def test_constraints_are_kept_in_a_thousand_random_cases(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model, rows = eager(seed=seed), 200
    lengths = torch.randint(1, 8, (rows, 2), generator=generator).tolist()
    batch = make_batch([(s, t) for s, t in lengths], seed=seed)
    phrases = random_phrases(rows, generator)
    source = replace(batch.source, phrases=phrases)
    if seed % 2:
        source = replace(source, draft=draft_of(batch.target.to_lists()))
    found = decode(model, source, max_passes=3, orders=2)
    kept = longer = 0
    for row, output in enumerate(outputs(found)):
        wanted = [ids[keep].tolist() for ids, keep in zip(phrases.tokens[row], phrases.valid[row], strict=True)]
        assert all(holds(output, phrase) for phrase in wanted if phrase)
        kept += 1
        longer += len(output) > sum(map(len, wanted))
    assert kept == rows
    assert longer > rows / 2  # it did insert
    without = outputs(decode(model, replace(source, phrases=None), max_passes=3))
    lost = sum(not holds(without[row], phrases.tokens[row, 0][phrases.valid[row, 0]].tolist()) for row in range(rows))
    assert lost > rows / 3  # they would not be there by themselves


def test_closed_gaps_stay_closed() -> None:
    model = eager()
    draft = draft_of([[10, 11, 12], [10, 11, 12]])
    draft.fixed[:] = True
    draft.closed[:] = torch.tensor([[True, True, False, True], [False, True, True, True]])
    first, second = outputs(decode(model, replace(Source.from_lists([[9, 9]] * 2), draft=draft)))
    assert (first[:2], first[-1]) == ([10, 11], 12) and len(first) > 3
    assert second[-3:] == [10, 11, 12] and len(second) > 3


def test_the_order_of_phrases_is_the_one_of_highest_mean_log_probability() -> None:
    model = eager(dtype=torch.float64, seed=3)
    one, two = [[[10], [12, 11]]] * 6, [[[12, 11], [10]]] * 6
    batch = make_batch([(n, 1) for n in (3, 5, 6, 2, 4, 7)]).source

    def run(rows: list[list[list[int]]], orders: int) -> tuple[list[list[int]], list[float], Translation]:
        tokens = torch.tensor([[(phrase + [0])[:2] for phrase in row] for row in rows])
        found = decode(model, replace(batch, phrases=Phrases(tokens, tokens > 0)), orders=orders, max_passes=4)
        means = (found.scores[:, 0] / found.valid[:, 0].sum(dim=1)).tolist()
        return outputs(found), means, found

    (first, a, x), (second, b, y), (best, c, z) = run(one, 1), run(two, 1), run(one, 24)
    assert best == [p if u >= v else q for p, q, u, v in zip(first, second, a, b, strict=True)]
    assert c == pytest.approx([max(pair) for pair in zip(a, b, strict=True)])
    assert len({u >= v for u, v in zip(a, b, strict=True)}) == 2
    assert torch.equal(z.passes, torch.maximum(x.passes, y.passes))
    chosen = [x.truncated[i] if a[i] >= b[i] else y.truncated[i] for i in range(6)]
    assert z.truncated.tolist() == [bool(flag) for flag in chosen]


# --- decoding: ends, limits, options ------------------------------------------------------------------------


def test_a_canvas_counts_both_ends() -> None:
    assert make_model("levenshtein").canvas_length(np.array([9, 1]), np.array([3, 5])).tolist() == [5, 7]


def test_both_ends_are_never_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = levenshtein()
    with torch.no_grad():
        model.heads.keep_or_delete.bias[1] = 1000.0  # delete everything
    seen: list[Tensor] = []
    original = model.net.embed
    monkeypatch.setattr(model.net, "embed", lambda tokens: original(seen.append(tokens) or tokens))
    source = replace(make_batch([(4, 1), (3, 1)]).source, draft=draft_of([[8, 9, 10], [11]]))
    found = decode(model, source, max_passes=3)
    assert found.valid.any(dim=2).all()
    assert len(seen) == found.passes.max() >= 6
    for tokens in seen:
        for row in tokens.tolist():
            inside = [token for token in row if token]
            assert (inside[0], inside[-1], inside.count(BOS), inside.count(EOS)) == (BOS, EOS, 1, 1)


def counting(model: Levenshtein, bias: list[float]) -> None:
    """The number of placeholders no longer depends on the states."""
    with torch.no_grad():
        model.heads.count.weight.zero_()
        model.heads.count.bias[:] = torch.tensor(bias)


def test_a_translation_has_words_and_the_penalty_makes_it_longer() -> None:
    model = levenshtein(max_placeholders=2)
    counting(model, [3.0, 1.0, 0.0])
    with torch.no_grad():
        model.heads.keep_or_delete.bias[0] = 1000.0
    source = make_batch([(9, 1)]).source
    plain = decode(model, source)
    assert (plain.valid.sum().item(), plain.passes.item()) == (1, 4)
    assert decode(model, source, placeholder_penalty=1.9).valid.sum() == 1
    longer = decode(model, source, placeholder_penalty=2.1, max_passes=3)
    assert longer.valid.sum() == 1 + 2 + 4
    assert longer.truncated.all() and not plain.truncated.any()


def test_placeholders_beyond_the_limit_are_cut_from_the_last_gaps() -> None:
    model = levenshtein(max_placeholders=2)
    counting(model, [0.0, 0.0, 9.0])
    with torch.no_grad():
        model.heads.keep_or_delete.bias[0] = 1000.0
    source = replace(Source.from_lists([[9], [9, 9, 9]]), draft=draft_of([[8, 9, 10], [8, 9, 10]]))
    found = decode(model, source, max_length_factor=2.0, max_length_offset=4, max_passes=2)  # 6 and 10
    (first, second) = outputs(found)
    assert (len(first), len(second)) == (6, 10)
    assert found.truncated.tolist() == [True, True]
    assert first[2] == 8 and first[4:] == [9, 10]  # two before 8, one before 9
    longer = decode(model, source, max_length_factor=0.0, max_length_offset=2)
    assert outputs(longer) == [[8, 9, 10]] * 2 and longer.truncated.all()  # a draft over the limit does not grow
    assert longer.passes.tolist() == [4, 4]  # of a round, and of the scores


def test_learned_positions_hold_both_ends() -> None:
    options: dict[str, Any] = {"positions": {"kind": "learned", "max_length": 8}}
    model = levenshtein(max_placeholders=2, **options)
    counting(model, [0.0, 0.0, 9.0])
    found = decode(model, make_batch([(8, 1), (2, 1)]).source)
    assert (found.valid.sum(dim=2) <= 6).all() and found.valid.sum(dim=2).max() == 6
    batch = make_batch([(8, 3), (8, 4), (8, 6), (8, 7), (9, 2), (2, 0)])
    assert model.learnable(batch).tolist() == [True, False, False, False, False, False]
    for update in range(1, 9):
        levenshtein(beta=1.0, drafts=1.0, draft_noise=1.0, **options).loss(make_batch([(8, 3)] * 4), update=update)
    model = levenshtein(drafts=0.0, **options)
    assert model.learnable(batch).tolist() == [True, True, True, False, False, False]
    for update in range(1, 5):
        model.loss(make_batch([(8, 6), (8, 4)]), update=update)


def test_only_the_first_pass_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = eager(dtype=torch.float64), make_batch([(9, 1), (6, 1)]).source
    drawn: list[int] = []
    original = Head.sampled

    def spy(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        drawn.append(1)
        return original(*given, **options)

    monkeypatch.setattr(Head, "sampled", spy)
    found = decode(model, source, temperature=1.0, num_candidates=3, max_passes=4)
    assert len(drawn) == 1 and found.passes.max() > 1
    assert outputs(found, 0) != outputs(found, 1)


def test_heads_that_have_nothing_to_decide_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODEL
    calls: list[str] = []
    targets = [[8, 9], [10]]
    oracle(model, targets, monkeypatch)
    for name in ("deletion", "placeholders", "token_states"):
        head = getattr(model.heads, name)
        monkeypatch.setattr(model.heads, name, lambda *a, h=head, n=name: h(*(calls.append(n) or a)))
    found = decode(model, Source.from_lists([[9], [9]]))
    assert calls == ["placeholders", "token_states", "deletion", "placeholders"]
    assert found.passes.tolist() == [4, 4]


@pytest.mark.parametrize("asked", ["nothing", "draft", "known"])
def test_passes_are_the_decoder_calls_that_a_row_needs_whatever_its_batch(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = eager(dtype=torch.float64), [0]
    source = make_batch([(n, 1) for n in (3, 1, 6, 2, 4, 7)]).source
    if asked != "nothing":
        draft = draft_of([[8, 9, 10], [11], [], [12, 7], [9, 9, 9], [10]])
        draft.fixed[:] = draft.valid & (asked == "known")
        draft.closed[1:2] = draft.closed[3, :2] = asked == "known"
        source = replace(source, draft=draft)
    for name in ("deletion", "placeholders", "token_states"):
        head = getattr(model.heads, name)
        monkeypatch.setattr(model.heads, name, lambda *a, h=head: h(*(calls.append(1) or a)))
    together = decode(model, source, max_passes=4).passes.tolist()
    assert sum(together) > 0
    for row, passes in enumerate(together):
        calls.clear()
        alone = decode(model, source.select(torch.tensor([row])), max_passes=4).passes
        assert alone.tolist() == [passes] == [len(calls)]


# --- decoding: what a score says where text was given -------------------------------------------------------


def sure(classes: Tensor, number: int, share: float | Tensor = 0.99) -> Tensor:
    """Log-probabilities (B, L, number): `share` for these classes, the rest evenly for the others."""
    shares = torch.as_tensor(share, dtype=torch.float64).expand(classes.shape)[:, :, None]
    rest = ((1 - shares) / (number - 1)).expand(*classes.shape, number)
    return rest.scatter(2, classes[:, :, None], shares).log()


def test_of_two_orders_the_one_that_inserts_sure_words_is_chosen_and_scores_are_of_all_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between 10 and 11 two words of probability 0.95 are inserted, between 11 and 10 nothing; the phrases have a
    probability of 0.4 in either order."""
    model, most = levenshtein(), 6

    def placeholders(net: Any, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        marked = torch.nn.functional.pad(tokens, (1, 1))
        return sure(2 * ((marked[:, :-1] == 10) & (marked[:, 1:] == 11)).long(), most + 1)

    def token_states(net: Any, canvas: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        is_long = valid.sum(dim=1) == 4
        table = torch.tensor([[11, 10, 0, 0], [10, 12, 12, 11]])[is_long.long(), : canvas.size(1)]
        return sure(table, SIZE, torch.where(table == 12, 0.95, 0.4))

    monkeypatch.setattr(model.net, "head", lambda memory: Literal())
    for head in (placeholders, token_states):
        monkeypatch.setattr(model.heads, head.__name__, head)
    ids = torch.tensor([[[10], [11]], [[11], [10]], [[11], [0]]])
    source = replace(Source.from_lists([[9]] * 3), phrases=Phrases(ids, ids > 0))
    found = decode(model, source)
    assert outputs(found)[:2] == [[10, 12, 12, 11]] * 2
    assert found.scores[:2, 0].tolist() == pytest.approx([2 * math.log(0.95) + 2 * math.log(0.4)] * 2)
    assert found.scores[2, 0].item() == pytest.approx(math.log(0.4))
    assert decode(model, replace(source, phrases=Phrases(ids[:, :1], ids[:, :1] > 0))).passes.tolist() == [3, 3, 3]


def test_given_tokens_are_scored_hidden_and_from_all_others() -> None:
    model = eager(dtype=torch.float64)
    source = make_batch([(4, 1), (6, 1), (3, 1)]).source
    draft = draft_of([[8, 9, 10, 7], [], [12]])
    draft.fixed[:] = draft.valid
    draft.closed[0, 1:4] = True
    known = decode(model, replace(source, draft=draft), history=True, max_passes=3)
    (history,) = known.history
    for row, ids in enumerate(source.to_lists()):
        memory = model.net.encode(Source.from_lists([ids]))
        final = outputs(known)[row]
        last = history.fate[row].any(dim=1).nonzero().max()
        left = (history.fate[row, last] != Fate.DELETED) & (history.fate[row, last] != Fate.NONE)
        written = history.confidence[row, last][left]
        is_given = [bool(score == 0) for score in written]
        assert [token for token, given in zip(final, is_given, strict=True) if given] == draft.to_lists()[row]
        score = written.sum().item()
        for parity in (0, 1):
            hidden = [PLH if given and i % 2 == parity else final[i] for i, given in enumerate(is_given)]
            log_probs = log_probs_by_hand(model, "token", hidden, memory)
            score += sum(log_probs[i, final[i]].item() for i, token in enumerate(hidden) if token == PLH)
        assert known.scores[row, 0].item() == pytest.approx(score, abs=1e-5)
