"""The language of every word of a translation: posteriors from counts in the training text, priors equal.

    p(l | w) = (r_l(w) + k b_l(w)) / (sum_m r_m(w) + k)

r_l(w) is how often w occurs in the training text of language l, scaled as if all languages had equally many words. k,
`smoothing`, is shared out by b(w), all that is left for a word that no language's text has: the posterior of character
n-grams, or, for a word of the source language, 1/L for each of L languages, since a copied word is no one's.

A word is a row of letters, in small letters, an elided one with its apostrophe (l', d'). Numbers and punctuation are no
words; they belong to every language alike, and so do the token pieces that touch no word. A piece's posterior is its
word's. What a word tells, its `weight`, is 1 - H(p) / log L: 1 for a word of one language, 0 for one of all alike.

Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.1, take a token's relative frequency in each language.
Departs from the paper: words instead of pieces, and the back-off; what sentences are made of, see `mixing`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from nat.data.tokenizer import SPACE
from nat.errors import DataError

WORD = re.compile(r"[^\W\d_]+['’](?=[^\W\d_])|[^\W\d_]+")
ORDER = 3  # characters of the longest n-gram: the most probable held-out new words of lohelp4, of 3 to 6
ROUNDING = 1e-9  # even odds have a weight of exactly 0
BEGIN, END = "\x02", "\x03"

Posteriors = Float[np.ndarray, "T L"]


@dataclass(frozen=True)
class Word:
    """A word of a line: its first character, the one behind it, and its text in small letters."""

    start: int
    end: int
    text: str


def words_of(line: str) -> list[Word]:
    """The words of a line, in order."""
    return [Word(match.start(), match.end(), folded(match[0])) for match in WORD.finditer(line)]


def folded(text: str) -> str:
    """In small letters, with a straight apostrophe."""
    return text.lower().replace("’", "'")


def weights_of(posteriors: Posteriors) -> Float[np.ndarray, " T"]:
    """What each word tells of its language, from 0, nothing, to 1, everything."""
    safe = np.where(posteriors > 0, posteriors, 1.0)
    entropy = -(posteriors * np.log(safe)).sum(axis=1)
    weights = 1.0 - entropy / math.log(posteriors.shape[1])
    return np.where(weights > ROUNDING, weights, 0.0)


@dataclass(frozen=True, eq=False)
class Languages:
    """Tells the language of words. names: of the L languages. rates: r(w) of every word of their texts, (L,).
    source_words: words of the source language. spellings: the character model of each language."""

    names: tuple[str, ...]
    rates: Mapping[str, np.ndarray]
    source_words: frozenset[str]
    spellings: Sequence[Spelling]
    smoothing: float
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def learn(cls, targets: Mapping[str, Iterable[str]], sources: Iterable[str], *, smoothing: float) -> Languages:
        """targets: the training text of each language; sources: that of the source language. Raises DataError for a
        language that has no word there."""
        counts = [Counter(word.text for line in lines for word in words_of(line)) for lines in targets.values()]
        totals = np.array([count.total() for count in counts], dtype=float)
        for name, total in zip(targets, totals, strict=True):
            if not total:
                raise DataError(f"data.train: has no word of language '{name}'; its words cannot be told")
        scale = totals.mean() / totals
        rates = {word: scale * [count[word] for count in counts] for word in set().union(*counts)}
        letters = {letter for word in rates for letter in word}
        spellings = [Spelling.learn(sorted(count), num_letters=len(letters)) for count in counts]
        source_words = frozenset(word.text for line in sources for word in words_of(line))
        return cls(tuple(targets), rates, source_words, spellings, smoothing)

    def posterior(self, word: str) -> Float[np.ndarray, " L"]:
        """p(l | word) of a word as `words_of` gives it."""
        if word not in self.known:
            left_over = self._left_over(word)
            rates = self.rates.get(word)
            mass = left_over if rates is None else rates + self.smoothing * left_over
            self.known[word] = mass / mass.sum()
        return self.known[word]

    def posteriors(self, words: Sequence[Word]) -> Posteriors:
        """Of the words of a line, which may be none."""
        return np.array([self.posterior(word.text) for word in words]).reshape(len(words), len(self.names))

    def of_pieces(self, pieces: Sequence[str]) -> Posteriors:
        """Of the token pieces of a line: that of the word that a piece is in, of the first if it touches several, and
        1/L each for a piece without letters."""
        texts = [piece.replace(SPACE, " ") for piece in pieces]
        words = words_of("".join(texts))
        posteriors = np.full((len(pieces), len(self.names)), 1.0 / len(self.names))
        start = 0
        for number, text in enumerate(texts):
            end = start + len(text)
            inside = [word for word in words if word.start < end and start < word.end]
            if inside:
                posteriors[number] = self.posterior(inside[0].text)
            start = end
        return posteriors

    def _left_over(self, word: str) -> Float[np.ndarray, " L"]:
        """b(w): what is said of a word without counts."""
        if word in self.source_words:
            return np.full(len(self.names), 1.0 / len(self.names))
        scores = np.array([spelling.log_prob(word) for spelling in self.spellings])
        shares = np.exp(scores - scores.max())
        return shares / shares.sum()


@dataclass(frozen=True, eq=False)
class Spelling:
    """How a language spells: characters after the ORDER - 1 before them, interpolated with shorter contexts by Witten &
    Bell 1991, down to even odds. Learnt from its different words, each once: new words are like rare ones.

    followers: of each context, how often each character comes after it. num_letters: of all languages together.
    """

    followers: Mapping[str, Counter[str]]
    num_letters: int

    @classmethod
    def learn(cls, words: Iterable[str], *, num_letters: int) -> Spelling:
        followers: dict[str, Counter[str]] = {}
        for word in words:
            for context, letter in contexts(word):
                for start in range(len(context) + 1):
                    followers.setdefault(context[start:], Counter())[letter] += 1
        return cls(followers, num_letters)

    def log_prob(self, word: str) -> float:
        """Log-probability of a word and its end."""
        return sum(math.log(self._prob(context, letter)) for context, letter in contexts(word))

    def _prob(self, context: str, letter: str) -> float:
        prob = 1.0 / (self.num_letters + 2)  # the end of a word, and a letter never seen
        for start in range(len(context), -1, -1):
            seen = self.followers.get(context[start:])
            if seen is None:
                break
            prob = (seen[letter] + len(seen) * prob) / (seen.total() + len(seen))
        return prob


def contexts(word: str) -> list[tuple[str, str]]:
    """Each character of a word, and its end, with the ORDER - 1 characters before it."""
    text = BEGIN * (ORDER - 1) + word + END
    return [(text[i - ORDER + 1 : i], text[i]) for i in range(ORDER - 1, len(text))]
