"""Long ListOps: nested operations on lists of digits (Nangia & Bowman 2018, https://arxiv.org/abs/1804.06028), as long
as in Long Range Arena (Tay et al. 2021, section 2.2.1, https://arxiv.org/abs/2011.04006).

A source is an expression such as "[MAX 2 9 [MIN 4 7 ] 0 ]", its target the digit that it makes: MIN, MAX, MED (the
median, rounded down) or SM (the sum modulo 10). An operation's end may stand far from its beginning, and whether a
digit counts depends on what stands around all of it.

Departs from the paper: the number of words is drawn first and shared out among the arguments, so that every length
between `length`'s bounds occurs, instead of drawing trees until one is long enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from nat.data.cache import digest
from nat.data.counts import MOST_WORDS, Range, check_count, read_counts

DEEPEST = 100  # operations within each other
FEWEST = 4  # words of an operation: itself, two arguments, its end
VERSION = "1"  # part of the cache key: raise it when the rows change
OPERATIONS = ("[MIN", "[MAX", "[MED", "[SM")


def value_of(operation: str, arguments: list[int]) -> int:
    """What an operation makes of its arguments, digits."""
    match operation:
        case "[MIN":
            return min(arguments)
        case "[MAX":
            return max(arguments)
        case "[MED":
            return int(np.median(arguments))
        case _:
            return sum(arguments) % 10


@dataclass(frozen=True)
class ListOps:
    """length: words of a source. arguments: of an operation, at most. depth: operations within each other, at most."""

    length: Range = Range(100, 300)
    arguments: int = 10
    depth: int = 10
    pairs: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        check_count("arguments", self.arguments, FEWEST)
        check_count("depth", self.depth, 1, DEEPEST)
        check_count("pairs", self.pairs, 1)
        check_count("length", self.length, FEWEST, min(MOST_WORDS, self._longest(self.depth)))

    @classmethod
    def parse(cls, text: str) -> ListOps:
        """TASK?OPTIONS. Raises ConfigError."""
        return cls(**read_counts(text, ("length", "arguments", "depth", "pairs", "seed"), ("length",)))

    def rows(self, first: int = 0) -> Iterator[dict[str, Any]]:
        for number in range(first, self.pairs):
            random = np.random.default_rng((self.seed, number))
            words, value = self._tree(int(random.integers(self.length.low, self.length.high + 1)), self.depth, random)
            yield {"source": " ".join(words), "target": str(value), "line": number + 1}

    def fingerprint(self) -> str:
        return digest("listops", VERSION, *map(str, astuple(self)))

    def _longest(self, depth: int) -> int:
        """Words of the longest expression of this depth."""
        return 1 if depth == 0 else 2 + self.arguments * self._longest(depth - 1)

    def _tree(self, length: int, depth: int, random: np.random.Generator) -> tuple[list[str], int]:
        """An expression of `length` words, 1 or at least 4, and its value."""
        if length == 1:
            digit = int(random.integers(10))
            return [str(digit)], digit
        operation = OPERATIONS[random.integers(len(OPERATIONS))]
        parts = [self._tree(share, depth - 1, random) for share in self._shares(length - 2, depth - 1, random)]
        words = [word for part, _ in parts for word in part]
        return [operation, *words, "]"], value_of(operation, [value for _, value in parts])

    def _shares(self, total: int, depth: int, random: np.random.Generator) -> list[int]:
        """Words of each argument, `total` together, each 1 or from 4 to the most that the depth allows."""
        longest, extra = self._longest(depth), FEWEST - 1
        counts = [  # either all arguments are digits, or what is left for the others is enough for one
            count
            for count in range(max(2, -(-total // longest)), min(self.arguments, total) + 1)
            if total == count or total - count >= extra
        ]
        count = counts[random.integers(len(counts))]
        left = total - count
        fewest = -(-left // (longest - 1)) if left else 0
        longer = int(random.integers(fewest, min(count, left // extra) + 1)) if left else 0
        shares = [1] * (count - longer)
        for others in reversed(range(longer)):
            low, high = max(extra, left - others * (longest - 1)), min(longest - 1, left - others * extra)
            share = int(random.integers(low, high + 1))
            shares.append(1 + share)
            left -= share
        return [shares[i] for i in random.permutation(count)]
