"""KERMIT: which slots learn in which task, and what one checkpoint can do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import make_batch, make_model, pair_batch, phrases_of
from oracles import rows_of
from torch import Tensor

from nat.config import parse
from nat.data.batch import Batch, Draft, Phrases, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.kermit import Direction, Kermit, Task, TaskShares, gapped, whole
from nat.nn.joint import Segment, Side
from nat.nn.rng import RowRandom
from nat.search.canvas import Fate
from nat.search.insertion import Contents, Texts
from nat.training.objective import objective

EOS = int(Symbol.EOS)
SEPARATE = Vocabularies(NUM_SYMBOLS + 9, NUM_SYMBOLS + 14, shared=False)
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 6)])


def kermit(**options: Any) -> Kermit:
    model = make_model("kermit", **({"dtype": torch.float64} | options))
    assert isinstance(model, Kermit)
    return model


def only(task: Task) -> dict[str, float]:
    return {other.name.lower(): float(other is task) for other in Task}


def outputs(found: Translation, candidate: int = 0) -> list[list[int]]:
    return [ids[candidate][keep[candidate]].tolist() for ids, keep in zip(found.tokens, found.valid, strict=True)]


@torch.no_grad()
def decode(model: Kermit, source: Source, *, backward: bool = False, **options: Any) -> Translation:
    direction = Direction.BACKWARD if backward else Direction.FORWARD
    return model.decode(source, decoding=Kermit.Decoding(direction=direction, **options))


@torch.no_grad()
def fill(
    model: Kermit, source: Draft, target: Draft, *, nonempty: bool = False, **options: Any
) -> tuple[Translation, Translation]:
    return model.fill(source, target, decoding=Kermit.Decoding(**options), nonempty=nonempty)


# --- tasks ------------------------------------------------------------------------------------------

LEARNS = {  # task -> is the source written, the target; is the source present, the target
    Task.JOINT: (True, True, True, True),
    Task.FORWARD: (False, True, True, True),
    Task.BACKWARD: (True, False, True, True),
    Task.SOURCE: (True, False, True, False),
    Task.TARGET: (False, True, False, True),
}


@pytest.mark.parametrize("task", Task)
def test_what_is_shown_missing_and_learnt_in_each_task(task: Task) -> None:
    model, sides = kermit(), (BATCH.source, BATCH.target)
    *written, left_present, right_present = LEARNS[task]
    sizes = []
    for seed in range(40):
        random = RowRandom.of((BATCH.source.tokens, BATCH.source.valid), seed=seed)
        lesson = model.lesson(BATCH, torch.full((len(BATCH),), int(task)), random)
        assert [part.present.unique().tolist() for part in lesson.shown] == [[left_present], [right_present]]
        for side in Side:
            partial, ends = lesson.partials[side], lesson.ends[side]
            shown = Target(lesson.shown[side].tokens, lesson.shown[side].valid).to_lists()
            if written[side]:
                assert torch.equal(ends, partial.slots & ~partial.filled)
                for row, ids in enumerate(sides[side].to_lists()):
                    missing = partial.missing[row, : len(ids)].tolist()
                    assert shown[row] == [token for token, gone in zip(ids, missing, strict=True) if not gone]
            else:  # whole, and no slot of it learns
                assert shown == sides[side].to_lists()
                assert not partial.missing.any() and not partial.filled.any() and not ends.any()
        removable = sum(written[side] * sides[side].lengths for side in Side)
        assert torch.equal(lesson.states, removable + 1)
        sizes.append(sum(part.missing.sum(dim=1) for part in lesson.partials))
    assert torch.stack(sizes).amin(dim=0).tolist() == [0] * len(BATCH)
    assert torch.equal(torch.stack(sizes)[:, :2].amax(dim=0), removable[:2])


def test_of_a_pair_the_number_of_missing_tokens_is_uniform_over_both_sides() -> None:
    number = 4000
    tokens = torch.arange(number)[:, None] % 13 + NUM_SYMBOLS
    source, target = tokens.expand(-1, 2), torch.arange(number)[:, None] // 13 % 13 + NUM_SYMBOLS
    batch = Batch(Source(source, source > 0), Target(target, target > 0))
    random = RowRandom(torch.arange(number)).fork(0)
    lesson = kermit().lesson(batch, torch.zeros(number, dtype=torch.long), random)
    missing = torch.cat([part.missing for part in lesson.partials], dim=1)
    share = missing.sum(dim=1).bincount(minlength=4) / number
    assert torch.allclose(share, torch.full((4,), 0.25), atol=0.03)
    one = missing[missing.sum(dim=1) == 1].float().mean(dim=0)
    assert torch.allclose(one, torch.full((3,), 1 / 3), atol=0.05)


def test_tasks_are_drawn_by_their_shares() -> None:
    shares = TaskShares(joint=2.0, forward=1.0, backward=0.0, source=0.5, target=0.5)
    drawn = shares.draw(RowRandom(torch.arange(4000)))
    assert torch.allclose(drawn.bincount(minlength=5) / 4000, torch.tensor([0.5, 0.25, 0.0, 0.125, 0.125]), atol=0.03)
    assert (TaskShares(**only(Task.TARGET)).draw(RowRandom(torch.arange(50))) == Task.TARGET).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tasks": dict.fromkeys(only(Task.JOINT), 0.0)},
            "model.tasks.joint=0.0: at least one share must be more than",
        ),
        ({"tasks": {"joint": -1.0}}, "model.tasks.joint=-1.0: must be at least 0"),
        ({"tasks": {"reverse": 1.0}}, "model.tasks.reverse: no such option"),
        ({"loss": "uniform", "tree_temperature": 1.0}, "model.tree_temperature=1.0: has no effect without loss=tree"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        kermit(**options)
    assert str(error.value).startswith(message)


# --- loss -------------------------------------------------------------------------------------------


def by_hand(model: Kermit, batch: Batch, task: Task, update: int) -> float:
    """The uniform loss of one pair, over lists and slot by slot."""
    (row,) = rows_of(batch)
    random = RowRandom.of((row.source.tokens, row.source.valid), (row.target.tokens, row.target.valid), seed=update)
    lesson = model.lesson(row, torch.tensor([int(task)]), random.fork(1))
    slots, losses = model.net(*lesson.shown), []
    for side, whole_side in zip(Side, (row.source, row.target), strict=True):
        if not LEARNS[task][side]:
            continue
        log_probs = model.net.logits(slots[side], side)[0].log_softmax(dim=1)
        spans: list[list[int]] = [[]]
        for token, gone in zip(whole_side.to_lists()[0], lesson.partials[side].missing[0].tolist(), strict=True):
            if gone:
                spans[-1].append(token)
            else:
                spans.append([])
        for slot, span in enumerate(spans):
            wanted = span or [EOS]
            losses.append(-sum(log_probs[slot, token].item() for token in wanted) / len(wanted))
    return sum(losses) / len(losses) * lesson.states.item()


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("vocabularies", [None, SEPARATE])
def test_the_loss_is_that_of_every_slot_by_hand(task: Task, vocabularies: Vocabularies | None) -> None:
    options: dict[str, Any] = {} if vocabularies is None else {"vocabularies": vocabularies}
    batch = make_batch([(4, 5)], **options)
    model = kermit(tasks=only(task), loss="uniform", label_smoothing=0.0, **options)
    for update in range(4):
        terms = model.loss(batch, update=update)
        assert terms["insertion"].total.item() == pytest.approx(by_hand(model, batch, task, update))
        assert terms["nll"].total.item() == pytest.approx(terms["insertion"].total.item())


@pytest.mark.parametrize(("task", "side"), [(Task.FORWARD, Side.SOURCE), (Task.BACKWARD, Side.TARGET)])
def test_nothing_is_learnt_of_slots_of_a_given_side(task: Task, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = kermit(tasks=only(task)), {}
    original = model.net.logits

    def spy(slots: Tensor, of: Side) -> Tensor:
        seen[of] = original(slots, of)
        seen[of].retain_grad()
        return seen[of]

    monkeypatch.setattr(model.net, "logits", spy)
    model.loss(BATCH, update=1)["insertion"].total.backward()
    assert (seen[side].grad == 0).all()
    assert (seen[Side(1 - side)].grad != 0).any()


@pytest.mark.parametrize("task", Task)
def test_a_row_of_any_task_learns_alone_what_it_learns_in_a_batch(task: Task) -> None:
    model = kermit(tasks=only(task))
    together = model.loss(BATCH, update=5)["insertion"]
    alone = [model.loss(row, update=5)["insertion"] for row in rows_of(BATCH)]
    assert together.total.item() == pytest.approx(sum(term.total.item() for term in alone), abs=1e-9)
    assert together.count == sum(term.count for term in alone)


# --- decoding ---------------------------------------------------------------------------------------


def test_backward_is_reverse_and_speaks_the_source_vocabulary() -> None:
    model = kermit(vocabularies=SEPARATE, seed=2)
    source = Source.from_lists([[SEPARATE.target_size - 1, 9, 10], [8], [SEPARATE.target_size - 2] * 6])
    options: dict[str, Any] = {"temperature": 2.0, "max_length_offset": 6, "num_candidates": 4}
    found = decode(model, source, backward=True, **options)
    assert found.valid.any() and int(found.tokens.max()) < SEPARATE.source_size
    for row, ids in enumerate(source.to_lists()):
        alone = decode(model, Source.from_lists([ids]), backward=True, **options)
        assert [outputs(alone, k)[0] for k in range(4)] == [outputs(found, k)[row] for k in range(4)]
        assert torch.allclose(alone.scores[0], found.scores[row])
    assert Kermit.Decoding(direction=Direction.BACKWARD).reverse and not Kermit.Decoding().reverse
    assert parse(Kermit.Decoding, {"direction": "backward"}).reverse


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_is_ever_inserted_into_the_given_side(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = kermit(seed=1), []
    side = Side.TARGET if backward else Side.SOURCE
    original = model.contents

    def spy(texts: Texts, sides: list[Side], **options: Any) -> list[Contents | None]:
        given.append(Target(texts.canvases[side].tokens, texts.canvases[side].valid).to_lists())
        found = original(texts, sides, **options)
        for contents in found:
            if contents is not None:
                contents.logits[:, EOS] -= 3.0  # eager to insert
        return found

    monkeypatch.setattr(model, "contents", spy)
    rows = BATCH.source.to_lists()
    found = decode(model, BATCH.source, backward=backward, history=True, max_length_offset=9)
    assert len(given) > 1 and given[0] == rows
    assert all(row in rows for rows_of_pass in given for row in rows_of_pass)
    (history,) = found.history
    last = (history.fate != Fate.NONE).any(dim=2).sum(dim=1) - 1
    final = history.tokens[torch.arange(len(last)), last]
    assert [[t for t in row if t] for row in final.tolist()] == outputs(found)
    assert [len(ids) for ids in outputs(found)] == [2 * len(row) + 9 for row in rows]
    assert found.truncated.all()


def test_decode_is_fill_with_one_side_closed() -> None:
    model = kermit(seed=3)
    nothing = gapped([[]] * len(BATCH), [[0]] * len(BATCH))
    options: dict[str, Any] = {"max_length_offset": 4, "end_penalty": 0.5}
    for parallel, backward in itertools.product((True, False), (True, False)):
        decoded = decode(model, BATCH.source, backward=backward, parallel=parallel, **options)
        given = whole(BATCH.source)
        pair = fill(model, *((nothing, given) if backward else (given, nothing)), parallel=parallel, **options)
        assert outputs(pair[0 if backward else 1]) == outputs(decoded)
        assert outputs(pair[1 if backward else 0]) == BATCH.source.to_lists()
        assert torch.equal(pair[0].passes, decoded.passes)
        assert torch.allclose(pair[0].scores, decoded.scores)
        assert torch.equal(pair[0].scores, pair[1].scores)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("nonempty", [True, False])
def test_infilling_fills_open_gaps_alone(parallel: bool, nonempty: bool) -> None:
    """Random gaps of both sides; fixed tokens are 7, 8, 9, in order, and never produced."""
    model, generator = kermit(seed=4), torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.net.source_output.bias[[7, 8, 9]] = -torch.inf
        model.net.target_output.bias[[7, 8, 9]] = -torch.inf
    rows = [[7, 8, 9][: i % 4] for i in range(12)]
    chosen = [
        [[g for g in range(len(row) + 1) if torch.rand((), generator=generator) < 0.5] for row in rows] for _ in Side
    ]
    drafts = [gapped(rows, chosen[side]) for side in Side]
    found = fill(model, *drafts, nonempty=nonempty, parallel=parallel, temperature=1.5, max_length_offset=4, seed=1)
    inserted = 0
    for side in Side:
        for row, open_gaps, ids in zip(rows, chosen[side], outputs(found[side]), strict=True):
            filled: list[list[int]] = [[]]
            for token in ids:
                if token in (7, 8, 9):
                    filled.append([])
                else:
                    filled[-1].append(token)
            assert [token for token in ids if token in (7, 8, 9)] == row
            assert all(not span for gap, span in enumerate(filled) if gap not in open_gaps)
            inserted += sum(map(len, filled))
            if nonempty and not found[0].truncated.any():
                assert all(filled[gap] for gap in open_gaps)
    assert inserted > 0


def test_fill_gives_pairs_that_belong_together_and_do_not_depend_on_the_batch() -> None:
    model = kermit(seed=5)
    drafts = gapped([[], [7], [8, 9]], [[0], [0], [1]]), gapped([[10, 11], [], []], [[1], [0], [0]])
    options: dict[str, Any] = {"temperature": 1.0, "num_candidates": 3, "max_length_offset": 5}
    together = fill(model, *drafts, **options)
    for row in range(3):
        alone = fill(model, *(draft.select(torch.tensor([row])) for draft in drafts), **options)
        for side, k in itertools.product(Side, range(3)):
            assert outputs(alone[side], k)[0] == outputs(together[side], k)[row]
    assert torch.allclose(together[0].scores, together[1].scores)
    with pytest.raises(ConfigError, match="direction=backward: has no effect on fill"):
        fill(model, *drafts, direction=Direction.BACKWARD)


def test_drafts_and_phrases_are_of_the_written_side() -> None:
    model = kermit(seed=6)
    phrases = Phrases(torch.tensor([[[11, 12], [10, 0]]]), torch.tensor([[[True, True], [True, False]]]))
    draft = gapped([[13, 14]], [[1]])
    for backward in (False, True):
        source = Source.from_lists([[7, 8, 9]])
        ids = outputs(decode(model, Source(source.tokens, source.valid, phrases=phrases), backward=backward))[0]
        assert 10 in ids and [11, 12] in [ids[i : i + 2] for i in range(len(ids))]
        ids = outputs(decode(model, Source(source.tokens, source.valid, draft=draft), backward=backward))[0]
        assert (ids[0], ids[-1]) == (13, 14)


def test_given_words_of_the_written_side_are_scored_and_those_of_a_whole_side_are_not() -> None:
    model, source = kermit(seed=6), Source.from_lists([[7, 8, 9]])
    found = decode(model, replace(source, draft=gapped([[13, 14]], [[]])))
    present, given = torch.tensor([True]), Segment(source.tokens, source.valid, torch.tensor([True]))
    score = 0.0
    for left, slot, token in (([14], 0, 13), ([13], 1, 14)):
        side = Target.from_lists([left])
        with torch.no_grad():
            slots = model.net(given, Segment(side.tokens, side.valid, present))
            logits = model.net.logits(slots[Side.TARGET], Side.TARGET)
            score += logits.log_softmax(dim=2)[0, slot, token].item()
    assert outputs(found) == [[13, 14]]
    assert found.scores.item() == pytest.approx(score)
    assert found.passes.tolist() == [3]
    pair = fill(model, whole(source), gapped([[13, 14]], [[]]))
    assert [side.scores.item() for side in pair] == [0.0, 0.0]


def test_lengths_that_fit() -> None:
    model = kermit(positions={"kind": "learned", "max_length": 7})
    batch = make_batch([(5, 5), (6, 2), (2, 6)])
    assert model.learnable(batch).tolist() == [True, False, False]
    assert model.max_source_length == 5
    assert model.canvas_length(batch.source.lengths.numpy(), batch.target.lengths.numpy()).tolist() == [14, 12, 12]
    found = decode(model, batch.source.select(torch.tensor([0])), max_length_offset=50)
    assert found.valid.sum() <= 5


@pytest.mark.parametrize(("nonempty", "length"), [(True, 3), (False, 2)])
def test_a_gap_between_given_words_is_left_empty_only_where_it_may(
    nonempty: bool, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kermit()
    honest = model.net.logits

    def ending(slots: Tensor, side: Side, **options: Any) -> Tensor:
        """Every slot wants to end."""
        found = honest(slots, side, **options)
        return found.index_add(1, torch.tensor([EOS]), torch.full_like(found[:, :1], 50.0))

    monkeypatch.setattr(model.net, "logits", ending)
    _, target = fill(model, gapped([[9]], [[]]), gapped([[7, 8]], [[1]]), nonempty=nonempty)
    (found,) = outputs(target)
    assert (len(found), found[0], found[-1]) == (length, 7, 8)


def test_of_several_orders_of_phrases_the_better_one_is_given() -> None:
    model = kermit(seed=3)
    source = make_batch([(n, 1) for n in range(1, 9)]).source

    def run(*order: int, orders: int) -> list[list[int]]:
        phrases = phrases_of([[[token] for token in order]] * len(source))
        return outputs(decode(model, replace(source, phrases=phrases), orders=orders, max_passes=3))

    first, second, best = run(9, 10, orders=1), run(10, 9, orders=1), run(9, 10, orders=2)
    chosen = [row == one for row, one in zip(best, first, strict=True)]
    assert all(row in pair for row, *pair in zip(best, first, second, strict=True))
    assert set(chosen) == {True, False}


# --- one checkpoint, overfitted ---------------------------------------------------------------------

SOURCES = [[7, 8, 9], [10, 11], [12, 13, 14, 15], [16, 17, 8]]
TARGETS = [[17, 7, 10], [18, 9, 11, 12], [13, 19], [14, 8, 15]]


@pytest.fixture(scope="module")
def trained() -> Kermit:
    """All five tasks on four pairs."""
    model = kermit(dtype=torch.float32, size={"dim": 32, "num_heads": 4, "ffn_dim": 64}, label_smoothing=0.0, seed=1)
    model.train()
    batch = pair_batch(SOURCES, TARGETS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    updates = 700
    for update in range(1, updates + 1):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, 1.5 * (1 - update / updates) + 0.01)
        loss = objective(model.loss(batch, update=update), int(batch.num_target_tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_one_checkpoint_translates_both_ways(trained: Kermit) -> None:
    assert outputs(decode(trained, Source.from_lists(SOURCES))) == TARGETS
    assert outputs(decode(trained, Source.from_lists(TARGETS), backward=True)) == SOURCES
    assert outputs(decode(trained, Source.from_lists(SOURCES), parallel=False)) == TARGETS


def test_it_fills_gaps_of_either_side(trained: Kermit) -> None:
    for side, rows, other in ((Side.SOURCE, SOURCES, TARGETS), (Side.TARGET, TARGETS, SOURCES)):
        for gap in range(2):
            holed = gapped([row[:gap] + row[gap + 1 :] for row in rows], [[gap]] * len(rows))
            given = whole(Target.from_lists(other))
            found = fill(trained, *((holed, given) if side is Side.SOURCE else (given, holed)), nonempty=True)
            assert outputs(found[side]) == rows
            assert outputs(found[Side(1 - side)]) == other


def test_unconditional_pairs_are_those_that_it_has_seen(trained: Kermit) -> None:
    nothing = gapped([[]], [[0]])
    options: dict[str, Any] = {"temperature": 1.0, "num_candidates": 40}
    source, target = fill(trained, nothing, nothing, parallel=False, **options)  # in parallel the sides would not agree
    pairs = [(outputs(source, k)[0], outputs(target, k)[0]) for k in range(40)]
    assert all(left and right for left, right in pairs)
    seen = [pair in list(zip(SOURCES, TARGETS, strict=True)) for pair in pairs]
    assert sum(seen) >= 30
    assert len({tuple(left) for left, _ in pairs}) >= 3


def test_segments_are_rows() -> None:
    part = Segment(torch.tensor([[7], [8]]), torch.ones(2, 1, dtype=torch.bool), torch.tensor([True, False]))
    assert part.select(torch.tensor([1])).present.tolist() == [False]
