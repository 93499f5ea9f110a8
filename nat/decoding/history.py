"""How translations were made, as a file: JSON lines, one sentence a line.

    {"index": 0,                  number of the sentence, from 0
     "line": 7,                   its line in the corpus, from 1; left out where it has none
     "source": "Save the file.", "reference": "Speichern Sie die Datei.",     null where there is no reference
     "chosen": 0,                 the candidate that is the translation
     "num_passes": 2,             decoder calls; a pass of the Levenshtein Transformer takes up to three
     "truncated": false,          whether a length limit cut it short
     "candidates": [
       {"text": "Speichern Sie die Datei.", "tokens": ["▁Speichern", "▁Sie", "▁die", "▁Datei", "."],
        "score": -2.1,            log-probability under the model; null: the search did not find this candidate
        "mean_score": -0.42,      of a token
        "teacher_score": -1.9,    log-probability under a teacher; null without one, or where it gives none
        "utility": null,          mean metric against the other candidates, 0 to 100, of a minimum Bayes risk choice
        "passes": [
          {"tokens": ["▁Speichern", "▁Sie", "▁Datei", "▁Datei", "."],
           "confidence": [-0.1, -0.2, -1.8, -0.3, 0.0],     log-probability of each token when it was written
           "fate": ["written", "written", "masked", "written", "written"],
           "links": [[0, 1, -0.1], ...]}, ...]}]}        of a graph alone: see below

Tokens are pieces; special symbols are <mask>, <blank>, <unk>. A fate says what the pass did to the position: kept,
written, masked (it is to be predicted again), inserted, deleted (it stood here and is gone now). The passes are those
over the method's own canvas: that of CTC and the Imputer is an alignment, which is collapsed into the tokens of the
candidate; that of DAG is a graph, of whose vertices the path left out those that are deleted, and links are its strong
steps: from, to (0 is the begin, then the vertices, then the end), log-probability. A search that writes one token a
pass is one pass here, of all its tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nat.errors import DataError
from nat.files import to_json
from nat.runs.outputs import write_output
from nat.search.canvas import Fate

DIGITS = 4  # of log-probabilities


@dataclass(frozen=True)
class Pass:
    """A canvas after a pass, with what it took out. tokens: pieces. confidence: log-probability of each when it was
    written. fate: what the pass did to each. links: strong steps of a graph, (from, to, log-probability)."""

    tokens: list[str]
    confidence: list[float]
    fate: list[Fate]
    links: list[tuple[int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.confidence) == len(self.fate):
            raise ValueError("tokens, confidence and fate differ in number")

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Pass:
        """Fates by their names."""
        links = [(int(origin), int(goal), float(score)) for origin, goal, score in plain.get("links", [])]
        return cls(plain["tokens"], plain["confidence"], [Fate[name.upper()] for name in plain["fate"]], links)

    @property
    def left(self) -> list[str]:
        """The tokens that are not deleted."""
        return [token for token, fate in zip(self.tokens, self.fate, strict=True) if fate is not Fate.DELETED]


@dataclass(frozen=True)
class CandidateHistory:
    """One translation and the passes that made it; the fields are those of the file, see above."""

    text: str
    tokens: list[str]
    score: float | None
    mean_score: float | None
    teacher_score: float | None
    utility: float | None
    passes: list[Pass]


@dataclass(frozen=True)
class SentenceHistory:
    """The candidates of one sentence; the fields are those of the file, see above."""

    index: int
    source: str
    reference: str | None
    chosen: int
    num_passes: int
    truncated: bool
    candidates: list[CandidateHistory]
    line: int | None = None

    @property
    def translation(self) -> CandidateHistory:
        return self.candidates[self.chosen]

    def to_plain(self) -> dict[str, Any]:
        """As the file has it."""
        plain = asdict(self)
        for candidate in plain["candidates"]:
            for each in candidate["passes"]:
                each["fate"] = [fate.name.lower() for fate in each["fate"]]
                each["confidence"] = [finite(value) for value in each["confidence"]]
                each["links"] = [(origin, goal, finite(score)) for origin, goal, score in each["links"]]
                if not each["links"]:
                    del each["links"]
            for name in ("score", "mean_score", "teacher_score", "utility"):
                candidate[name] = finite(candidate[name])
        if self.line is None:
            del plain["line"]
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> SentenceHistory:
        """Raises KeyError, TypeError or ValueError if it is not what the file has."""
        candidates = [
            CandidateHistory(**{**candidate, "passes": [Pass.from_plain(each) for each in candidate["passes"]]})
            for candidate in plain["candidates"]
        ]
        sentence = cls(**{**plain, "candidates": candidates})
        if not 0 <= sentence.chosen < len(candidates):
            raise ValueError(f"chosen={sentence.chosen}, of {len(candidates)} candidates")
        return sentence


def finite(value: float | None) -> float | None:
    """With a few digits; JSON has no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, DIGITS)


def write_history(path: Path, sentences: Iterable[SentenceHistory]) -> None:
    """Raises DataError where the file cannot be written."""
    write_output(path, "".join(to_json(item.to_plain()) + "\n" for item in sentences))


def read_history(path: str | Path) -> list[SentenceHistory]:
    """What `nat-decode history=FILE` and nat-report wrote. Raises DataError, naming the line, for anything else."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or unreadable ({error})") from None
    sentences = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                sentences.append(SentenceHistory.from_plain(json.loads(line)))
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise DataError(f"{path}, line {number}: not a line of a decoding history ({reason})") from None
    return sentences
