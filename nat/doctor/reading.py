"""From a run folder to facts: options, curves, where the targets are from, and what is in the text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.data.readers import READ_AT_ONCE
from nat.data.tokenized import TokenizedCorpus
from nat.data.vocabulary import NUM_SYMBOLS
from nat.doctor.facts import Origin, Overlap, TrainingText
from nat.evaluation.speed import spread_indices
from nat.files import check_kinds, read_object
from nat.models.contract import TranslationModel

MANIFEST = "manifest.json"  # of nat-distill, beside the corpus that it describes
MANIFEST_KINDS = {"num_lines": float, "num_truncated": float, "num_empty": float, "data": dict}
ENOUGH = 0.995  # of the pairs, see TrainingText.enough
LONGEST_CHAIN = 10  # distillations of distilled text: a manifest may name its own corpus by mistake


def read_origin(data: Mapping[str, Any]) -> Origin:
    """What the manifests of nat-distill say of the training targets, one after the other where a corpus was made from
    another."""
    location = data.get("train")
    seen: list[str] = []
    for _ in range(LONGEST_CHAIN):
        shown = f"data.train={location}"
        if isinstance(location, str) and location.startswith("embedded:"):
            return Origin(False, "; ".join([*seen, f"{shown} is the text that comes with nat, translated by people"]))
        path = Path(location).parent / MANIFEST if isinstance(location, str) else None
        if path is None or not path.is_file():
            told = f"{shown} has no {MANIFEST} of nat-distill beside it"
            return Origin(None, "; ".join([*seen, told]))
        manifest = read_object(path)
        check_kinds(manifest, MANIFEST_KINDS, path)
        if manifest.get("targets", "teacher") == "teacher":
            return Origin(True, f"{shown} was made by the teacher {manifest.get('teacher')}", manifest)
        seen.append(f"{shown} has the targets of the corpus that it was made from ({path})")
        location = manifest.get("data", {}).get("train")
    return Origin(None, "; ".join(seen))


# --- the text --------------------------------------------------------------------------------------


def read_training_text(model: TranslationModel, corpus: TokenizedCorpus, *, count: int) -> TrainingText:
    """Figures of at most `count` pairs, evenly spread."""
    indices = np.array(spread_indices(len(corpus), count))
    pieces: Counter[int] = Counter()
    needs: list[np.ndarray] = []
    unlearnable = 0
    by_source = canvas_follows_source(model)
    short = 0
    for pairs in chunks(corpus, indices):
        pieces.update(token for pair in pairs for token in pair.target)
        if model.vocabularies.shared:
            pieces.update(token for pair in pairs for token in pair.source)
        need, sizes = needed_slots(pairs), source_lengths(pairs)
        needs.append(need / np.maximum(1, sizes))
        is_short = need > model.canvas_length(sizes, need) if by_source else np.zeros(len(pairs), dtype=bool)
        short += int(is_short.sum())
        unlearnable += int((~model.learnable(collate(pairs)).numpy() & ~is_short).sum())
    report = corpus.report
    repeated, differing = repeated_sources(corpus, indices)
    return TrainingText(
        num_pairs=len(corpus),
        num_read=report.total,
        reasons=report.reasons,
        num_looked_at=len(indices),
        num_short=short if by_source else None,
        enough=int(np.ceil(np.quantile(np.concatenate(needs), ENOUGH))),
        num_unlearnable=unlearnable,
        why_unlearnable=model.unlearnable,
        num_target_tokens=float(corpus.target_lengths.sum(dtype=np.int64) + len(corpus)),
        vocabulary_size=model.vocabularies.target_size,
        median_count=median_count(pieces, model.vocabularies.target_size) * len(corpus) / len(indices),
        num_repeated=repeated,
        num_differing=differing,
    )


def chunks(corpus: TokenizedCorpus, indices: np.ndarray) -> Iterator[list[Pair]]:
    for part in np.array_split(indices, -(-len(indices) // READ_AT_ONCE)):
        yield corpus.pairs(part)


def canvas_follows_source(model: TranslationModel) -> bool:
    """Whether a longer target would have no longer canvas."""
    short, long = (model.canvas_length(np.array([10]), np.array([n])) for n in (1, 1000))
    return bool((short == long).all())


def source_lengths(pairs: Sequence[Pair]) -> np.ndarray:
    return np.array([len(pair.source) for pair in pairs])


def needed_slots(pairs: Sequence[Pair]) -> np.ndarray:
    """Target tokens, and a blank between equal neighbours (Graves et al. 2006, section 3.1)."""
    repeats = (sum(a == b for a, b in zip(pair.target, pair.target[1:], strict=False)) for pair in pairs)
    return np.array([len(pair.target) + more for pair, more in zip(pairs, repeats, strict=True)])


def median_count(pieces: Mapping[int, int], vocabulary_size: int) -> float:
    """Occurrences of the median of the ordinary pieces."""
    return float(np.median([pieces.get(token, 0) for token in range(NUM_SYMBOLS, vocabulary_size)]))


def repeated_sources(corpus: TokenizedCorpus, indices: np.ndarray) -> tuple[int, int]:
    """Different sources that occur several times, and those of them with several targets."""
    targets: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in zip(*corpus.texts(indices), strict=True):
        targets[source].append(target)
    several = [lines for lines in targets.values() if len(lines) > 1]
    return len(several), sum(len(set(lines)) > 1 for lines in several)


def read_overlap(split: str, held_out: TokenizedCorpus, training_sources: set[str]) -> Overlap:
    sources = held_out.texts(np.arange(len(held_out)))[0]
    return Overlap(split, len(sources), sum(source in training_sources for source in sources))
