"""Corpus scores by sacreBLEU with their signatures, and plain statistics that show what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sacrebleu.metrics import CHRF, TER
from sacrebleu.metrics.bleu import MAX_NGRAM_ORDER

from nat.config import option
from nat.data.references import all_references, reference_streams
from nat.data.vocabulary import Symbol
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of


@dataclass(frozen=True)
class Scores:
    """Scores of translations against references.

    bleu, chrf, ter: 0-100, against all references of a sentence. length_ratio: words of the output over words of the
    references, of several their mean; in scripts without spaces the tokens of BLEU.
    repetition_rate: share of words equal to the word before them. ter is None unless asked for.
    """

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    length_ratio: float
    repetition_rate: float
    ter: float | None = None
    ter_signature: str | None = None


def score_corpus(
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    tokenizer: BleuTokenizer | None = None,
    ter: bool = False,
) -> Scores:
    """Score line-aligned outputs and references; a sentence may have several (`Reference`). tokenizer: of BLEU; None:
    the one that the references' script needs."""
    tokenizer = tokenizer or tokenizer_of(references)
    bleu, bleu_signature = corpus_bleu(outputs, references, tokenizer=tokenizer)
    streams, chrf = reference_streams(references), CHRF()
    chrf_score = chrf.corpus_score(list(outputs), streams).score
    unspaced = not tokenizer.splits_at_spaces
    ter_metric = TER(normalized=unspaced, asian_support=unspaced) if ter else None
    split = tokenizer.metric().tokenizer if unspaced else str
    reference_words = sum(mean_words(reference, split) for reference in references)
    return Scores(
        bleu=bleu,
        bleu_signature=bleu_signature,
        chrf=chrf_score,
        chrf_signature=str(chrf.get_signature()),
        length_ratio=sum(len(split(line).split()) for line in outputs) / max(1, reference_words),
        repetition_rate=repetition_rate(outputs),
        ter=ter_metric.corpus_score(list(outputs), streams).score if ter_metric else None,
        ter_signature=str(ter_metric.get_signature()) if ter_metric else None,
    )


def corpus_bleu(
    outputs: Sequence[str], references: Sequence[str], *, tokenizer: BleuTokenizer | None = None
) -> tuple[float, str]:
    """BLEU with its signature, of what `score_corpus` takes."""
    tokenizer = tokenizer or tokenizer_of(references)
    return BleuCounts.of(outputs, references, tokenizer).bleu(tokenizer)


@dataclass(frozen=True)
class BleuCounts:
    """All that BLEU is computed from (Papineni et al. 2002, https://aclanthology.org/P02-1040/, section 2.3). The
    counts of two pieces of a text, of one tokenizer, are added.

    correct, total: n-grams of orders 1 to 4, those of the references among them and all. output_length,
    reference_length: tokens. num_references: of a sentence; -1 where that differs, 0 where there is no sentence.
    """

    correct: list[int] = option([0] * MAX_NGRAM_ORDER)
    total: list[int] = option([0] * MAX_NGRAM_ORDER)
    output_length: int = 0
    reference_length: int = 0
    num_references: int = 0

    @classmethod
    def of(
        cls, outputs: Sequence[str], references: Sequence[str], tokenizer: BleuTokenizer, *, silent: bool = False
    ) -> BleuCounts:
        """silent: sacreBLEU does not remark on lines that look as if they had been tokenised."""
        assert len(outputs) == len(references)
        if not outputs:
            return cls()
        metric = tokenizer.metric(silent=silent)
        score = metric.corpus_score(list(outputs), reference_streams(references))
        return cls(score.counts, score.totals, score.sys_len, score.ref_len, metric.num_refs)

    def __add__(self, other: BleuCounts) -> BleuCounts:
        numbers = {self.num_references, other.num_references} - {0} or {0}
        return BleuCounts(
            [mine + theirs for mine, theirs in zip(self.correct, other.correct, strict=True)],
            [mine + theirs for mine, theirs in zip(self.total, other.total, strict=True)],
            self.output_length + other.output_length,
            self.reference_length + other.reference_length,
            numbers.pop() if len(numbers) == 1 else -1,
        )

    def bleu(self, tokenizer: BleuTokenizer) -> tuple[float, str]:
        """The score, 0-100, and its signature. tokenizer: the one of the counts."""
        metric = tokenizer.metric()
        metric.num_refs = self.num_references
        score = metric.compute_bleu(
            list(self.correct),
            list(self.total),
            self.output_length,
            self.reference_length,
            smooth_method=metric.smooth_method,
            smooth_value=metric.smooth_value,
            effective_order=metric.effective_order,
            max_ngram_order=metric.max_ngram_order,
        )
        return score.score, str(metric.get_signature())


def mean_words(reference: str, split: Callable[[str], str]) -> float:
    """Words of a reference; of several their mean. split: puts spaces between words."""
    counts = [len(split(line).split()) for line in all_references(reference)]
    return sum(counts) / len(counts)


def repetition_rate(lines: Sequence[str]) -> float:
    """Share of words that equal the word before them: the mark of mixed translations."""
    repeated = words = 0
    for line in lines:
        tokens = line.split()
        words += len(tokens)
        repeated += sum(a == b for a, b in pairwise(tokens))
    return repeated / max(1, words)


def exact_match_rate(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Share of outputs that are their reference, or one of them, but for white space."""
    same = sum(
        any(output.split() == line.split() for line in all_references(reference))
        for output, reference in zip(outputs, references, strict=True)
    )
    return same / max(1, len(outputs))


def copied_rate(outputs: Sequence[str], sources: Sequence[str]) -> float:
    """Share of the outputs' words that occur in their source."""
    copied = words = 0
    for output, source in zip(outputs, sources, strict=True):
        known, tokens = set(source.split()), output.split()
        words += len(tokens)
        copied += sum(token in known for token in tokens)
    return copied / max(1, words)


def unknown_rate(rows: Sequence[Sequence[int]]) -> float:
    """Share of output token ids that are UNK: what the vocabulary cannot spell."""
    unknown = sum(row.count(int(Symbol.UNK)) for row in rows)
    return unknown / max(1, sum(len(row) for row in rows))
