"""Which sentences are computed together: options of whatever decodes or scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nat.config import option
from nat.data.batching import length_sorted_batches


@dataclass(frozen=True)
class BatchOptions:
    """They change speed and memory, never a translation."""

    batch_size: int = option(64, "sentences in a batch, at most", minimum=1, maximum=1_000_000)
    max_tokens: int | None = option(
        None, "rows x padded source length of a batch, at most; null: no limit", minimum=1, maximum=1_000_000_000
    )

    def cut(self, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Batches of sentences of these lengths: their indices, the longest first; a sentence of more than max_tokens
        is a batch of its own."""
        return length_sorted_batches(lengths, batch_size=self.batch_size, max_tokens=self.max_tokens)


USUAL, ALONE = BatchOptions(), BatchOptions(batch_size=1)
