"""The Insertion Transformer against loops over slots and passes, its constraints, and learning in every mode."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import draft_of, formula_rows, make_batch, make_model, pair_batch, phrases_of
from oracles import table_of
from torch import Tensor

from nat.composition import compose
from nat.config import Component, parse
from nat.data.batch import Draft, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError, DataError
from nat.models.contract import Translation
from nat.models.insertion import InsertionTransformer
from nat.nn.transformer import Memory
from nat.search.canvas import Fate
from nat.training.objective import objective

EOS = int(Symbol.EOS)
CONFIGS = [
    {"distribution": distribution, "finalisation": finalisation, "loss": loss}
    for distribution, finalisation, loss in itertools.product(
        ["joint", "factored"], ["slot", "sequence"], ["uniform", "tree"]
    )
]
SHORT = {"max_length_factor": 1.0, "max_length_offset": 2}


def insertion(**options: Any) -> InsertionTransformer:
    model = make_model("insertion", **({"dtype": torch.float64} | options))
    assert isinstance(model, InsertionTransformer)
    with torch.no_grad():
        model.net.embeddings.target.weight.mul_(3)  # sharper than at initialisation
    return model


def decode(model: InsertionTransformer, source: Source, **options: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=InsertionTransformer.Decoding(**options))


def outputs(found: Translation) -> list[list[int]]:
    return [tokens[0][valid[0]].tolist() for tokens, valid in zip(found.tokens, found.valid, strict=True)]


# --- options ----------------------------------------------------------------------------------------


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tree_temperature=0.5: has no effect without loss=tree"):
        make_model("insertion", loss="uniform", tree_temperature=0.5)
    model, source = insertion(finalisation="sequence"), make_batch([(3, 2)]).source
    with pytest.raises(ConfigError, match="parallel=true: needs a model of finalisation=slot, this one has"):
        decode(model, source, parallel=True)
    with pytest.raises(ConfigError, match="num_candidates=2: needs temperature"):
        InsertionTransformer.Decoding(num_candidates=2)


@pytest.mark.parametrize("size", ["small", "base"])
def test_recipes_compose(size: str) -> None:
    overrides = ["run_dir=x", f"experiment={size}/insertion"]
    config = parse(Component, compose("train", overrides)["model"], "model").config
    assert isinstance(config, InsertionTransformer.Config)
    assert config.label_smoothing == 0.1
    assert config.size.dropout == {"small": 0.1, "base": 0.3}[size]


def test_both_ends_need_positions() -> None:
    model = insertion(positions={"kind": "learned", "max_length": 6})
    assert model.learnable(make_batch([(6, 4), (6, 5), (7, 1), (1, 4)])).tolist() == [True, False, False, True]
    assert model.loss(make_batch([(6, 4)]), update=1)["insertion"].total.isfinite()
    source = make_batch([(6, 1), (2, 1)]).source
    found = decode(model, source, end_penalty=50.0)
    assert found.valid.sum(dim=2).flatten().tolist() == [4, 4]
    assert found.truncated.all()
    long = Source.from_lists([[9] * 5] * 2)
    draft = Draft(long.tokens, long.valid, ~long.valid, torch.zeros(2, 6, dtype=torch.bool))
    with pytest.raises(DataError, match=r"positions.max_length=6"):
        decode(model, replace(source, draft=draft))
    assert make_model("insertion").canvas_length(torch.ones(1).numpy(), torch.tensor([3]).numpy()).tolist() == [5]


# --- training ---------------------------------------------------------------------------------------


def weight(position: int, span: list[int], temperature: float | None) -> float:
    centre = (span[0] + span[-1]) / 2
    heights = {i: 1.0 if temperature is None else math.exp(-abs(i - centre) / temperature) for i in span}
    return heights[position] / sum(heights.values())


@pytest.mark.parametrize("options", CONFIGS)
def test_the_loss_is_the_papers_over_loops(options: dict[str, str]) -> None:
    temperature = 0.7 if options["loss"] == "tree" else None
    model = insertion(**options, tree_temperature=temperature, label_smoothing=0.0)
    batch = make_batch([(3, 6), (2, 1), (4, 5), (3, 2), (2, 0)])
    seen = set()
    for update in range(1, 4):
        partial, total, count = model.partial(batch, update), 0.0, 0
        for row in range(len(batch)):
            target = batch.target.tokens[row][batch.target.valid[row]].tolist()
            kept = [i for i in range(len(target)) if not partial.missing[row, i]]
            source = batch.source.select(torch.tensor([row])).to_lists()
            shown = Source.from_lists([[target[i] for i in kept]])
            with torch.no_grad():
                memory = model.net.encode(Source.from_lists(source))
                log_probs = table_of(model.contents(shown.tokens, shown.valid, memory))[0]
            edges, slots = [-1, *kept, len(target)], []
            for g, (left, right) in enumerate(itertools.pairwise(edges)):
                span = list(range(left + 1, right))
                if span:
                    slots.append(sum(weight(i, span, temperature) * log_probs[g, target[i]] for i in span))
                elif options["finalisation"] == "slot" or len(kept) == len(target):
                    slots.append(log_probs[g, EOS])
            total -= (len(target) + 1) * float(sum(slots)) / len(slots)
            count += len(target) + 1
            seen.add(len(target) - len(kept))
        terms = model.loss(batch, update=update)
        assert terms["insertion"].total.item() == pytest.approx(total, abs=1e-9)
        assert terms["insertion"].count == terms["nll"].count == count
        assert terms["nll"].total.item() == pytest.approx(total, abs=1e-9)
    assert {0, 1, 2, 4} <= seen


def test_a_slot_reads_the_states_on_its_two_sides_and_probabilities_are_of_all_slots() -> None:
    for distribution in ("joint", "factored"):
        model = insertion(distribution=distribution)
        batch = make_batch([(3, 4), (2, 2), (4, 1)])
        memory = model.net.encode(batch.source)
        with torch.no_grad():
            log_probs = table_of(model.contents(batch.target.tokens, batch.target.valid, memory))
        assert log_probs.shape == (3, 5, NUM_SYMBOLS + 13)
        assert log_probs.exp().sum(dim=(1, 2)).tolist() == pytest.approx([1.0] * 3)
        assert (log_probs[2, 2:] == -torch.inf).all()
        possible = [int(Symbol.UNK), EOS, *range(NUM_SYMBOLS, NUM_SYMBOLS + 13)]
        assert (log_probs[0] > -torch.inf).all(dim=0).nonzero().flatten().tolist() == possible


# --- decoding, by hand ------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(
    model: InsertionTransformer, ids: list[int], *, parallel: bool, whole: bool, penalty: float, limit: int
) -> tuple[list[int], float, int, bool]:
    """Over lists: tokens, score, passes, whether the limit cut it."""
    memory, score = model.net.encode(Source.from_lists([ids])), 0.0
    tokens: list[int] = []
    for passes in itertools.count(1):
        canvas = Source.from_lists([tokens])
        joint = table_of(model.contents(canvas.tokens, canvas.valid, memory))[0, : len(tokens) + 1]
        penalised = joint.clone()
        penalised[:, EOS] -= penalty
        given_slot = joint - joint.logsumexp(dim=1, keepdim=True)
        best = penalised.argmax(dim=1).tolist()
        wanted = [g for g, token in enumerate(best) if token != EOS]
        if not parallel:
            candidates = list(range(len(best))) if whole else wanted
            candidates = sorted(candidates, key=lambda g: -penalised[g, best[g]].item())[:1]
            wanted = [g for g in candidates if best[g] != EOS]
        if not wanted:
            ended = candidates if whole else range(len(best))
            return tokens, score + sum(given_slot[g, EOS].item() for g in ended), passes, False
        fitting = sorted(wanted, key=lambda g: -penalised[g, best[g]].item())[: limit - len(tokens)]
        score += sum(given_slot[g, best[g]].item() for g in fitting)
        tokens = [t for g in range(len(best)) for t in [best[g]] * (g in fitting) + tokens[g : g + 1]]
        if len(fitting) < len(wanted):
            ends = [g for g, token in enumerate(best) if token == EOS] if not whole else []
            return tokens, score + sum(given_slot[g, EOS].item() for g in ends), passes, True
    raise AssertionError


@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize(("parallel", "whole"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("distribution", ["joint", "factored"])
def test_decoding_is_the_papers_loop(distribution: str, parallel: bool, whole: bool, penalty: float) -> None:
    finalisation = "sequence" if whole else "slot"
    model = insertion(distribution=distribution, finalisation=finalisation, seed=2)
    tempt_to_end(model, 2.0)
    source = make_batch([(5, 1), (1, 1), (7, 1)]).source
    found = decode(model, source, parallel=parallel, end_penalty=penalty, **SHORT)
    for row, ids in enumerate(source.to_lists()):
        options: dict[str, Any] = {"parallel": parallel, "whole": whole, "penalty": penalty, "limit": len(ids) + 2}
        tokens, score, passes, cut = by_hand(model, ids, **options)
        assert found.tokens[row, 0][found.valid[row, 0]].tolist() == tokens
        assert found.scores[row, 0].item() == pytest.approx(score, abs=1e-6)
        assert found.passes[row] == passes
        assert found.truncated[row] == cut


def tempt_to_end(model: InsertionTransformer, by: float) -> None:
    """An untrained model inserts nearly everywhere; here the end is more probable."""
    with torch.no_grad():
        model.net.output.bias[EOS] = by


def test_a_penalty_on_the_end_lengthens() -> None:
    model, source = insertion(seed=1), make_batch([(s, 1) for s in range(2, 10)]).source
    tempt_to_end(model, 4.0)
    lengths = [decode(model, source, end_penalty=beta).valid.sum().item() for beta in (0.0, 2.0, 8.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_history_tells_what_was_inserted_when() -> None:
    model, source = insertion(seed=1), make_batch([(5, 1), (2, 1), (7, 1)]).source
    tempt_to_end(model, 2.0)
    found = decode(model, source, history=True, end_penalty=1.0, **SHORT)
    (history,) = found.history
    assert set(history.fate.unique().tolist()) <= {int(f) for f in (Fate.NONE, Fate.KEPT, Fate.INSERTED)}
    for row in range(len(source)):
        before: list[int] = []
        for number in range(int(found.passes[row])):
            fate, tokens = history.fate[row, number], history.tokens[row, number]
            assert tokens[fate == Fate.KEPT].tolist() == before
            before = tokens[fate != Fate.NONE].tolist()
        assert before == found.tokens[row, 0][found.valid[row, 0]].tolist()
    assert (history.fate == Fate.INSERTED).any()


def test_too_few_passes_are_reported() -> None:
    model, source = insertion(), make_batch([(5, 1), (2, 1)]).source
    found = decode(model, source, max_passes=2, parallel=False)
    assert found.truncated.all()
    assert found.passes.tolist() == found.valid.sum(dim=2).flatten().tolist() == [2, 2]


# --- drafts and phrases -----------------------------------------------------------------------------


def holds(tokens: list[int], phrase: list[int]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens) - len(phrase) + 1))


@pytest.mark.parametrize("mode", [{}, {"parallel": False}, {"temperature": 1.5, "num_candidates": 2}])
def test_constraints_and_drafts_are_kept_in_random_cases(mode: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = 24

    def some(number: int) -> list[int]:
        return torch.randint(NUM_SYMBOLS, NUM_SYMBOLS + 13, (number,), generator=generator).tolist()

    phrases = [[some(1 + (i + c) % 3) for c in range(i % 4)] for i in range(rows)]
    drafts = [some(i % 5) for i in range(rows)]
    source = make_batch([(1 + i % 6, 1) for i in range(rows)]).source
    model = insertion(seed=3)
    tempt_to_end(model, 3.0)
    longer = 0
    for draft in (None, draft_of(drafts)):
        asked = replace(source, phrases=phrases_of(phrases), draft=draft)
        found = decode(model, asked, orders=4, max_length_offset=5, **mode)
        for candidate in range(found.tokens.size(1)):
            for row in range(rows):
                tokens = found.tokens[row, candidate][found.valid[row, candidate]].tolist()
                assert all(holds(tokens, phrase) for phrase in phrases[row])
                rest = iter(tokens)
                assert draft is None or all(token in rest for token in drafts[row])
                longer += len(tokens) > len(drafts[row]) + sum(map(len, phrases[row]))
    assert longer > rows


def test_given_tokens_are_scored_as_what_their_slots_would_get_without_them() -> None:
    model = insertion(seed=2)
    tempt_to_end(model, 7.0)
    source = make_batch([(5, 1), (3, 1), (4, 1)]).source
    drafts = [[9, 10, 15], [], [11]]
    found = decode(model, replace(source, draft=draft_of(drafts)), history=True)
    assert not found.truncated.any()
    (history,) = found.history
    for row, (ids, tokens) in enumerate(zip(source.to_lists(), outputs(found), strict=True)):
        memory = model.net.encode(Source.from_lists([ids]))

        def log_probs(tokens: list[int], memory: Memory = memory) -> Tensor:
            canvas = Source.from_lists([tokens])
            with torch.no_grad():
                joint = table_of(model.contents(canvas.tokens, canvas.valid, memory))
                return joint[0, : len(tokens) + 1].log_softmax(dim=1)

        last = history.fate[row].any(dim=1).nonzero().max() if tokens else 0
        written = history.confidence[row, last][: len(tokens)]
        score = written.sum() + log_probs(tokens)[:, EOS].sum()
        assert [token for token, c in zip(tokens, written.tolist(), strict=True) if c == 0] == drafts[row]
        for parity in (0, 1):
            left = [t for i, t in enumerate(tokens) if written[i] != 0 or i % 2 != parity]
            said, slot = log_probs(left), 0
            for i, token in enumerate(tokens):
                if written[i] == 0 and i % 2 == parity:
                    score += said[slot, token]
                else:
                    slot += 1
        assert found.scores[row, 0].item() == pytest.approx(score.item(), abs=1e-5)
    alone = decode(model, source)
    assert found.passes[1] == alone.passes[1]  # from nothing, no calls that score
    with_limit = decode(model, replace(source, draft=draft_of(drafts)), max_passes=1)
    assert with_limit.passes.tolist() == [3, 1, 3]


def test_the_order_of_the_phrases_with_the_best_decisions_is_chosen() -> None:
    model = insertion(seed=2)
    tempt_to_end(model, 7.0)
    source = make_batch([(s, 1) for s in range(2, 8)]).source
    found = decode(model, replace(source, phrases=phrases_of([[[9, 10], [15]]] * len(source))))
    means = []
    for tokens, inner in (([9, 10, 15], 1), ([15, 9, 10], 2)):
        draft = draft_of([tokens] * len(source))
        draft.closed[:, inner] = True
        alone = decode(model, replace(source, draft=draft))
        assert not alone.truncated.any()
        lengths = alone.valid.sum(dim=2)[:, 0]
        means.append(alone.scores[:, 0] / (lengths + lengths))  # tokens, and ends of n + 1 gaps but one
    best = torch.stack(means).argmax(dim=0).tolist()
    first = [holds([t for t in tokens if t in (9, 10, 15)], [9, 10, 15]) for tokens in outputs(found)]
    assert [0 if is_first else 1 for is_first in first] == best
    assert set(best) == {0, 1}


# --- learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CONFIGS)
def test_it_learns_in_every_mode(options: dict[str, str]) -> None:
    """Targets without a token twice: of two equal ones it could not tell which it sees."""
    sources, targets = formula_rows([4, 3, 5], 5), [[8, 12, 10, 15], [9, 7], [11, 16, 13]]
    batch = pair_batch(sources, targets)
    size = {"dim": 32, "num_heads": 2, "ffn_dim": 32}
    model = insertion(dtype=torch.float32, size=size, label_smoothing=0.0, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    modes = [False] if options["finalisation"] == "sequence" else [True, False]
    for update in range(1, 301):
        loss: Tensor = objective(model.loss(batch, update=update), int(batch.num_target_tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 20 == 0 and all(outputs(decode(model, batch.source, parallel=mode)) == targets for mode in modes):
            return
    raise AssertionError([outputs(decode(model, batch.source, parallel=mode)) for mode in modes])
