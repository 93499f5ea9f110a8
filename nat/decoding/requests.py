"""What a user may ask of one sentence's translation beside translating it, from text to tensors.

A draft to start from (post-editing), target words that are known around gaps (infilling), terms that must stay
(terminology constraints). Which of them a method heeds, `TranslationModel.edits` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nat.data.batch import Draft, Phrases, Source, Target
from nat.data.vocabulary import Symbol, Tokenizer
from nat.errors import DataError

GAP = "___"
MARK = "\ue000"  # of the private use area: no text has it, no vocabulary knows it
DRAFT, KNOWN, CONSTRAINTS = "draft", "known", "constraints"


@dataclass(frozen=True)
class Request:
    """A sentence and what is asked of its translation.

    draft: target text to start from, which may be changed. known: target text with gaps, `___`, in which alone
    something may be written; not beside a draft. constraints: words or phrases of the target that the translation must
    contain, in any order.
    """

    source: str
    draft: str | None = None
    known: str | None = None
    constraints: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises TypeError for text where a list of it is meant."""
        text_list("constraints", self.constraints)

    @property
    def fields(self) -> frozenset[str]:
        """The fields that ask for something."""
        return frozenset(name for name in (DRAFT, KNOWN, CONSTRAINTS) if getattr(self, name))


Sentence = str | Request  # what is translated


def text_list(name: str, texts: Any, kinds: type | tuple[type, ...] = str) -> list[Any]:
    """The texts as a list. Raises TypeError for one text, which would be taken apart letter by letter, and for what is
    no text."""
    if isinstance(texts, kinds):
        raise TypeError(f"{name}: a list is needed, not a single {type(texts).__name__}: [{texts!r:.60}]")
    items = list(texts)
    for number, item in enumerate(items):
        if not isinstance(item, kinds):
            raise TypeError(f"{name}[{number}]: text is needed, not {type(item).__name__}")
    return items


def source_of(sentence: Sentence) -> str:
    return sentence if isinstance(sentence, str) else sentence.source


@dataclass(frozen=True)
class Wanted:
    """A request in ids. draft: what to start from; fixed: whether it must stay; closed: of each gap of it, whether
    nothing may be inserted."""

    draft: list[int]
    fixed: bool
    closed: list[bool]
    phrases: list[list[int]]

    @classmethod
    def draft_of(cls, ids: list[int]) -> Wanted:
        """All of it may be changed."""
        return cls(ids, False, [False] * (len(ids) + 1), [])

    @property
    def num_tokens(self) -> int:
        """Of the draft and all phrases together."""
        return len(self.draft) + sum(map(len, self.phrases))


NOTHING_WANTED = Wanted([], False, [False], [])


def encode_request(sentence: Sentence, tokenizer: Tokenizer, where: str) -> Wanted:
    """tokenizer: of the language that is written. where: for messages. Raises DataError for what cannot be kept: both a
    draft and known words, known words without a gap, characters that the vocabulary does not have."""
    if isinstance(sentence, str) or not sentence.fields:
        return NOTHING_WANTED
    if sentence.draft and sentence.known:
        raise DataError(f"{where}: a draft and known words exclude each other")
    phrases = [encode_exactly(text, tokenizer, f"{where}: the constraint") for text in sentence.constraints]
    if sentence.known:
        draft, closed = encode_known(sentence.known, tokenizer, where)
        return Wanted(draft, True, closed, phrases)
    (draft,) = tokenizer.encode([sentence.draft or ""])
    return replace(Wanted.draft_of(draft), phrases=phrases)


def encode_exactly(text: str, tokenizer: Tokenizer, what: str) -> list[int]:
    """Raises DataError for an empty text, or one that the vocabulary cannot spell."""
    (ids,) = tokenizer.encode([text])
    if not ids:
        raise DataError(f"{what} '{text}' is empty")
    if int(Symbol.UNK) in ids:
        raise DataError(f"{what} '{text}' has characters that the run's vocabulary does not know")
    return ids


def encode_known(text: str, tokenizer: Tokenizer, where: str) -> tuple[list[int], list[bool]]:
    """Ids of the words, in pieces as they would have with the gaps filled, and which of their gaps are closed."""
    if GAP not in text:
        raise DataError(f"{where}: the known words '{text}' have no gap, {GAP}")
    words = text.replace(GAP, " ")
    if words.strip():
        encode_exactly(words, tokenizer, f"{where}: the known text")
    (ids,) = tokenizer.encode([text.replace(GAP, MARK)])
    (marked,) = tokenizer.encode([MARK])
    (after_word,) = tokenizer.encode([f"{MARK} {MARK}"])
    mark = marked[1:] if after_word[len(marked) :] == marked and len(marked) > 1 else marked
    before = marked[0] if len(mark) < len(marked) else None  # the piece of a word's beginning
    kept: list[int] = []
    gaps: set[int] = set()
    position = 0
    while position < len(ids):
        if ids[position : position + len(mark)] == mark:
            if kept and kept[-1] == before:
                kept.pop()
            gaps.add(len(kept))
            position += len(mark)
        else:
            kept.append(ids[position])
            position += 1
    return kept, [gap not in gaps for gap in range(len(kept) + 1)]


def attach(source: Source, wanted: Sequence[Wanted]) -> Source:
    """The batch with what is wanted of each row; fields of which no row wants anything stay None."""
    if any(item.draft or item.fixed for item in wanted):
        draft = Target.from_lists([item.draft for item in wanted])
        fixed = torch.tensor([item.fixed for item in wanted])[:, None] & draft.valid
        closed = torch.zeros((len(wanted), draft.tokens.size(1) + 1), dtype=torch.bool)
        for row, item in zip(closed, wanted, strict=True):
            row[: len(item.closed)] = torch.tensor(item.closed)
        source = replace(source, draft=Draft(draft.tokens, draft.valid, fixed, closed))
    if any(item.phrases for item in wanted):
        number = max(len(item.phrases) for item in wanted)
        flat = [phrase for item in wanted for phrase in (*item.phrases, *[[]] * (number - len(item.phrases)))]
        phrases = Target.from_lists(flat)
        shape = (len(wanted), number, -1)
        source = replace(source, phrases=Phrases(phrases.tokens.view(shape), phrases.valid.view(shape)))
    return source
