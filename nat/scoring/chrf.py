"""Sentence chrF between texts of which each is compared with many others.

Popovic 2015, https://aclanthology.org/W15-3049, as sacreBLEU has it by default: character n-grams of orders 1 to 6
without white space, beta = 2, means over the orders that both texts have.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

ORDERS = range(1, 7)
BETA = 2
REMEMBERED = 1024  # texts whose n-grams are kept: the candidates of a sentence


@dataclass(frozen=True)
class CharacterNgrams:
    """The n-grams of a text, counted once. counts, totals: of each order."""

    counts: tuple[Counter[str], ...]
    totals: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> CharacterNgrams:
        signs = "".join(text.split())
        return cls(
            tuple(Counter(signs[i : i + n] for i in range(len(signs) - n + 1)) for n in ORDERS),
            tuple(max(0, len(signs) - n + 1) for n in ORDERS),
        )


def overlap(first: Counter[str], second: Counter[str]) -> int:
    """How much of two bags is in both."""
    return sum(min(first[item], second[item]) for item in first.keys() & second.keys())


def chrf(text: CharacterNgrams, reference: CharacterNgrams) -> float:
    """From 0 to 100."""
    orders = []
    for number, (written, wanted) in enumerate(zip(text.totals, reference.totals, strict=True)):
        if written and wanted:
            match = overlap(text.counts[number], reference.counts[number])
            orders.append((match / written, match / wanted))
    precision, recall = (sum(values) / len(orders) for values in zip(*orders, strict=True)) if orders else (0.0, 0.0)
    if precision + recall == 0:
        return 0.0
    score = (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return 100 * score


def sentence_chrf() -> Callable[[str, str], float]:
    """(a translation, its reference) -> 0 to 100; of texts that come again the n-grams are not counted again."""
    counted = functools.lru_cache(maxsize=REMEMBERED)(CharacterNgrams.of)
    return lambda text, reference: chrf(counted(text), counted(reference))
