"""Corruption of references against a hand-written loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat.ops.corruption import corrupt

ALPHABET = (7, 12)
NUMBER = st.integers(0, 15).map(lambda n: (n + 0.5) / 16)  # exact in float32, and never a boundary below
POSITION = st.tuples(st.integers(7, 11), st.tuples(NUMBER, NUMBER, NUMBER))
ROWS = st.lists(st.lists(POSITION, max_size=7), min_size=1, max_size=4)
WEIGHTS = st.tuples(*[st.sampled_from([0.0, 1.0, 2.0])] * 3).filter(any)
Row = list[tuple[int, tuple[float, float, float]]]


def by_hand(row: Row, rate: float, weights: tuple[float, float, float]) -> list[int]:
    """One position after the other: replacements, over them repeats, over them swaps."""
    tokens, total = [token for token, _ in row], sum(weights)
    kinds: list[str | None] = []
    for _, (start, kind, _) in row:
        name = "repeat" if kind * total < weights[0] else "replace" if kind * total < sum(weights[:2]) else "swap"
        kinds.append(name if start < rate else None)
    found = list(tokens)
    for t, kind in enumerate(kinds):
        if kind == "replace":
            found[t] = ALPHABET[0] + int(row[t][1][2] * (ALPHABET[1] - ALPHABET[0]))
    for t, kind in enumerate(kinds[:-1]):
        if kind == "repeat":
            found[t + 1] = tokens[t]
    free = 0  # the first position that no swap has touched
    for t, kind in enumerate(kinds[:-1]):
        if kind == "swap" and t >= free:
            found[t], found[t + 1], free = tokens[t + 1], tokens[t], t + 2
    return found


def corrupted(rows: list[Row], rate: float, weights: tuple[float, float, float], extra: int = 0) -> list[list[int]]:
    """Through the op, with `extra` columns of padding and wild noise there, which must stay as they are."""
    width = max(1, *map(len, rows)) + extra if len(rows) > 1 else max(1, len(rows[0])) + extra
    tokens, noise = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width, 3), 1e-3)
    for i, row in enumerate(rows):
        for t, (token, numbers) in enumerate(row):
            tokens[i, t], noise[i, t] = token, torch.tensor(numbers)
    lengths = torch.tensor([len(row) for row in rows])
    found = corrupt(tokens, lengths, noise, rate=rate, weights=weights, alphabet=ALPHABET)
    for row, length in zip(found, lengths.tolist(), strict=True):
        assert (row[length:] == 0).all()
    return [row[:length].tolist() for row, length in zip(found, lengths.tolist(), strict=True)]


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([0.0, 0.3, 0.7, 1.0]), WEIGHTS, st.integers(0, 2))
def test_it_is_the_loop_whatever_the_padding(
    rows: list[Row], rate: float, weights: tuple[float, float, float], extra: int
) -> None:
    assert corrupted(rows, rate, weights, extra) == [by_hand(row, rate, weights) for row in rows]


@settings(deadline=None, max_examples=50)
@given(ROWS, WEIGHTS)
def test_a_rate_of_0_changes_nothing(rows: list[Row], weights: tuple[float, float, float]) -> None:
    assert corrupted(rows, 0.0, weights) == [[token for token, _ in row] for row in rows]


@pytest.mark.parametrize(
    ("weights", "starts", "expected"),
    [
        ((1.0, 0.0, 0.0), [0, 2], [7, 7, 9, 9, 11]),
        ((1.0, 0.0, 0.0), [0, 1, 4], [7, 7, 8, 10, 11]),  # they read what was there before; the last has no neighbour
        ((0.0, 1.0, 0.0), [1, 4], [7, 7, 9, 10, 7]),
        ((0.0, 0.0, 1.0), [1, 4], [7, 9, 8, 10, 11]),
        ((0.0, 0.0, 1.0), [0, 1, 2, 3], [8, 7, 10, 9, 11]),  # overlapping swaps: the left ones
    ],
)
def test_each_kind_alone(weights: tuple[float, float, float], starts: list[int], expected: list[int]) -> None:
    row = [(7 + t, (0.0 if t in starts else 0.9, 0.5, 0.01)) for t in range(5)]
    assert corrupted([row], 0.5, weights) == [expected]


def test_kinds_and_tokens_are_drawn_in_proportion() -> None:
    """Far apart, so that no corruption writes over another one."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(20000, 2, 3, generator=generator)
    noise[:, 1, 0] = 1.0  # only the first position starts one
    tokens = torch.tensor([3, 4]).expand(20000, -1)  # outside the alphabet, so that a replacement is seen
    found = corrupt(tokens, torch.full((20000,), 2), noise, rate=0.5, weights=(1.0, 2.0, 1.0), alphabet=ALPHABET)
    kinds = torch.stack([(found == torch.tensor(pair)).all(dim=1).double().mean() for pair in ([3, 3], [4, 3], [3, 4])])
    assert torch.allclose(kinds, torch.tensor([0.125, 0.125, 0.5], dtype=torch.double), atol=0.015)
    drawn = found[:, 0][found[:, 0] >= ALPHABET[0]].bincount(minlength=13)[7:].double() / 20000
    assert torch.allclose(drawn, torch.tensor([0.05] * 5 + [0.0], dtype=torch.double), atol=0.01)
