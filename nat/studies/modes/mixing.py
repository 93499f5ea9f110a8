"""Languages mixed inside sentences, as one number with its standard error.

A sentence is taken as drawn from a mixture of languages, whose shares s are those of the highest likelihood:

    s = argmax_s sum_t log sum_l s_l p(w_t | l),  where p(w | l) is proportional to p(l | w), since priors are equal

by expectation maximisation from equal shares. Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.1, plot the
mean posterior, which is its first step; but languages share words, "de" is French and Spanish, and that step takes a
sentence of such words for a mixed one, while the highest likelihood wants words that one language cannot explain. Words
that tell nothing change nothing. With n_i, the weights of the words of sentence i together (`nat.studies.modes.
languages`), the mixing of a text is the expected share of its words that are not in their sentence's main language:

    mixing = sum_i n_i (1 - max_l s_il) / sum_i n_i

0 where every sentence is in one language, at most 1 - 1/L. References do not quite score 0 either: the floor is the
mixing of the references of the same sentences in the languages that a system chose, and its excess is what it mixes
above them. Standard errors are of bootstrap resampling (Efron 1979) of sentences, which come with their references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nat.studies.modes.languages import Languages, Posteriors, weights_of, words_of

NUM_RESAMPLES = 1000
STEPS = 1000  # of expectation maximisation: words that are 1 % likelier in one language add up to it in so many
SEED = 1  # of the resampling: the same outputs give the same errors

Masses = Float[np.ndarray, "N L"]


@dataclass(frozen=True, eq=False)
class Contents:
    """What N sentences are made of. masses: (N, L) n_i s_il. means: (N, L) the plain mean posterior of the words, as in
    Zhou et al. 2020; 1/L each where there is no word."""

    masses: Masses
    means: Masses

    @classmethod
    def of(cls, lines: Sequence[str], languages: Languages) -> Contents:
        posteriors = [languages.posteriors(words_of(line)) for line in lines]
        weights = np.array([weights_of(part).sum() for part in posteriors])
        masses = weights[:, None] * likeliest_shares(posteriors, len(languages.names))
        even = np.full(len(languages.names), 1.0 / len(languages.names))
        means = np.array([part.mean(axis=0) if len(part) else even for part in posteriors]).reshape(masses.shape)
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
        """s_il, a sentence's place in the simplex; 1/L each where no word tells."""
        even = np.full_like(self.masses, 1.0 / self.masses.shape[1])
        return np.divide(self.masses, self.masses.sum(axis=1, keepdims=True), out=even, where=self.telling[:, None])


def likeliest_shares(posteriors: Sequence[Posteriors], num_languages: int) -> Masses:
    """Of sentences with these posteriors of their words, the shares of the languages of the highest likelihood; 0 each
    where there is no word."""
    longest = max([1, *(len(part) for part in posteriors)])
    words = np.zeros((len(posteriors), longest, num_languages))
    for row, part in zip(words, posteriors, strict=True):
        row[: len(part)] = part
    counts = np.array([max(1, len(part)) for part in posteriors])
    shares = np.full((len(posteriors), num_languages), 1.0 / num_languages)
    for _ in range(STEPS):
        joint = words * shares[:, None, :]  # (N, T, L)
        responsible = joint / np.maximum(joint.sum(axis=2, keepdims=True), 1e-300)
        shares = responsible.sum(axis=1) / counts[:, None]
    return shares


def mixing(contents: Contents) -> float:
    """Expected share of the words that are not in their sentence's main language; 0 where no word tells."""
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
    """Of each sentence the reference in its main language, nothing for one that has none, since no word tells.
    references: the contents of each language's references."""
    rows = np.arange(len(contents.main))
    masses, means = (np.stack([getattr(part, name) for part in references]) for name in ("masses", "means"))
    return Contents(masses[contents.main, rows] * contents.telling[:, None], means[contents.main, rows])


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
