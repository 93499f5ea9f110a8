"""Claims about systems, 'A > B', with how sure the test set makes them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sacrebleu.significance import PairedTest, Result

from nat.data.references import reference_streams
from nat.errors import ConfigError
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of
from nat.table import markdown_table, rounded

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Claim:
    """That one system has a higher BLEU than another."""

    better: str
    worse: str

    def __str__(self) -> str:
        return f"{self.better} > {self.worse}"


@dataclass(frozen=True)
class Finding:
    """better, worse: BLEU of both. p_value: how often a resampled test set shows so large a difference by chance
    (Koehn 2004, https://aclanthology.org/W04-3250)."""

    claim: Claim
    better: float
    worse: float
    p_value: float

    @property
    def holds(self) -> bool:
        return self.better > self.worse


def parse_claim(text: str, known: Sequence[str]) -> Claim:
    """'A > B', or 'A >= B', which means the same. Raises ConfigError if it is none or names a system that is not
    there."""
    parts = [part.strip() for part in text.replace(">=", ">").split(">")]
    if len(parts) != 2 or parts[0] == parts[1]:
        raise ConfigError(f"claims: '{text}' does not compare two systems; write A > B")
    for part in parts:
        if part not in known:
            raise ConfigError(f"claims: '{text}' names '{part}', but the systems are {', '.join(known)}")
    return Claim(*parts)


def examine(
    claim: Claim,
    outputs: Mapping[str, Sequence[str]],
    references: Sequence[str],
    *,
    tokenizer: BleuTokenizer | None = None,
) -> Finding:
    """Paired bootstrap resampling, by sacreBLEU (its seed is fixed: the same outputs give the same p). tokenizer: see
    `score_corpus`."""
    bleu = (tokenizer or tokenizer_of(references)).metric()
    systems: list[tuple[str, Sequence[str]]] = [(name, list(outputs[name])) for name in (claim.worse, claim.better)]
    if systems[0][1] == systems[1][1]:  # sacreBLEU would call no difference at all a sure one
        score = bleu.corpus_score(systems[0][1], reference_streams(references)).score
        return Finding(claim, score, score, 1.0)
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):  # it tells of its progress
        test = PairedTest(
            systems, {"BLEU": bleu}, reference_streams(references), test_type="bs", n_samples=NUM_RESAMPLES
        )
        worse, better = test()[1]["BLEU"]
    assert isinstance(worse, Result)
    assert isinstance(better, Result)
    return Finding(claim, better.score, worse.score, 1.0 if better.p_value is None else better.p_value)


def describe_claims(findings: Sequence[Finding]) -> str:
    """A Markdown table."""
    rows = [
        [str(finding.claim), f"{finding.better:.2f}, {finding.worse:.2f}", f"{finding.better - finding.worse:+.2f}"]
        + [rounded(finding.p_value, 3), "holds" if finding.holds else "does not hold"]
        for finding in findings
    ]
    table = markdown_table(["claim", "BLEU", "difference", "p", ""], rows, text=(0, 4))
    note = f"p: paired bootstrap resampling by sacreBLEU, {NUM_RESAMPLES} test sets."
    return f"{table}\n\n{note}\n"
