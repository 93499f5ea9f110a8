"""A linear-chain conditional random field over the tokens of positions, or of the vertices that a path visits.

Sun, Li, Wang, He, Lin & Deng 2019, "Fast Structured Decoding for Sequence Models", https://arxiv.org/abs/1910.11555;
the normaliser is a sum over the most probable tokens of each position alone. Over the best path of a directed acyclic
transformer: as in DAT-CRF (ECAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Target
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError
from nat.nn.head import Head
from nat.nn.rng import RowRandom
from nat.nn.token_transitions import TokenTransitions
from nat.ops.crf import FLOOR, Chain
from nat.ops.precision import at_least_float32


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """Options of every random field."""

    transitions: TokenTransitions.Config = field(default_factory=TokenTransitions.Config)
    beam: int = option(
        64,
        "most probable tokens of each position that the field is of; the rest has no probability",
        minimum=1,
        maximum=1_000_000,
    )


@dataclass(frozen=True)
class RandomField:
    """The random field of each row. tokens: (B, L, K) of the chain's candidates, ascending."""

    tokens: Int[Tensor, "B L K"]
    chain: Chain

    @classmethod
    def of(
        cls,
        scores: Float[Tensor, "B L V"],
        states: Float[Tensor, "B L D"],
        lengths: Int[Tensor, " B"],
        reference: Int[Tensor, "B L"] | None = None,
        *,
        transitions: TokenTransitions,
        beam: int,
    ) -> RandomField:
        """scores: of the states, from the head. reference: tokens that are candidates whatever their scores. beam: K,
        unless the vocabulary is smaller."""
        ranks = scores.detach()
        if reference is not None:
            ranks = ranks.scatter(2, reference[:, :, None], torch.inf)
        best = ranks.topk(min(beam, scores.size(2)), dim=2).indices
        tokens = best.sort(dim=2).values  # topk promises no order of ties, and padding must not change it
        emissions = at_least_float32(scores.gather(2, tokens)).clamp(min=FLOOR)
        return cls(tokens, Chain(emissions, transitions(tokens, states), lengths))

    def log_probs(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Of whole sequences of candidates."""
        places = (self.tokens == tokens[:, :, None]).to(torch.uint8).argmax(dim=2)
        return self.chain.scores(places) - self.chain.log_normaliser()

    def written(
        self, random: RowRandom | None, *, temperature: float | None
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """The most probable sequence, or one that is sampled at the temperature; and the log-probability of each token
        given those before it."""
        if random is None or temperature is None:
            places = self.chain.best()
        else:
            places = self.chain.cooled(temperature).sampled(random.uniform(self.tokens.size(1)))
        return self.tokens.gather(2, places[:, :, None]).squeeze(2), self.chain.conditionals(places)


class PathField(nn.Module):
    """A random field over the vertices that a path visits. held: (B, A), for each vertex the number of the token that
    it holds, -1 where the path does not visit it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(FieldConfig):
        weight: float = option(0.0, "weight of its loss beside that of the paths; 0: no field", minimum=0, maximum=1000)

        def __post_init__(self) -> None:
            for f in fields(FieldConfig):
                if self.weight == 0 and getattr(self, f.name) != getattr(FieldConfig(), f.name):
                    raise ConfigError(f"{f.name}: has no effect with weight=0, which is without a field")

    def __init__(self, config: Config, *, size: int, dim: int) -> None:
        """size: V, of the target vocabulary. dim: D."""
        super().__init__()
        self.config = config
        self.transitions = TokenTransitions(config.transitions, size=size, dim=dim)

    def forward(
        self,
        head: Head,
        states: Float[Tensor, "B A D"],
        held: Int[Tensor, "B A"],
        reference: Int[Tensor, "B L"] | None = None,
        *,
        width: int,
    ) -> RandomField:
        """width: L, of the field, more than the longest path has vertices. reference: as `RandomField.of` has it."""
        on_path, numbers = held >= 0, torch.arange(held.size(1), device=held.device).expand_as(held)
        order = held.new_zeros(len(held), width).scatter(1, held.where(on_path, width - 1), numbers)  # the last is none
        path = states.gather(1, order[:, :, None].expand(-1, -1, states.size(2)))
        return RandomField.of(
            head.scores(path),
            path,
            on_path.sum(dim=1),
            reference,
            transitions=self.transitions,
            beam=self.config.beam,
        )

    def nll(
        self, head: Head, states: Float[Tensor, "B A D"], held: Int[Tensor, "B A"], target: Target
    ) -> Float[Tensor, " B"]:
        """Minus the log-probability of the right-padded targets; 0 where a path is empty, or there is none."""
        reference = F.pad(target.tokens, (0, 1), value=int(Symbol.PAD))
        log_probs = self(head, states, held, reference, width=reference.size(1)).log_probs(reference)
        return -log_probs.where((held >= 0).any(dim=1), 0.0)

    def written(
        self,
        head: Head,
        states: Float[Tensor, "B A D"],
        visited: Bool[Tensor, "B N A"],
        random: RowRandom | None,
        *,
        temperature: float | None,
    ) -> tuple[Int[Tensor, "B N A"], Float[Tensor, "B N A"]]:
        """What `RandomField.written` writes at the vertices that N paths visit; what stands elsewhere means nothing.
        The host waits for the longest path."""
        held, number = (visited.cumsum(dim=2) - 1).where(visited, -1).flatten(0, 1), visited.size(1)
        rows = states.repeat_interleave(number, dim=0)
        found = self(head.repeat_rows(number), rows, held, width=int(held.amax()) + 2)
        tokens, log_probs = found.written(random, temperature=temperature)
        place = held.clamp(min=0)
        return tokens.gather(1, place).view_as(visited), log_probs.gather(1, place).view_as(visited)
