"""Decoding of many sentences: sorted into batches, halved when memory runs out, answered in input order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nat.data.batch import Source
from nat.data.batching import length_sorted_batches
from nat.models.base import DecodingOptions, Translation, TranslationModel

OutOfMemory = torch.OutOfMemoryError


@dataclass(frozen=True)
class Decoded:
    """One sentence's translations, the best first: token ids and log-probabilities."""

    tokens: list[list[int]]
    scores: list[float]
    passes: int
    truncated: bool


NOTHING = Decoded([[]], [0.0], 0, False)


def decode_batch(model: TranslationModel, source: Source, decoding: DecodingOptions) -> list[Decoded]:
    """One batch; on out-of-memory, its halves. Raises OutOfMemoryError if one sentence alone is too much."""
    try:
        return unpack(model.decode(source, decoding=decoding))
    except OutOfMemory:
        if len(source) == 1:
            raise
    torch.cuda.empty_cache()
    rows = torch.arange(len(source), device=source.device)
    halves = rows.tensor_split(2)
    return [decoded for half in halves for decoded in decode_batch(model, source.select(half), decoding)]


def unpack(found: Translation) -> list[Decoded]:
    """Tensors -> lists, with one transfer for each field."""
    tokens, lengths = found.tokens.tolist(), found.valid.sum(dim=2).tolist()
    scores, passes, truncated = found.scores.tolist(), found.passes.tolist(), found.truncated.tolist()
    return [
        Decoded(
            [ids[:length] for ids, length in zip(tokens[i], lengths[i], strict=True)],
            scores[i],
            passes[i],
            truncated[i],
        )
        for i in range(len(tokens))
    ]


@torch.inference_mode()
def decode_in_batches(
    model: TranslationModel,
    sources: Sequence[Sequence[int]],
    *,
    decoding: DecodingOptions,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Yield (indices into `sources`, their translations) batch by batch, longest sentences first.
    Empty sources are answered with an empty translation without asking the model."""
    training = model.training
    if training:  # a walk over all modules: a tenth of the time of a short sentence
        model.eval()
    filled = [i for i, source in enumerate(sources) if source]
    try:
        if len(filled) < len(sources):
            empty = [i for i, source in enumerate(sources) if not source]
            yield empty, [NOTHING] * len(empty)
        for chosen in length_sorted_batches([len(sources[i]) for i in filled], batch_size=batch_size):
            indices = [filled[i] for i in chosen]
            batch = Source.from_lists([sources[i] for i in indices]).to(device)
            with autocast():
                decoded = decode_batch(model, batch, decoding)
            yield indices, decoded
    finally:
        if training:
            model.train()
