"""The expert of the Levenshtein Transformer against enumeration and a plain dynamic program."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.data.batch import Target
from nat.ops.edit_distance import Edits, best_edits

Sequences = st.lists(st.integers(7, 10), max_size=7)
Pairs = st.lists(st.tuples(Sequences, Sequences), min_size=1, max_size=5)


def edits_of(pairs: list[tuple[list[int], list[int]]], *, extra: int = 0) -> tuple[Edits, Target, Target]:
    """`extra` columns of padding on either side hold an ordinary token: only `valid` may count."""

    def padded(rows: list[list[int]]) -> Target:
        target = Target.from_lists(rows)
        return Target(
            F.pad(target.tokens, (0, extra)).masked_fill(~F.pad(target.valid, (0, extra)), 7),
            F.pad(target.valid, (0, extra)),
        )

    draft, target = padded([draft for draft, _ in pairs]), padded([target for _, target in pairs])
    return best_edits(draft.tokens, draft.valid, target.tokens, target.valid), draft, target


def plain(edits: Edits, row: int, draft: list[int], target: list[int]) -> tuple[list[bool], list[int], list[int]]:
    """Of one row: what is deleted, the placeholders of each gap, the tokens that fill them."""
    missing = [token for token, new in zip(target, edits.missing[row].tolist(), strict=False) if new]
    return edits.deleted[row, : len(draft)].tolist(), edits.placeholders[row, : len(draft) + 1].tolist(), missing


def applied(deleted: list[bool], counts: list[int], missing: list[int], draft: list[int]) -> list[int]:
    """Deletions, then placeholders, then tokens, over lists."""
    kept = [token for token, gone in zip(draft, deleted, strict=True) if not gone]
    left = [count for count, gone in zip(counts, [*deleted, False], strict=True) if not gone]
    canvas: list[int | None] = []
    for count, token in zip(left, [*kept, None], strict=True):
        canvas += [None] * count + ([] if token is None else [token])
    tokens = iter(missing)
    found = [next(tokens) if token is None else token for token in canvas]
    assert next(tokens, None) is None
    return found


def common_length(one: list[int], other: list[int]) -> int:
    """The longest common subsequence, by the textbook."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, j in itertools.product(range(len(one)), range(len(other))):
        same = table[i][j] + 1 if one[i] == other[j] else 0
        table[i + 1][j + 1] = max(same, table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def first_choice(draft: list[int], target: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """By enumeration: of all longest common subsequences the one whose positions in the draft, and then whose
    positions in the target, come first."""
    for length in range(min(len(draft), len(target)), -1, -1):
        for kept in itertools.combinations(range(len(draft)), length):
            for places in itertools.combinations(range(len(target)), length):
                if [draft[i] for i in kept] == [target[j] for j in places]:
                    return kept, places
    raise AssertionError


@settings(deadline=None, max_examples=150)
@given(Pairs)
def test_it_gives_the_target_with_the_fewest_edits(pairs: list[tuple[list[int], list[int]]]) -> None:
    edits, _, _ = edits_of(pairs)
    for row, (draft, target) in enumerate(pairs):
        deleted, counts, missing = plain(edits, row, draft, target)
        assert applied(deleted, counts, missing, draft) == target
        assert sum(deleted) + sum(counts) == len(draft) + len(target) - 2 * common_length(draft, target)
        assert not any(count for count, gone in zip(counts, deleted, strict=False) if gone)


@settings(deadline=None, max_examples=40)
@given(Pairs)
def test_of_equal_edits_it_takes_the_first(pairs: list[tuple[list[int], list[int]]]) -> None:
    edits, _, _ = edits_of(pairs)
    for row, (draft, target) in enumerate(pairs):
        kept, places = first_choice(draft, target)
        assert (~edits.deleted[row, : len(draft)]).nonzero().flatten().tolist() == list(kept)
        assert (~edits.missing[row, : len(target)]).nonzero().flatten().tolist() == list(places)


@settings(deadline=None, max_examples=60)
@given(Pairs, st.integers(0, 3))
def test_a_row_alone_and_wider_is_the_same(pairs: list[tuple[list[int], list[int]]], extra: int) -> None:
    together, draft, target = edits_of(pairs, extra=extra)
    assert not (together.deleted & ~draft.valid).any()
    assert not (together.missing & ~target.valid).any()
    for row, pair in enumerate(pairs):
        alone, _, _ = edits_of([pair])
        assert plain(alone, 0, *pair) == plain(together, row, *pair)
        assert together.placeholders[row].sum() == alone.placeholders.sum()


@settings(deadline=None, max_examples=60)
@given(Pairs)
def test_the_gaps_of_what_is_left(pairs: list[tuple[list[int], list[int]]]) -> None:
    edits, sequence, _ = edits_of(pairs)
    left = edits.after_deletion(sequence.valid)
    for row, (draft, target) in enumerate(pairs):
        deleted, counts, _ = plain(edits, row, draft, target)
        wanted = [count for count, gone in zip(counts, [*deleted, False], strict=True) if not gone]
        assert left[row].tolist() == wanted + [0] * (left.size(1) - len(wanted))


@settings(deadline=None, max_examples=60)
@given(Pairs, st.integers(1, 3))
def test_limited_gaps_take_their_first_tokens(pairs: list[tuple[list[int], list[int]]], most: int) -> None:
    edits, _, _ = edits_of(pairs)
    limited = edits.limited(most)
    for row, (draft, target) in enumerate(pairs):
        deleted, counts, missing = plain(edits, row, draft, target)
        tokens = iter(missing)
        by_gap = [list(itertools.islice(tokens, count)) for count in counts]
        found = plain(limited, row, draft, target)
        assert found == (deleted, [min(most, n) for n in counts], [t for gap in by_gap for t in gap[:most]])


def test_an_example() -> None:
    edits, _, _ = edits_of([([7, 9, 8, 8], [8, 7, 8, 10, 10])])
    assert edits.deleted.tolist() == [[False, True, False, True]]
    assert edits.placeholders.tolist() == [[1, 0, 0, 0, 2]]
    assert edits.missing.tolist() == [[True, False, False, True, True]]
    assert edits.after_deletion(torch.ones(1, 4, dtype=torch.bool)).tolist() == [[1, 0, 2]]
