"""References: what translations are scored against, one for each source or several that are as good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Reference(str):
    """A reference that is one of several: it reads as the first of them, and scores know the others too.

    A sentence's target in each language, for example, where one source has several (data.target=de+fr).
    """

    others: tuple[str, ...]

    def __new__(cls, first: str, *others: str) -> Reference:
        reference = super().__new__(cls, first)
        reference.others = others
        return reference


def all_references(reference: str) -> tuple[str, ...]:
    """Every reference of a sentence, in the order of the corpus's target columns."""
    return (str(reference), *reference.others) if isinstance(reference, Reference) else (reference,)


def reference_streams(references: Sequence[str]) -> list[list[Any]]:
    """The first references of all sentences, the second, ... as sacreBLEU takes them: None (of which its own types do
    not know) where a sentence has no more. At least one stream."""
    rows = [all_references(reference) for reference in references]
    num_streams = max([1, *map(len, rows)])
    return [[row[n] if n < len(row) else None for row in rows] for n in range(num_streams)]
