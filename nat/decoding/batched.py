"""Decoding of many sentences: sorted into batches, halved when memory runs out, answered in input order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nat.data.batch import Source
from nat.decoding.batch_options import BatchOptions
from nat.decoding.graphs import GraphedDecoder
from nat.decoding.requests import Wanted, attach
from nat.models.contract import Translation, TranslationModel
from nat.models.options import DecodingOptions
from nat.runs.precision import Precision, decoding_in
from nat.search.canvas import Fate
from nat.search.refine import History, Links

OutOfMemory = torch.OutOfMemoryError
WEAK = math.log(0.02)  # steps of a graph that are less likely are not kept


@dataclass(frozen=True)
class Decoded:
    """One sentence's translations, the best first: token ids and log-probabilities. history: for each of them, where
    the method kept it, the passes: tokens, confidence and fate of every position; links of a graph, see `links_of`.
    undrafted: there is a drafter, and the source is too long for it."""

    tokens: list[list[int]]
    scores: list[float]
    passes: int
    truncated: bool
    history: list[list[dict[str, list[Any]]]] | None = None
    undrafted: bool = False


NOTHING = Decoded([[]], [0.0], 0, False)


def decode_batch(
    decoder: TranslationModel | GraphedDecoder, source: Source, decoding: DecodingOptions
) -> list[Decoded]:
    """One batch; on out-of-memory, its halves. Raises OutOfMemoryError if one sentence alone is too much."""
    try:
        return unpack(decoder.decode(source, decoding=decoding))
    except OutOfMemory:
        if len(source) == 1:
            raise
    torch.cuda.empty_cache()
    rows = torch.arange(len(source), device=source.device)
    halves = rows.tensor_split(2)
    return [decoded for half in halves for decoded in decode_batch(decoder, source.select(half), decoding)]


def unpack(translation: Translation) -> list[Decoded]:
    """Tensors -> lists, with one transfer for all of them."""
    translation = translation.to("cpu")
    tokens, lengths = translation.tokens.tolist(), translation.valid.sum(dim=2).tolist()
    scores, passes, truncated = translation.scores.tolist(), translation.passes.tolist(), translation.truncated.tolist()
    return [
        Decoded(
            [ids[:length] for ids, length in zip(tokens[i], lengths[i], strict=True)],
            scores[i],
            passes[i],
            truncated[i],
            [passes_of(history.select(torch.tensor([i]))) for history in translation.history] or None,
        )
        for i in range(len(tokens))
    ]


def passes_of(history: History) -> list[dict[str, list[Any]]]:
    """The passes of one row as plain data: ids, log-probabilities and fates of the positions that it has. A last pass
    that left nothing cannot be told from none, and is left out."""
    passes: list[dict[str, list[Any]]] = []
    for tokens, confidence, fate in zip(history.tokens[0], history.confidence[0], history.fate[0], strict=True):
        real = fate != int(Fate.NONE)
        names = [Fate(value).name.lower() for value in fate[real].tolist()]
        passes.append({"tokens": tokens[real].tolist(), "confidence": confidence[real].tolist(), "fate": names})
        if history.links is not None:
            passes[-1]["links"] = links_of(history.links, len(names))
    while passes and not passes[-1]["tokens"]:
        passes.pop()
    return passes


def links_of(links: Links, length: int) -> list[tuple[int, int, float]]:
    """Of one row: origin, goal and log-probability of the steps that are not weak. 0 is the begin, its positions are
    1..length, and the end comes after them."""
    goals, log_probs = links.goals[0], links.log_probs[0]
    return [
        (origin, min(goal, length) + 1, score)
        for origin, row in enumerate(zip(goals.tolist(), log_probs.tolist(), strict=True))
        for goal, score in zip(*row, strict=True)
        if origin <= length and score > WEAK
    ]


@torch.inference_mode()
def decode_in_batches(
    model: TranslationModel,
    sources: Sequence[Sequence[int]],
    *,
    decoding: DecodingOptions,
    batches: BatchOptions,
    device: torch.device,
    precision: Precision = Precision.FP32,
    wanted: Sequence[Wanted] | None = None,
    graphs: GraphedDecoder | None = None,
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Yield (indices into `sources`, their translations) batch by batch, longest sentences first.
    Empty sources are answered with an empty translation without asking the model. wanted: of each source's
    translation, where something is. graphs: of the model, where it is to be decoded with CUDA graphs."""
    training = model.training
    if training:  # a walk over all modules: a tenth of the time of a short sentence
        model.eval()
    filled = [i for i, source in enumerate(sources) if source]
    try:
        if len(filled) < len(sources):
            empty = [i for i, source in enumerate(sources) if not source]
            yield empty, [NOTHING] * len(empty)
        for chosen in batches.cut([len(sources[i]) for i in filled]):
            indices = [filled[i] for i in chosen]
            batch = Source.from_lists([sources[i] for i in indices])
            if wanted is not None:
                batch = attach(batch, [wanted[i] for i in indices])
            batch = batch.to(device)
            with decoding_in(precision, device):
                decoded = decode_batch(graphs or model, batch, decoding)
            yield indices, decoded
    finally:
        if training:
            model.train()
