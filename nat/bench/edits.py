"""nat-bench edits: the Levenshtein Transformer's expert beside a whole training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nat.bench.turns import Contender
from nat.composition import compose
from nat.config import Component, option, parse
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.models.levenshtein import Levenshtein
from nat.nn.rng import RowRandom
from nat.nn.roll_in import damaged, dropped
from nat.ops.edit_distance import best_edits
from nat.training.objective import objective


class PairSizes(Protocol):
    """What made pairs are made of."""

    @property
    def batch_size(self) -> int: ...
    @property
    def source_length(self) -> int: ...
    @property
    def target_length(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...


@dataclass(frozen=True)
class EditSizes:
    batch_size: int = option(48, "rows B", minimum=1, maximum=100_000)
    source_length: int = option(20, "source tokens S", minimum=1, maximum=100_000)
    target_length: int = option(20, "target tokens T", minimum=1, maximum=100_000)
    vocabulary_size: int = option(4000, "vocabulary V", minimum=NUM_SYMBOLS + 1, maximum=1_000_000)


def edits(sizes: EditSizes, device: torch.device) -> list[Contender]:
    """Forward and backward of the Levenshtein Transformer of experiment=small/levenshtein, and the expert's part in it:
    the edits of the two sequences that the policies start from."""
    model, batch = levenshtein(sizes).to(device).train(), random_pairs(sizes).to(device)
    target, alphabet = batch.target, (NUM_SYMBOLS, sizes.vocabulary_size)
    random = RowRandom.of((target.tokens, target.valid), seed=1)
    starts = dropped(target, random), damaged(target, random.fork(0), most=1.0, alphabet=alphabet)

    def step() -> None:
        model.zero_grad()
        objective(model.loss(batch, update=1), target.tokens.numel()).backward()

    def expert() -> None:
        for start in starts:
            best_edits(start.tokens, start.valid, target.tokens, target.valid)

    return [
        Contender("training step of small/levenshtein, forward and backward", step),
        Contender("best_edits, as often as a step calls it", expert, limit=0.05),
    ]


def levenshtein(sizes: EditSizes) -> Levenshtein:
    plain = compose("train", ["experiment=small/levenshtein", "run_dir=unused"])
    vocabularies = Vocabularies(sizes.vocabulary_size, sizes.vocabulary_size, shared=True)
    torch.manual_seed(1)
    built: Levenshtein = parse(Component, plain["model"], "model").build(vocabularies=vocabularies)
    return built


def random_pairs(sizes: PairSizes) -> Batch:
    """Ordinary tokens, no padding."""
    generator = torch.Generator().manual_seed(2)

    def side(length: int) -> tuple[Tensor, Tensor]:
        shape = (sizes.batch_size, length)
        tokens = torch.randint(NUM_SYMBOLS, sizes.vocabulary_size, shape, generator=generator)
        return tokens, torch.ones(shape, dtype=torch.bool)

    return Batch(Source(*side(sizes.source_length)), Target(*side(sizes.target_length)))
