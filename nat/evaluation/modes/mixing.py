"""Languages mixed inside sentences, as one number with its standard error.

Of a sentence whose words have posteriors p_t and weights w_t (`nat.evaluation.modes.languages`), m_l = sum_t w_t p_t(l)
is what is in language l; its main language has the largest m_l. The mixing of a text is the expected share of what its
words tell that is not in the main language of their sentence:

    mixing = sum_i (sum_l m_il - max_l m_il) / sum_i sum_l m_il

0 where every sentence is in one language, at most 1 - 1/L. Languages share words, so that references do not score 0
either: the floor is the mixing of the references of the same sentences in the languages that a system chose, and its
excess is what it mixes above them. Standard errors are of bootstrap resampling (Efron 1979) of sentences, which come
with their references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nat.evaluation.modes.languages import Languages, weights_of, words_of

NUM_RESAMPLES = 1000
SEED = 1  # of the resampling: the same outputs give the same errors

Masses = Float[np.ndarray, "N L"]


@dataclass(frozen=True, eq=False)
class Contents:
    """What N sentences are made of. masses: (N, L) m_il. means: (N, L) the plain mean posterior of the words, as in
    Zhou et al. 2020; 1/L each where there is no word."""

    masses: Masses
    means: Masses

    @classmethod
    def of(cls, lines: Sequence[str], languages: Languages) -> Contents:
        count = len(languages.names)
        masses, means = np.zeros((len(lines), count)), np.full((len(lines), count), 1.0 / count)
        for number, line in enumerate(lines):
            posteriors = languages.posteriors(words_of(line))
            if len(posteriors):
                masses[number] = weights_of(posteriors) @ posteriors
                means[number] = posteriors.mean(axis=0)
        return cls(masses, means)

    @property
    def main(self) -> Int[np.ndarray, " N"]:
        """Number of each sentence's main language; of equals, and where no word tells, the first."""
        return self.masses.argmax(axis=1)

    @property
    def telling(self) -> np.ndarray:
        """(N,) bool: sentences with a word that tells its language."""
        return self.masses.sum(axis=1) > 0

    @property
    def shares(self) -> Masses:
        """m_il / sum_l m_il, a sentence's place in the simplex; 1/L each where no word tells."""
        even = np.full_like(self.masses, 1.0 / self.masses.shape[1])
        return np.divide(self.masses, self.masses.sum(axis=1, keepdims=True), out=even, where=self.telling[:, None])


def mixing(contents: Contents) -> float:
    """Expected share of what the words tell that is not their sentence's main language; 0 where no word tells."""
    return float(ratio(*parts(contents)))


def parts(contents: Contents) -> tuple[np.ndarray, np.ndarray]:
    """(N,) numerators and denominators of the mixing."""
    totals = contents.masses.sum(axis=1)
    return totals - contents.masses.max(axis=1), totals


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratio of sums over the last dimension; 0 for 0 / 0."""
    return above.sum(axis=-1) / np.maximum(below.sum(axis=-1), 1e-12)


def plain_mixing(contents: Contents) -> float:
    """Mean over sentences of 1 - max_l of the plain mean posterior."""
    return float((1.0 - contents.means.max(axis=1)).mean())


def entropy(contents: Contents) -> float:
    """Mean over the telling sentences of the entropy of their shares, in nats; 0 where there is none."""
    shares = contents.shares[contents.telling]
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(-(shares * logs).sum(axis=1).mean()) if len(shares) else 0.0


@dataclass(frozen=True)
class Excess:
    """Mixing of a text, of the references of the languages that it chose (floor), and the difference, each with its
    standard error."""

    mixing: float
    mixing_error: float
    floor: float
    excess: float
    excess_error: float


def resamples(count: int) -> Int[np.ndarray, "R N"]:
    """Sentences of each resampled text."""
    return np.random.default_rng(SEED).integers(0, count, size=(NUM_RESAMPLES, count))


def chosen(contents: Contents, references: Sequence[Contents]) -> Contents:
    """Of each sentence the reference in its main language. references: the contents of each language's references."""
    rows = np.arange(len(contents.main))
    masses, means = (np.stack([getattr(part, name) for part in references]) for name in ("masses", "means"))
    return Contents(masses[contents.main, rows], means[contents.main, rows])


def excess(contents: Contents, floor: Contents, rows: Int[np.ndarray, "R N"]) -> Excess:
    """rows: see `resamples`. floor: see `chosen`."""
    own, least = resampled(contents, rows), resampled(floor, rows)
    here, there = mixing(contents), mixing(floor)
    return Excess(here, float(own.std(ddof=1)), there, here - there, float((own - least).std(ddof=1)))


def resampled(contents: Contents, rows: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """Mixing of each resampled text."""
    above, below = parts(contents)
    return ratio(above[rows], below[rows])


def chance(
    more: Contents, more_floor: Contents, less: Contents, less_floor: Contents, rows: Int[np.ndarray, "R N"]
) -> float:
    """How often a resampled text (the same for both) does not show the excess of `more` above that of `less`: the p of
    a paired bootstrap, one-sided (Koehn 2004, https://aclanthology.org/W04-3250)."""
    first = resampled(more, rows) - resampled(more_floor, rows)
    second = resampled(less, rows) - resampled(less_floor, rows)
    return float((first <= second).mean())
