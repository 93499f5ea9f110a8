"""Decoding by insertion with oracles that know the sequence, and with random distributions against what is fixed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from builders import draft_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import contents_of, joint_log_probs
from torch import Tensor

from nat.data.batch import Phrases, Source
from nat.models.contract import Translation
from nat.models.options import SampleOptions
from nat.nn.rng import RowRandom
from nat.ops.editing import gaps
from nat.ops.insertion import shortened
from nat.rows import Rows
from nat.search.canvas import Canvas, Fate
from nat.search.editing import GIVEN, empty, start
from nat.search.insertion import Contents, Finalisation, InsertionRule, Texts, insert_until_complete
from nat.search.refine import History, Refined

END = 3
FIRST = 7  # of the ordinary tokens
PARALLEL = InsertionRule(True, Finalisation.SLOT, END)
GREEDY = InsertionRule(False, Finalisation.SLOT, END)
SEQUENCE = InsertionRule(False, Finalisation.SEQUENCE, END)
MANY = settings(deadline=None, max_examples=15)


class Memory(Rows):
    """Nothing but the rows' numbers."""


def memory_of(lengths: Tensor) -> RowRandom:
    return RowRandom(lengths)  # some Rows of one tensor: the target's length


def nothing(rows: int) -> Canvas:
    return empty(Source.from_lists([[20]] * rows))


def oracle(choice: Callable[[Tensor, Tensor], Tensor], *, whole: bool = False) -> Callable[[Canvas, RowRandom], Tensor]:
    """log p(c, l) of one that knows the target FIRST, FIRST + 1, ... of `memory.keys` tokens: `choice` of the first and
    last missing position is what it would insert, END where nothing is missing. whole: END only where all is there."""

    def log_probs(canvas: Canvas, memory: RowRandom) -> Tensor:
        width = int(memory.keys.max())
        valid = torch.arange(width) < memory.keys[:, None]
        shown = torch.zeros(len(canvas), width + 1, dtype=torch.bool)
        shown.scatter_(1, (canvas.tokens - FIRST).where(canvas.valid, width), True)
        partial = shortened(shown[:, :width], valid)
        wanted = choice(partial.first, partial.last) + FIRST
        sure = partial.filled | (~partial.missing.any(dim=1, keepdim=True) if whole else partial.slots)
        wanted = wanted.where(partial.filled, END)
        width = canvas.valid.size(1) + 1
        logits = torch.zeros(len(canvas), width, FIRST + valid.size(1))
        logits.scatter_(2, wanted[:, :width, None], 9.0 * sure[:, :width, None])
        return joint_log_probs(logits, gaps(canvas.valid))

    return log_probs


def centre(first: Tensor, last: Tensor) -> Tensor:
    return (first + last) // 2


def decode(
    log_probs: Callable[[Canvas, RowRandom], Tensor],
    canvas: Canvas,
    memory: RowRandom,
    rule: InsertionRule,
    *,
    limit: int = 5000,
    max_passes: int = 5000,
    random: RowRandom | None = None,
) -> Refined[Texts]:
    def of_texts(texts: Texts, memory: RowRandom) -> list[Contents]:
        (canvas,) = texts.canvases
        return [contents_of(log_probs(canvas, memory), gaps(canvas.valid))]

    return insert_until_complete(
        of_texts,
        Texts.of(canvas),
        memory,
        scorer=of_texts,
        rule=rule,
        limits=torch.full((len(canvas), 1), limit),
        random=random,
        max_passes=max_passes,
        history=True,
    )


def text(found: Refined[Texts]) -> Canvas:
    return found.canvas.canvases[0]


def history_of(found: Refined[Texts]) -> History:
    history = found.history(lambda before, after: after.canvases[0])
    assert history is not None
    return history


def lists(canvas: Canvas) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(canvas.tokens, canvas.valid, strict=True)]


# --- oracles ----------------------------------------------------------------------------------------


def test_a_tree_in_parallel_needs_floor_log2_of_n_plus_1_inserting_passes() -> None:
    for lengths in (torch.arange(1, 41), torch.tensor([63, 64, 127, 128]), torch.tensor([1023])):
        found = decode(oracle(centre), nothing(len(lengths)), memory_of(lengths), PARALLEL)
        assert lists(text(found)) == [list(range(FIRST, FIRST + n)) for n in lengths.tolist()]
        inserting = [int(math.log2(n)) + 1 for n in lengths.tolist()]
        assert found.calls.tolist() == [n + 1 for n in inserting]  # and one that finds nothing more to insert
        assert found.finished.all()
        assert not found.canvas.cut.any()
        new = (history_of(found).fate == Fate.INSERTED).any(dim=2).sum(dim=1)
        assert new.tolist() == inserting


@pytest.mark.parametrize("rule", [GREEDY, SEQUENCE])
def test_one_at_a_time_needs_as_many_passes_as_tokens_and_one(rule: InsertionRule) -> None:
    lengths = torch.arange(1, 12)
    found = decode(oracle(centre, whole=rule is SEQUENCE), nothing(len(lengths)), memory_of(lengths), rule)
    assert lists(text(found)) == [list(range(FIRST, FIRST + n)) for n in lengths.tolist()]
    assert found.calls.tolist() == [n + 1 for n in lengths.tolist()]
    new = (history_of(found).fate == Fate.INSERTED).sum(dim=2)
    assert all(row[:n].eq(1).all() and row[n:].eq(0).all() for row, n in zip(new, lengths.tolist(), strict=True))


@MANY
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2), st.sampled_from([PARALLEL, GREEDY]))
def test_whatever_missing_token_an_oracle_prefers_it_gives_its_sequence(
    lengths: list[int], kind: int, rule: InsertionRule
) -> None:
    ways = [lambda first, last: first, lambda first, last: last, lambda first, last: (2 * first + last) // 3]
    found = decode(oracle(ways[kind]), nothing(len(lengths)), memory_of(torch.tensor(lengths)), rule)
    assert lists(text(found)) == [list(range(FIRST, FIRST + n)) for n in lengths]
    if kind < 2 or rule is GREEDY:  # from one end, every pass has one slot to fill
        assert found.calls.tolist() == [n + 1 for n in lengths]


def test_it_goes_on_from_a_draft() -> None:
    shown = [[FIRST + 2, FIRST + 5], [], [FIRST]]
    draft = draft_of(shown)
    canvas = start(replace(Source.from_lists([[20]] * 3), draft=draft))
    lengths = torch.tensor([6, 3, 1])
    found = decode(oracle(centre), canvas, memory_of(lengths), PARALLEL)
    assert lists(text(found)) == [list(range(FIRST, FIRST + n)) for n in lengths.tolist()]
    assert found.calls.tolist() == [5, 3, 3]  # two that score the draft
    assert text(found).positions[GIVEN].sum(dim=1).tolist() == [2, 0, 1]


# --- what is chosen ---------------------------------------------------------------------------------

TABLE = torch.tensor([[[0.0, 0.05, 0.30, 0.25], [0.0, 0.15, 0.05, 0.20]]]).log()  # (1, 2 slots, V = 4), END the last


def one_token() -> Canvas:
    return start(replace(Source.from_lists([[20]]), draft=draft_of([[1]])))


def table(canvas: Canvas, memory: RowRandom) -> Tensor:
    """Of one token; of more, all end."""
    ended = (
        torch.full((1, 1, 4), 0.01).index_fill(2, torch.tensor([END]), 0.97).expand(-1, canvas.valid.size(1) + 1, -1)
    )
    return TABLE if canvas.lengths.max() == 1 else ended.log()


def test_slots_that_would_rather_end_are_left_aside() -> None:
    memory = memory_of(torch.tensor([1]))
    for rule in (PARALLEL, GREEDY):
        found = decode(table, one_token(), memory, rule)
        assert lists(text(found)) == [[2, 1]]
        assert text(found).scores[0, 0].exp().item() == pytest.approx(0.30 / 0.60)  # of the token in its slot
        assert text(found).scores[0, 1].exp().item() == pytest.approx(0.15 / 0.40)  # of the given one, taken out
        assert found.canvas.num_ends.tolist() == [3]


def test_a_penalty_on_the_end_inserts_more_and_leaves_the_scores() -> None:
    memory, penalty = memory_of(torch.tensor([1])), math.log(0.20 / 0.15)
    for beta, expected in ((0.99 * penalty, [2, 1]), (1.01 * penalty, [2, 1, 1])):
        found = decode(table, one_token(), memory, replace(PARALLEL, end_penalty=beta))
        assert lists(text(found)) == [expected]
    assert text(found).scores[0, 2].exp().item() == pytest.approx(0.15 / 0.40)
    ends = found.canvas.end_scores.item()
    assert ends == pytest.approx(4 * math.log(0.97), abs=1e-4)  # not lowered by the penalty


def test_one_insertion_ends_a_sequence() -> None:
    memory = memory_of(torch.tensor([1]))
    assert lists(text(decode(table, one_token(), memory, SEQUENCE))) == [[2, 1]]
    tempting = TABLE.clone()
    tempting[0, 1, END] = math.log(0.31)
    ended = decode(lambda canvas, memory: tempting, one_token(), memory, SEQUENCE)
    assert lists(text(ended)) == [[1]]
    assert ended.canvas.num_ends.tolist() == [1]
    penalised = decode(table, one_token(), memory, replace(SEQUENCE, end_penalty=0.1))
    assert lists(text(penalised)) == [[2, 1]]


def test_the_limit_keeps_the_most_probable_insertions() -> None:
    both = replace(PARALLEL, end_penalty=5.0)
    found = decode(table, one_token(), memory_of(torch.tensor([1])), both, limit=2)
    assert lists(text(found)) == [[2, 1]]
    assert found.canvas.cut.tolist() == [True]
    assert found.calls.tolist() == [3]
    full = decode(oracle(centre), nothing(2), memory_of(torch.tensor([3, 4])), PARALLEL, limit=3)
    assert full.canvas.cut.tolist() == [False, True]
    assert full.canvas.lengths.tolist() == [3, 3]
    few = decode(oracle(centre), nothing(2), memory_of(torch.tensor([1, 4])), PARALLEL, max_passes=2)
    assert few.finished.tolist() == [True, False]


def test_samples_follow_the_tempered_probabilities() -> None:
    number = 4000
    random = RowRandom(torch.arange(number)).fork(7)
    canvas = Texts.of(one_token()).repeat_rows(number)
    contents = [contents_of(TABLE.expand(number, -1, -1), gaps(canvas.canvases[0].valid))]
    for temperature in (1.0, 0.5):
        p = (TABLE[0] / temperature).softmax(dim=1)
        drawn = replace(PARALLEL, temperature=temperature).choose(contents, canvas, random)
        for slot in range(2):
            share = drawn.tokens[:, slot].bincount(minlength=4) / number
            assert torch.allclose(share, p[slot], atol=0.04)
        assert torch.equal(drawn.insert, drawn.tokens != END)
        one = replace(GREEDY, temperature=temperature).choose(contents, canvas, random)
        both = (one.tokens != END).all(dim=1)
        where = (TABLE[0].logsumexp(dim=1) / temperature).softmax(dim=0)
        assert torch.allclose(one.insert[both].float().mean(dim=0), where, atol=0.06)
        assert (one.insert.sum(dim=1) == (one.tokens != END).any(dim=1)).all()
        last = replace(SEQUENCE, temperature=temperature).choose(contents, canvas, random)
        assert ((last.insert | last.ends).sum(dim=1) == 1).all()
        assert torch.allclose((last.insert | last.ends).float().mean(dim=0), where, atol=0.04)


# --- what is fixed ----------------------------------------------------------------------------------


def random_log_probs(seed: int) -> Callable[[Canvas, RowRandom], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def log_probs(canvas: Canvas, memory: RowRandom) -> Tensor:
        logits = 3 * torch.randn(len(canvas), canvas.valid.size(1) + 1, 20, generator=generator)
        logits[:, :, :FIRST] = -torch.inf
        logits[:, :, END] = 4.0
        return joint_log_probs(logits, gaps(canvas.valid))

    return log_probs


TOKENS = st.lists(st.integers(FIRST, 19), max_size=5)
CASE = st.tuples(TOKENS, st.lists(st.booleans(), min_size=6, max_size=6), st.lists(TOKENS.filter(bool), max_size=3))


@MANY
@given(
    st.lists(CASE, min_size=1, max_size=3),
    st.integers(0, 1000),
    st.sampled_from(
        [PARALLEL, GREEDY, SEQUENCE, replace(PARALLEL, temperature=1.0), replace(SEQUENCE, temperature=2.0)]
    ),
    st.integers(0, 12),
)
def test_drafts_and_phrases_stay_and_closed_gaps_stay_closed(
    cases: list[tuple[list[int], list[bool], list[list[int]]]], seed: int, rule: InsertionRule, limit: int
) -> None:
    draft = draft_of([tokens for tokens, _, _ in cases])
    for row, (tokens, closed, _) in enumerate(cases):
        draft.closed[row, : len(tokens) + 1] = torch.tensor(closed[: len(tokens) + 1])
    width = max(len(phrases) for *_, phrases in cases)
    phrases = torch.zeros(len(cases), max(1, width), 5, dtype=torch.long)
    for row, (*_, given_phrases) in enumerate(cases):
        for c, phrase in enumerate(given_phrases):
            phrases[row, c, : len(phrase)] = torch.tensor(phrase)
    source = replace(Source.from_lists([[20]] * len(cases)), draft=draft, phrases=Phrases(phrases, phrases > 0))
    canvas, random = start(source), RowRandom(torch.arange(len(cases))).fork(seed)
    found = decode(random_log_probs(seed), canvas, random, rule, limit=limit, max_passes=6, random=random)
    for row, (before, after) in enumerate(zip(lists(canvas), lists(text(found)), strict=True)):
        assert len(after) <= max(limit, len(before))
        assert text(found).positions[GIVEN][row].sum() == len(before)
        old = iter(after)
        assert all(token in old for token in before)
        words = f" {' '.join(map(str, after))} "
        for phrase in cases[row][2]:
            assert f" {' '.join(map(str, phrase))} " in words
        if not canvas.open_gaps[row].any():
            assert after == before


def test_closed_gaps_are_never_filled_even_where_they_are_the_most_probable() -> None:
    draft = draft_of([[8, 9]])
    draft.closed[0, 1] = True
    canvas = start(replace(Source.from_lists([[20]]), draft=draft))

    def eager(canvas: Canvas, memory: RowRandom) -> Tensor:
        logits = torch.zeros(1, canvas.valid.size(1) + 2, 12)
        inside = [*canvas.tokens[0].tolist(), 9].index(9)
        logits[0, inside, 11] = 50.0
        return joint_log_probs(logits[:, :-1].index_fill(2, torch.tensor([10]), 1.0), gaps(canvas.valid))

    for rule in (PARALLEL, GREEDY, SEQUENCE):
        (tokens,) = lists(text(decode(eager, canvas, memory_of(torch.tensor([1])), rule, limit=6)))
        assert 11 not in tokens
        assert tokens[tokens.index(8) + 1] == 9


# --- order ------------------------------------------------------------------------------------------


def test_the_best_of_the_copies_is_first_by_the_mean_over_decisions() -> None:
    found = decode(oracle(centre), nothing(4), memory_of(torch.tensor([2, 2, 3, 3])), PARALLEL)
    ends = {"end_scores": torch.tensor([-3.0, -1.0, -1.0, -1.1]), "num_ends": torch.tensor([3, 3, 4, 40])}
    texts = replace(found.canvas, **ends)
    refined = replace(found, canvas=texts)
    best = Translation.of_insertions(refined, 0, copies=2, decoding=SampleOptions())
    both = [(text(found).scores.sum(dim=1) + texts.end_scores)[[2 * row, 2 * row + 1]].tolist() for row in range(2)]
    assert best.scores.squeeze(1).tolist() == pytest.approx([both[0][1], both[1][1]])
    samples = Translation.of_insertions(
        refined, 0, copies=2, decoding=SampleOptions(num_candidates=2, temperature=1.0, history=True)
    )
    assert samples.scores.tolist() == [pytest.approx(pair) for pair in both]
    assert [len(history) for history in samples.history] == [2, 2]


def test_drawn_numbers_are_the_rows_own() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    random = RowRandom(torch.arange(50)).fork(1)
    rule = replace(PARALLEL, temperature=1.0)
    canvas = Texts.of(one_token()).repeat_rows(50)
    slots = gaps(canvas.canvases[0].valid)
    together = rule.choose([contents_of(TABLE.expand(50, -1, -1), slots)], canvas, random).tokens
    for row in range(50):
        index = torch.tensor([row])
        contents = [contents_of(TABLE, slots[:1])]
        alone = rule.choose(contents, canvas.select(index), random.select(index)).tokens
        assert torch.equal(alone[0], together[row])
        counts[tuple(alone[0].tolist())] += 1
    assert len(counts) > 3


def test_the_mean_score_is_over_tokens_and_ends() -> None:
    source = Source.from_lists([[9]])
    canvas = replace(
        start(replace(source, draft=draft_of([[9] * 5]))),
        scores=torch.tensor([[-1.0, -1.0, -2.0, -3.0, -3.0]]),
    )
    texts = replace(Texts.of(canvas), end_scores=torch.tensor([-4.0]), num_ends=torch.tensor([2]))
    assert texts.means(0).tolist() == [-2.0]
