"""Fine-tuning of a CTC or DAG model on the bigrams that it is expected to share with the reference, in whatever order.

Shao & Feng 2022, "Non-Monotonic Latent Alignments for CTC-Based Non-Autoregressive Machine Translation",
https://arxiv.org/abs/2210.03953; Shao, Ma, Zhang & Feng 2023, "Fuzzy Alignments in Directed Acyclic Graph for
Non-Autoregressive Machine Translation", https://arxiv.org/abs/2303.06662.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nat.config import Component
from nat.data.batch import Batch
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError
from nat.models.contract import LossTerm, TranslationModel
from nat.models.ctc import CTC
from nat.models.dag import DAG
from nat.ops import ctc, dag
from nat.ops.lattice import TargetScores
from nat.ops.ngrams import bigram_f1, bigram_precision, expected_length
from nat.training.stages.base import Stage


@dataclass(frozen=True)
class Expected:
    """What is expected of each row. shared: how well its bigrams match the target's, 0 to 1. length: in tokens. nll: of
    the target, without a gradient, where that is possible."""

    shared: Float[Tensor, " B"]
    length: Float[Tensor, " B"]
    nll: Float[Tensor, " B"]
    possible: Bool[Tensor, " B"]


def of_slots(model: CTC, batch: Batch) -> Expected:
    """By F1."""
    head, states, slots = model.states(batch.source)
    log_probs, target, blank = head.full(states), batch.target, int(Symbol.BLANK)
    scored = TargetScores.gather(log_probs, target.tokens, slots.lengths, target.lengths, blank=blank)
    length = expected_length(log_probs, slots.valid, blank=blank)
    with torch.no_grad():
        nll, possible = ctc.marginal_loss(scored, log_probs.dtype)
    return Expected(bigram_f1(scored, length), length, nll, possible)


def of_graph(model: DAG, batch: Batch) -> Expected:
    """By precision, with a brevity penalty."""
    graph, target = model.read(batch.source), batch.target
    emissions, _ = graph.columns(target)
    shared, length = bigram_precision(emissions, graph.transitions, target.tokens, target.lengths)
    with torch.no_grad():
        nll, possible = dag.marginal_loss(emissions, graph.transitions, target.lengths)
    return Expected(shared, length, nll, possible)


METHODS: dict[type[TranslationModel], Callable[[Any, Batch], Expected]] = {CTC: of_slots, DAG: of_graph}


class NgramTuning(Stage):
    """Minus what is shared, a sum over sentences. A likelihood must have converged before: where no bigram is expected,
    there is nothing to learn from. What glancing and deep supervision add to the likelihood has no place here."""

    fits = tuple(METHODS)

    @dataclass(frozen=True)
    class Config:
        pass

    @classmethod
    def check(cls, config: Any, *, model: Component[TranslationModel]) -> None:
        super().check(config, model=model)
        if issubclass(model.target, DAG) and model.config.crf.weight > 0:
            raise ConfigError(f"stage: {cls.__name__} trains the paths of a DAG, not its field; model.crf.weight=0 can")

    def __init__(
        self, config: Config, *, model: TranslationModel, tokenizers: Tokenizers, device: torch.device
    ) -> None:
        self.model, self.expected = model, METHODS[type(model)]

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """Term bigrams; as statistics the negative log-likelihood, and the expected length beside the target's."""
        batch = batch.compact()
        found, lengths = self.expected(self.model, batch), batch.target.lengths
        return {
            "bigrams": LossTerm(-found.shared.sum(), (lengths > 1).sum()),
            "nll": LossTerm(found.nll.sum(), (lengths * found.possible).sum(), weight=0.0),
            "length_ratio": LossTerm(found.length.detach().sum(), lengths.sum(), weight=0.0),
        }
