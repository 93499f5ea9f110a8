"""The one length model: how much longer or shorter than its source a translation is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.nn.attention.base import tightest
from nat.nn.seq2seq import Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.precision import at_least_float32


class Summary(Enum):
    MEAN = "mean"
    TOKEN = "token"


class LengthPredictor(nn.Module):
    """A classifier over the difference T - S, from a summary of the source.

    The summary is the mean of the encoder's states (Lee et al. 2018, section 5), or the state of an extra position
    before the source, [LENGTH] (Ghazvininejad et al. 2019, section 3.3; departs from the paper, which predicts T and
    not T - S). Differences beyond max_offset are not clamped: such pairs are not learnable.
    """

    @dataclass(frozen=True)
    class Config:
        summary: Summary = option(Summary.MEAN, "mean of the encoder's states, or the state of a [LENGTH] token")
        max_offset: int = option(
            256, "largest difference between source and target length, in tokens", minimum=1, maximum=100_000
        )
        weight: float = option(0.1, "weight of its loss, a sum over sentences beside one over tokens", above=0)

    def __init__(self, config: Config, *, dim: int) -> None:
        super().__init__()
        self.config = config
        self.classify = nn.Linear(dim, 2 * config.max_offset + 1)
        nn.init.normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)
        self.token = nn.Parameter(torch.randn(dim) * 0.02) if config.summary is Summary.TOKEN else None

    def encode(self, net: Seq2Seq, source: Source) -> tuple[Memory, Float[Tensor, "B O"]]:
        """The memory of a right-padded source, and the log-probabilities of each difference."""
        memory = net.encode(source, first=self.token)
        if self.token is None:
            weights = memory.valid / memory.valid.sum(dim=1, keepdim=True).clamp(min=1)  # (B, S)
            summary = (memory.states * weights[:, :, None]).sum(dim=1)
        else:
            summary = memory.states[:, 0]
            memory = memory.map(lambda t: t[:, 1:])
        return memory, F.log_softmax(at_least_float32(self.classify(summary)), dim=-1)

    def log_prob(
        self, log_probs: Float[Tensor, "B O"], source_lengths: Int[Tensor, " B"], target_lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Of these target lengths; -inf where out of reach."""
        index = target_lengths - source_lengths + self.config.max_offset
        inside = (index >= 0) & (index < log_probs.size(1))
        scores = log_probs.gather(1, index.clamp(0, log_probs.size(1) - 1)[:, None]).squeeze(1)
        return scores.masked_fill(~inside, -torch.inf)

    def best(
        self, log_probs: Float[Tensor, "B O"], source_lengths: Int[Tensor, " B"], count: int, *, limit: int | None
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The `count` most probable target lengths from 1 to `limit`, the best first, with their log-probabilities
        (-inf where there are fewer; their length is 1)."""
        log_probs = F.pad(log_probs, (0, max(0, count - log_probs.size(1))), value=-torch.inf)
        offsets = torch.arange(log_probs.size(1), device=log_probs.device) - self.config.max_offset
        lengths = source_lengths[:, None] + offsets  # (B, O)
        possible = (lengths >= 1) & (lengths <= (lengths if limit is None else limit))
        ranked, order = log_probs.masked_fill(~possible, -torch.inf).sort(dim=1, descending=True, stable=True)
        scores, chosen = ranked[:, :count], lengths.gather(1, order[:, :count])
        return chosen.where(scores > -torch.inf, 1), scores

    def loss(self, log_probs: Float[Tensor, "B O"], batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Minus the log-probability of the targets' lengths, summed, and how many there are; those out of reach are
        left out."""
        scores = self.log_prob(log_probs, batch.source.lengths, batch.target.lengths)
        known = scores > -torch.inf
        return -scores.masked_fill(~known, 0.0).sum(), known.sum()

    def max_source_length(self, net: Seq2Seq) -> int | None:
        """The most tokens of a source that `encode` takes: [LENGTH] needs a place in the encoder's attention."""
        limit = net.encoder.max_length
        if limit is not None and self.token is not None:
            limit -= 1
        return tightest((net.max_source_length, limit))

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Pairs of two filled sides, with a difference that the classifier can say."""
        sources, targets = batch.source.lengths, batch.target.lengths
        return (sources >= 1) & (targets >= 1) & ((targets - sources).abs() <= self.config.max_offset)
