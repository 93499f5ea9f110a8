"""The candidate stage: one translation chosen among the several that any method made of a sentence.

Candidates come from the method: a beam, samples, several lengths or fertilities. With sampled fertilities and a
teacher's score this is the noisy parallel decoding of Gu et al. 2018 (https://arxiv.org/abs/1711.02281); with the
model's own mean log-probability, the length beam of Ghazvininejad et al. 2019 (https://arxiv.org/abs/1904.09324).
Minimum Bayes risk takes the candidate that agrees most with the others: Kumar & Byrne 2004,
https://aclanthology.org/N04-1022; over samples, Eikema & Aziz 2020, https://arxiv.org/abs/2005.10283.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from nat.decoding.batch_options import USUAL, BatchOptions
from nat.decoding.batched import Decoded
from nat.errors import ConfigError
from nat.scoring.chrf import sentence_chrf
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of

TEACHER_BATCHES = 16  # batches whose pairs are sorted by length together
Metric = Callable[[str, str], float]  # a translation and its reference -> 0 to 100
Item = TypeVar("Item")


class Choice(Enum):
    """Which candidate is the translation: the first in the method's own order; the one of the highest mean
    log-probability a token under the model itself; of the highest log-probability under a teacher; of the highest
    mean chrF or BLEU against the sentence's other candidates."""

    FIRST = "first"
    OWN = "own"
    TEACHER = "teacher"
    MBR_CHRF = "mbr_chrf"
    MBR_BLEU = "mbr_bleu"


@runtime_checkable
class Teacher(Protocol):
    """What scores text; a `nat.Translator` is one."""

    def encode(self, sentences: Sequence[str], name: str) -> list[list[int]]:
        """Token ids of sources. Raises DataError, beginning with `name`, for one that is too long."""
        ...

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_size: int = 64, max_tokens: int | None = None
    ) -> list[float]:
        """log p(target | source) of whole sentences, end included; -inf for what cannot be. No source is empty."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The candidates of one sentence, in the method's order.

    texts, tokens: each candidate as text and as ids. scores: log-probability of each under the model. chosen: index of
    the translation. passes: decoder calls; 0 where the source is empty and no model was asked. truncated: a length
    limit cut the first one short. teacher_scores: log-probability under the teacher, None where it gives none.
    utilities: mean metric against the other candidates, 0 to 100, None where there are no others. history: the passes
    of each, undrafted: see `Decoded`.
    """

    texts: list[str]
    tokens: list[list[int]]
    scores: list[float]
    passes: int
    truncated: bool
    chosen: int = 0
    teacher_scores: list[float | None] | None = None
    utilities: list[float | None] | None = None
    history: list[list[dict[str, list[Any]]]] | None = None
    undrafted: bool = False

    @classmethod
    def of(cls, decoded: Decoded, texts: Sequence[str]) -> Self:
        """texts: one for each of decoded.tokens. A candidate that the search did not find (score -inf) is left out,
        unless there is no other."""
        finished = [k for k, score in enumerate(decoded.scores) if score > -math.inf] or [0]
        return cls(
            texts=[one_line(texts[k]) for k in finished],
            tokens=[decoded.tokens[k] for k in finished],
            scores=[decoded.scores[k] for k in finished],
            passes=decoded.passes,
            truncated=decoded.truncated,
            history=None if decoded.history is None else [decoded.history[k] for k in finished],
            undrafted=decoded.undrafted,
        )

    @property
    def best(self) -> str:
        """The translation."""
        return self.texts[self.chosen]

    @property
    def filled(self) -> bool:
        """False where the source is empty."""
        return self.passes > 0

    @property
    def differs(self) -> bool:
        """The choice reads otherwise than the first candidate."""
        return self.best != self.texts[0]

    @property
    def mean_scores(self) -> list[float]:
        """Log-probability over the number of tokens (of at least one)."""
        return [score / max(1, len(ids)) for score, ids in zip(self.scores, self.tokens, strict=True)]


def one_line(text: str) -> str:
    """A vocabulary may hold line ends; in a translation they would shift all lines after it."""
    return text.replace("\r", " ").replace("\n", " ")


def resolve_choice(choice: Choice | None, *, teacher: bool, num_candidates: int) -> Choice:
    """The choice that the options mean: none is the teacher's where one is given (`teacher`), else the
    first. Raises ConfigError for one without the teacher that it needs, or with nothing to choose from."""
    if choice is Choice.TEACHER and not teacher:
        raise ConfigError("choose=teacher: needs a model that scores, teacher=RUN_DIR")
    if choice is None:
        return Choice.TEACHER if teacher and num_candidates > 1 else Choice.FIRST
    if choice is not Choice.FIRST and num_candidates == 1:
        raise ConfigError(
            f"choose={choice.value}: has no effect with num_candidates=1, there is nothing to choose from"
        )
    return choice


def choose(
    candidates: Sequence[Candidates],
    sources: Sequence[str],
    *,
    choice: Choice,
    teacher: Teacher | None = None,
    batches: BatchOptions = USUAL,
    advance: Callable[[int], None] = lambda sentences: None,
) -> list[Candidates]:
    """The candidates of each source with `chosen` set, and with the teacher's scores or the utilities that set it.

    The first of equals is chosen. teacher: for Choice.TEACHER. batches: of the teacher.
    advance: hears of sentences done. Raises DataError where a source is too long for the teacher.
    """
    match choice:
        case Choice.FIRST:
            return list(candidates)
        case Choice.OWN:
            return [replace(item, chosen=highest(item.mean_scores)) for item in candidates]
        case Choice.TEACHER:
            assert teacher is not None, "resolve_choice refuses it"
            scored = with_teacher_scores(candidates, sources, teacher, batches=batches, advance=advance)
            return [replace(item, chosen=highest(item.teacher_scores or [None])) for item in scored]
        case Choice.MBR_CHRF | Choice.MBR_BLEU:
            return [with_utilities(item, choice, advance) for item in candidates]


def highest(scores: Sequence[float | None]) -> int:
    """The first index of the highest score; None is the lowest."""
    values = [-math.inf if score is None else score for score in scores]
    return values.index(max(values))


# --- a teacher -------------------------------------------------------------------------------------


def with_teacher_scores(
    candidates: Sequence[Candidates],
    sources: Sequence[str],
    teacher: Teacher,
    *,
    batches: BatchOptions,
    advance: Callable[[int], None] = lambda sentences: None,
) -> list[Candidates]:
    """With log p(candidate | source) of the whole sentence under the teacher, None where it is impossible or the source
    is empty. The teacher reads text, with its own tokenizer.

    Many sentences are scored together, sorted by length; a text that is a sentence's candidate twice is scored once,
    so that its copies are equals. All candidates of a sentence fit into one batch.
    """
    rows = teacher.encode(sources, "the teacher's source")
    scored: list[Candidates] = []
    size = TEACHER_BATCHES * batches.batch_size
    for part in chunks(list(zip(candidates, sources, rows, strict=True)), size, cost=lambda entry: len(entry[0].texts)):
        pairs = [(i, text) for i, (item, _, row) in enumerate(part) if item.filled and row for text in {*item.texts}]
        pairs.sort()  # a set has no order of its own
        widest = max(len(item.texts) for item, *_ in part)
        values = teacher.score(
            [part[i][1] for i, _ in pairs],
            [text for _, text in pairs],
            batch_size=max(batches.batch_size, widest),
            max_tokens=batches.max_tokens,
        )
        known = {pair: value for pair, value in zip(pairs, values, strict=True) if math.isfinite(value)}
        scored += [
            replace(item, teacher_scores=[known.get((i, text)) for text in item.texts])
            for i, (item, *_) in enumerate(part)
        ]
        advance(len(part))
    return scored


def chunks(items: Sequence[Item], size: int, *, cost: Callable[[Item], int]) -> list[list[Item]]:
    """Neighbours together, up to a summed cost of `size` or a single item."""
    parts: list[list[Item]] = []
    room = 0
    for item in items:
        if not parts or cost(item) > room:
            parts.append([])
            room = size
        parts[-1].append(item)
        room -= cost(item)
    return parts


# --- minimum Bayes risk ----------------------------------------------------------------------------


def sentence_bleu(tokenizer: BleuTokenizer) -> Metric:
    """Sentence BLEU with effective order: orders that a short translation lacks do not count."""
    bleu = tokenizer.metric(effective_order=True)
    return lambda text, reference: float(bleu.sentence_score(text, [reference]).score)


def with_utilities(item: Candidates, choice: Choice, advance: Callable[[int], None]) -> Candidates:
    """With the mean metric of each candidate against the others, and the candidate of the highest chosen."""
    metric = sentence_chrf() if choice is Choice.MBR_CHRF else sentence_bleu(tokenizer_of(item.texts))
    utilities = expected_utilities(item.texts, metric)
    advance(1)
    return replace(item, utilities=utilities, chosen=highest(utilities))


def expected_utilities(texts: Sequence[str], metric: Metric) -> list[float | None]:
    """Mean metric of each text against the other texts, of which equal ones count as often as they occur (that is
    the model's estimate of how probable they are). [None] for a single text."""
    if len(texts) == 1:
        return [None]
    counts = Counter(texts)
    means: dict[str, float] = {}
    for text in counts:
        others = counts - Counter([text])
        means[text] = sum(count * metric(text, other) for other, count in others.items()) / (len(texts) - 1)
    return [means[text] for text in texts]
