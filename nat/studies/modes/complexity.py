"""Complexity and faithfulness of parallel text (Zhou et al. 2020, https://arxiv.org/abs/1911.02727, section 3.2).

Both look at p(y | x), how often the source word x is aligned to the target word y by an external aligner: here
fast_align's model (Dyer et al. 2013), the one of nat-distill. Entropies are in nats.

    C(d) = 1/|V_x| sum_x H(y | x)                          equation 3: how many translations a word has
    F(d) = 1/|V_x| sum_x KL(p_real(y | x) || p_d(y | x))   equation 4: how far the text d is from the real one

V_x are the source words that have a link, in F those of the real text. What the real text has and d has not would make
F infinite: p_d, and it alone, is smoothed over the words Y_x that x is aligned to in either text,
(c_d(x, y) + 1/2) / (c_d(x) + |Y_x| / 2), the estimate of Krichevsky & Trofimov 1981. So F of the real text itself is
not quite 0; it stands in the table, as the least that F can be.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from nat.data.pairs import Pair
from nat.distill.fertilities import WordAligner

ADDED = 0.5  # Krichevsky & Trofimov 1981
READ_AT_ONCE = 1000  # pairs whose links are in memory together
PART = re.compile(r"[^\W\d_]+['’](?=[^\W\d_])|\w+|[^\w\s]")  # words, numbers, and each sign of punctuation

Counts = Mapping[str, Counter[str]]  # of each source word, how often it is aligned to each target word


def aligned_words(sources: Sequence[str], targets: Sequence[str]) -> Counts:
    """Links of all pairs, counted. Raises ConfigError if the aligner's package is not installed."""
    known: dict[str, int] = {}
    pairs = [
        Pair(*([known.setdefault(part, len(known)) for part in PART.findall(line)] for line in pair))
        for pair in zip(sources, targets, strict=True)
    ]
    parts = list(known)
    aligner = WordAligner()
    aligner.add(pairs)
    aligner.learn()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for start in range(0, len(pairs), READ_AT_ONCE):
        part = pairs[start : start + READ_AT_ONCE]
        for pair, links in zip(part, aligner.links(part), strict=True):
            for source, target in links:
                counts[parts[pair.source[source]]][parts[pair.target[target]]] += 1
    return counts


def complexity(counts: Counts) -> float:
    """C, in nats."""
    return sum(entropy(count) for count in counts.values()) / max(1, len(counts))


def entropy(count: Counter[str]) -> float:
    """Of relative frequencies, in nats."""
    total = count.total()
    return -sum(n / total * math.log(n / total) for n in count.values() if n)


def faithfulness(real: Counts, other: Counts) -> float:
    """F of the text `other`, in nats: 0 is best."""
    return sum(divergence(count, other.get(word, Counter())) for word, count in real.items()) / max(1, len(real))


def divergence(real: Counter[str], other: Counter[str]) -> float:
    """KL of the relative frequencies in `real` from the smoothed ones in `other`, over the words of both."""
    total = real.total()
    below = other.total() + ADDED * len(real | other)
    return sum(n / total * math.log(n / total * below / (other[word] + ADDED)) for word, n in real.items() if n)
