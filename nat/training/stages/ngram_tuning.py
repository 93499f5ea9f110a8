"""Fine-tuning of a CTC model on the bigrams that it is expected to share with the reference, in whatever order.

Shao & Feng 2022, "Non-Monotonic Latent Alignments for CTC-Based Non-Autoregressive Machine Translation",
https://arxiv.org/abs/2210.03953.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nat.data.batch import Batch
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Symbol
from nat.models.contract import LossTerm, TranslationModel
from nat.models.ctc import CTC
from nat.ops import ctc
from nat.ops.lattice import TargetScores
from nat.ops.ngrams import bigram_f1, expected_length
from nat.training.stages.base import Stage


class NgramTuning(Stage):
    """Minus the F1 of expected bigrams, a sum over sentences. A likelihood must have converged before: where no bigram
    is expected, there is nothing to learn from. What glancing and deep supervision add to the likelihood has no place
    here."""

    fits = CTC

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(
        self, config: Config, *, model: TranslationModel, tokenizers: Tokenizers, device: torch.device
    ) -> None:
        assert isinstance(model, CTC), "check refuses others"
        self.model = model

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """Term bigrams; as statistics the negative log-likelihood, and the expected length beside the target's."""
        batch = batch.compact()
        target = batch.target
        head, states, slots = self.model.states(batch.source)
        log_probs = head.full(states)
        blank = int(Symbol.BLANK)
        scored = TargetScores.gather(log_probs, target.tokens, slots.lengths, target.lengths, blank=blank)
        length = expected_length(log_probs, slots.valid, blank=blank)
        with torch.no_grad():
            nll, alignable = ctc.marginal_loss(scored, log_probs.dtype)
        return {
            "bigrams": LossTerm(-bigram_f1(scored, length).sum(), (target.lengths > 1).sum()),
            "nll": LossTerm(nll.sum(), (target.lengths * alignable).sum(), weight=0.0),
            "length_ratio": LossTerm(length.detach().sum(), target.lengths.sum(), weight=0.0),
        }
