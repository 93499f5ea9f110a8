"""Which pairs are left out, and the count of them: nothing is dropped without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nat.config import option

Rule = tuple[str, np.ndarray]
MARKS = ("malformed", "cut")  # columns of texts that are only there under some options


def is_blank(text: str) -> bool:
    """Whether a text is empty: it has no word, nothing but white space of any kind (tab, no-break space, U+3000 ...).
    Such sentences are not trained on, and nothing is asked of a model for them."""
    return not text or text.isspace()


@dataclass(frozen=True)
class FilterConfig:
    """Limits on training pairs, in tokens. Validation and test pairs are never filtered by them."""

    min_tokens: int = option(1, "training pairs with fewer tokens on a side are dropped", minimum=1)
    max_tokens: int = option(250, "training pairs with more tokens on a side are dropped", minimum=1)
    max_ratio: float | None = option(3.0, "largest length ratio of the longer to the shorter side", minimum=1)
    ratio_from: int = option(10, "the ratio is judged where the longer side has more tokens than this", minimum=0)


@dataclass(frozen=True)
class Lengths:
    """Lengths of N pairs, each field (N,): whitespace words, and tokens without special symbols."""

    source_words: np.ndarray
    target_words: np.ndarray
    source_tokens: np.ndarray
    target_tokens: np.ndarray


def drop_rules(lengths: Lengths, *, max_words: int | None, filters: FilterConfig | None) -> list[Rule]:
    """(reason, (N,) bool of the pairs it concerns) in the order in which they are charged.

    A pair is charged to the first reason that concerns it. filters: None for validation and test.
    """
    shorter = np.minimum(lengths.source_tokens, lengths.target_tokens)
    longer = np.maximum(lengths.source_tokens, lengths.target_tokens)
    rules = [
        ("empty source", (lengths.source_words == 0) | (lengths.source_tokens == 0)),
        ("empty target", (lengths.target_words == 0) | (lengths.target_tokens == 0)),
    ]
    if max_words is not None:
        words = np.maximum(lengths.source_words, lengths.target_words)
        rules.append((f"more than {max_words} words", words > max_words))
    if filters is not None:
        rules.append((f"fewer than {filters.min_tokens} tokens", shorter < filters.min_tokens))
        rules.append((f"more than {filters.max_tokens} tokens", longer > filters.max_tokens))
        if filters.max_ratio is not None:
            uneven = (longer > filters.ratio_from) & (longer > filters.max_ratio * shorter)
            rules.append((f"length ratio over {filters.max_ratio:g}", uneven))
    return rules


@dataclass(frozen=True)
class DropReport:
    """How many pairs of a split were read and kept, and why the others were not.

    name: the split. reasons: pairs dropped for each reason. first_line: line number of the first such pair. num_cut:
    pairs read of whose source only the beginning was kept.
    """

    name: str
    total: int = 0
    kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_line: dict[str, int] = field(default_factory=dict)
    num_cut: int = 0

    @property
    def dropped(self) -> int:
        return self.total - self.kept

    def read(self, count: int, *, num_cut: int = 0) -> DropReport:
        """With `count` more pairs, all kept so far, the source of `num_cut` of them cut."""
        return replace(self, total=self.total + count, kept=self.kept + count, num_cut=self.num_cut + num_cut)

    def drop(self, reason: str, lines: np.ndarray) -> DropReport:
        """With the kept pairs at `lines` (line numbers, (M,)) dropped for `reason`."""
        if not len(lines):
            return self
        reasons = self.reasons | {reason: self.reasons.get(reason, 0) + len(lines)}
        first = min(int(lines.min()), self.first_line.get(reason, int(lines.min())))
        first_line = self.first_line | {reason: first}
        return replace(self, kept=self.kept - len(lines), reasons=reasons, first_line=first_line)

    def lines(self) -> list[str]:
        """Sentences for the log."""
        kept = f"{self.name}: {self.kept} of {self.total} pairs kept"
        if self.num_cut:
            kept += f" ({self.num_cut} sources cut to data.source_words)"
        if not self.dropped:
            return [kept]
        causes = [f"{count} {reason} (first at line {self.first_line[reason]})" for reason, count in self._ordered()]
        return [f"{kept}; dropped {self.dropped}: {', '.join(causes)}"]

    def to_plain(self) -> dict[str, Any]:
        """What goes into a JSON file."""
        reasons = {reason: {"pairs": n, "first_line": self.first_line[reason]} for reason, n in self._ordered()}
        counts = {"total": self.total, "kept": self.kept, "dropped": self.dropped, "cut_sources": self.num_cut}
        return counts | {"reasons": reasons}

    def _ordered(self) -> list[tuple[str, int]]:
        return sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))


def apply_rules(report: DropReport, lines: np.ndarray, rules: Sequence[Rule]) -> tuple[np.ndarray, DropReport]:
    """Which of N pairs (already counted as read) pass, (N,) bool, and the report with the others dropped."""
    keep = np.ones(len(lines), dtype=bool)
    for reason, concerned in rules:
        report = report.drop(reason, lines[concerned & keep])
        keep &= ~concerned
    return keep, report


def kept(
    report: DropReport,
    lengths: Lengths,
    lines: np.ndarray,
    columns: Mapping[str, Any],
    *,
    max_words: int | None,
    filters: FilterConfig | None,
) -> tuple[np.ndarray, DropReport]:
    """Which of N more pairs are kept, (N,) bool, and the report with them. columns: of MARKS those that there are."""
    malformed, cut = (np.asarray(columns.get(name, np.zeros(len(lines), dtype=bool))) for name in MARKS)
    rules = [("malformed", malformed), *drop_rules(lengths, max_words=max_words, filters=filters)]
    return apply_rules(report.read(len(lines), num_cut=int(cut.sum())), lines, rules)


def beyond_limit(limit: int) -> str:
    return f"beyond the first {limit}"
