"""How a system made its translations, for people to look at."""

from __future__ import annotations

from dataclasses import replace

from nat.data.tokenizer import Tokenizer
from nat.decoding.candidates import Candidates
from nat.decoding.history import CandidateHistory, Pass, SentenceHistory
from nat.evaluation.inputs import Text
from nat.evaluation.results import Translations, translate
from nat.evaluation.system import System


def how_made(system: System, text: Text, translations: Translations | None = None) -> list[SentenceHistory]:
    """The history of every sentence. translations: those of the text, where they are there; they are made once more if
    they come without history, which costs time and so is not kept while speed is measured."""
    if translations is None or not system.decoding.history:
        system = replace(system, decoding=replace(system.decoding, history=True))
        translations = translate(system, text.sentences, name="with history")
    tokenizer = system.translator.sides(system.decoding)[1]
    return [sentence_history(i, text, item, tokenizer) for i, item in enumerate(translations.candidates)]


def sentence_history(i: int, text: Text, item: Candidates, tokenizer: Tokenizer) -> SentenceHistory:
    """Of sentence i (from 0)."""
    count = len(item.texts)
    teacher, utilities = item.teacher_scores or [None] * count, item.utilities or [None] * count
    histories = item.history or [[] for _ in range(count)]
    return SentenceHistory(
        index=i,
        source=text.sources[i],
        reference=None if text.references is None else text.references[i],
        chosen=item.chosen,
        num_passes=item.passes,
        truncated=item.truncated,
        candidates=[
            CandidateHistory(
                text=item.texts[k],
                tokens=tokenizer.pieces(item.tokens[k]),
                score=item.scores[k],
                mean_score=item.mean_scores[k],
                teacher_score=teacher[k],
                utility=utilities[k],
                passes=[Pass.from_plain(each | {"tokens": tokenizer.pieces(each["tokens"])}) for each in histories[k]],
            )
            for k in range(count)
        ],
        line=None if text.lines is None else text.lines[i],
    )
