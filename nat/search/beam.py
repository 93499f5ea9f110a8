"""Left-to-right decoding with any model that predicts the next token: greedy, sampling and beam search.

Beam search as in Wu et al. 2016 (https://arxiv.org/abs/1609.08144), section 7, with its length penalty. A
sentence is finished when K hypotheses have ended, so that beam 1 is greedy search. Finished sentences leave
the batch. The search state is one record; the loop is made of small functions on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.vocabulary import Symbol
from nat.nn.rng import RowRandom
from nat.rows import Rows, parted

BOS, EOS, PAD = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.PAD)


@runtime_checkable
class StepState(Protocol):
    """What a model keeps between steps."""

    def select(self, rows: Int[Tensor, " N"]) -> Self:
        """Keep these sentences with all their hypotheses."""
        ...

    def reorder(self, origin: Int[Tensor, "B K"]) -> Self:
        """Hypothesis k of sentence b becomes a copy of hypothesis origin[b, k]; K may change."""
        ...


State = TypeVar("State", bound=StepState)


class NextToken(Protocol[State]):
    """A step of the model. `tokens` (B, K) are the last tokens of K hypotheses of each of B sentences,
    standing at `position`; returns log-probabilities (B, K, V) of what follows, and the new state."""

    def __call__(self, tokens: Tensor, position: int, state: State) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class Hypotheses(Rows):
    """Search result. tokens: (B, N, T), PAD after the end; EOS is not part of them. lengths: (B, N).
    scores: (B, N) sums of log-probabilities, EOS included. truncated: (B,) the length limit ended the best one.
    steps: (B,) calls of the model that the sentence took."""

    tokens: Int[Tensor, "B N T"]
    lengths: Int[Tensor, "B N"]
    scores: Float[Tensor, "B N"]
    truncated: Bool[Tensor, " B"]
    steps: Int[Tensor, " B"]

    def together(self, number: int) -> Hypotheses:
        """One of each of B * N rows as the `number` N of each of B sentences."""
        shape = (len(self.steps) // number, number)
        return Hypotheses(
            tokens=self.tokens.view(*shape, -1),
            lengths=self.lengths.view(shape),
            scores=self.scores.view(shape),
            truncated=self.truncated.view(shape)[:, 0],
            steps=self.steps.view(shape).amax(dim=1),
        )


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14); `length` counts EOS."""
    return ((5.0 + length) / 6.0) ** alpha


def greedy(step: NextToken[State], state: State, max_lengths: Int[Tensor, " B"]) -> Hypotheses:
    """The most probable token at every position until EOS. max_lengths: tokens before EOS, per sentence;
    at the limit EOS is forced, with its own log-probability."""
    return _one_by_one(step, state, max_lengths, lambda log_probs, position, rows: log_probs.argmax(dim=-1))


def sample(
    step: NextToken[State],
    state: State,
    max_lengths: Int[Tensor, " B"],
    *,
    random: RowRandom,
    temperature: float,
) -> Hypotheses:
    """Independent translations of each sentence, every token drawn from p^(1 / temperature) until EOS (ancestral
    sampling). `state` holds one hypothesis a sentence; max_lengths as in `greedy`. random: B * N streams, of the N
    samples of each sentence. scores: log-probabilities under the model itself, at temperature 1. truncated tells of
    the first, steps counts up to the longest."""
    num_samples = len(random) // max_lengths.numel()
    rows = torch.arange(max_lengths.numel(), device=max_lengths.device).repeat_interleave(num_samples)

    def draw(log_probs: Tensor, position: int, alive: Tensor) -> Tensor:
        return random.select(alive).fork(position).sample(log_probs / temperature)

    return _one_by_one(step, state.select(rows), max_lengths[rows], draw).together(num_samples)


def _one_by_one(
    step: NextToken[State],
    state: State,
    max_lengths: Int[Tensor, " B"],
    pick: Callable[[Tensor, int, Tensor], Tensor],
) -> Hypotheses:
    """One hypothesis a sentence, that takes the token that `pick` gives: log-probabilities (A, V) at a position, and
    which of the B sentences they belong to -> (A,)."""
    num_rows, device = max_lengths.numel(), max_lengths.device
    limit = int(max_lengths.max()) + 1
    tokens = torch.full((num_rows, limit), PAD, dtype=torch.long, device=device)
    scores = torch.zeros(num_rows, device=device)
    lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
    truncated = torch.zeros(num_rows, dtype=torch.bool, device=device)
    alive = torch.arange(num_rows, device=device)
    last = torch.full((num_rows, 1), BOS, dtype=torch.long, device=device)
    for position in range(limit):
        following, state = step(last, position, state)  # (A, 1, V)
        log_probs = following[:, 0]
        token = pick(log_probs, position, alive)  # (A)
        forced = (position >= max_lengths[alive]) & (token != EOS)
        token = token.masked_fill(forced, EOS)
        gained = log_probs.gather(1, token[:, None]).squeeze(1)
        scores = scores.to(gained.dtype).index_add(0, alive, gained)
        truncated[alive] = forced
        ended = token == EOS
        tokens[alive, position] = token.masked_fill(ended, PAD)
        lengths[alive] = torch.where(ended, position, position + 1)
        last = token[:, None]
        going, stopped = parted(ended)
        if len(stopped):
            if not len(going):
                break
            alive, last = alive[going], last[going]
            state = state.select(going)
    width = max(1, int(lengths.max()))
    return Hypotheses(tokens[:, None, :width], lengths[:, None], scores[:, None], truncated, lengths + 1)


@dataclass(frozen=True)
class BeamState(Rows):
    """Search state of the sentences still in the batch.

    tokens: (B, K, L) live hypotheses, BOS first. scores: (B, K) their log-probabilities, -inf if unused.
    ended_tokens: (B, K, T), ended_lengths, ended_scores, ended_ranks: (B, K) the best finished hypotheses so
    far, by length-penalised score `ended_ranks`, -inf if there are fewer. num_ended: (B,) how many have ended.
    forced: (B, K) ended by the limit. sentence: (B,) row of the input. max_lengths: (B,).
    """

    tokens: Int[Tensor, "B K L"]
    scores: Float[Tensor, "B K"]
    ended_tokens: Int[Tensor, "B K T"]
    ended_lengths: Int[Tensor, "B K"]
    ended_scores: Float[Tensor, "B K"]
    ended_ranks: Float[Tensor, "B K"]
    forced: Bool[Tensor, "B K"]
    num_ended: Int[Tensor, " B"]
    sentence: Int[Tensor, " B"]
    max_lengths: Int[Tensor, " B"]


def beam_search(
    step: NextToken[State],
    state: State,
    max_lengths: Int[Tensor, " B"],
    *,
    beam_size: int,
    num_candidates: int = 1,
    alpha: float = 0.0,
) -> Hypotheses:
    """The `num_candidates` hypotheses of highest log-probability over length penalty, best first.

    `state` holds one hypothesis a sentence; it is widened to `beam_size`.
    """
    assert 1 <= num_candidates <= beam_size
    beam = _start(max_lengths, beam_size)
    state = state.reorder(torch.zeros_like(beam.ended_lengths))
    results: list[tuple[BeamState, int]] = []  # finished sentences and the steps they took
    shortest = int(max_lengths.min())
    for position in range(int(max_lengths.max()) + 1):
        log_probs, state = step(beam.tokens[:, :, -1], position, state)
        beam, origin = _advance(beam, log_probs, position, alpha, limited=position >= shortest)
        state = state.reorder(origin)
        done = (beam.num_ended >= beam_size) | (position >= beam.max_lengths)
        going, stopped = parted(done)
        if len(stopped):
            results.append((beam.select(stopped), position + 1))
            if not len(going):
                break
            beam, state = beam.select(going), state.select(going)
    return _collect(results, num_candidates)


def _start(max_lengths: Tensor, beam_size: int) -> BeamState:
    shape, device = (max_lengths.numel(), beam_size), max_lengths.device
    impossible = torch.full(shape, -math.inf, device=device)
    scores = impossible.clone()
    scores[:, 0] = 0.0  # K equal hypotheses would fill the beam with copies
    return BeamState(
        tokens=torch.full((*shape, 1), BOS, dtype=torch.long, device=device),
        scores=scores,
        ended_tokens=torch.full((*shape, int(max_lengths.max()) + 1), PAD, dtype=torch.long, device=device),
        ended_lengths=torch.zeros(shape, dtype=torch.long, device=device),
        ended_scores=impossible.clone(),
        ended_ranks=impossible.clone(),
        forced=torch.zeros(shape, dtype=torch.bool, device=device),
        num_ended=torch.zeros(shape[0], dtype=torch.long, device=device),
        sentence=torch.arange(shape[0], device=device),
        max_lengths=max_lengths,
    )


def _advance(
    beam: BeamState, log_probs: Float[Tensor, "B K V"], position: int, alpha: float, *, limited: bool
) -> tuple[BeamState, Int[Tensor, "B K"]]:
    """One token more. Of the 2K best continuations, those among the first K that end are finished; the
    best K that do not end live on. Also returns each live hypothesis's origin. limited: whether a sentence may be as
    long as it may become."""
    _, beam_size, vocabulary = log_probs.shape
    cut = torch.zeros_like(beam.forced)
    if limited:
        at_limit, end = position >= beam.max_lengths, log_probs[:, :, EOS]
        cut = at_limit[:, None] & (end < log_probs.amax(dim=-1))  # (B, K) those that would rather go on
        log_probs = log_probs.masked_fill(at_limit[:, None, None], -math.inf)
        log_probs[:, :, EOS] = end
    totals = beam.scores[:, :, None] + log_probs  # (B, K, V)
    scores, flat = totals.flatten(1).topk(min(2 * beam_size, beam_size * vocabulary), dim=1)  # (B, 2K)
    origin, token = flat // vocabulary, flat % vocabulary
    ends = (token == EOS) & (scores > -math.inf)
    eligible = ends & (torch.arange(scores.size(1), device=scores.device) < beam_size)
    beam = _finish(beam, scores.masked_fill(~eligible, -math.inf), origin, position, alpha, cut)
    live = scores.masked_fill(token == EOS, -math.inf)
    live_scores, chosen = live.topk(beam_size, dim=1)  # (B, K)
    origin, token = origin.gather(1, chosen), token.gather(1, chosen)
    past = beam.tokens.gather(1, origin[:, :, None].expand(-1, -1, beam.tokens.size(2)))
    tokens = torch.cat((past, token[:, :, None]), dim=2)
    return replace(beam, tokens=tokens, scores=live_scores), origin


def _finish(
    beam: BeamState, scores: Tensor, origin: Tensor, position: int, alpha: float, cut: Bool[Tensor, "B K"]
) -> BeamState:
    """Merge newly ended hypotheses (score -inf: not ended) into the K best ended ones. cut: the limit ended them."""
    beam_size = beam.scores.size(1)
    ranks = scores / length_penalty(position + 1, alpha)
    sequences = beam.tokens.gather(1, origin[:, :, None].expand(-1, -1, beam.tokens.size(2)))[:, :, 1:]
    sequences = F.pad(sequences, (0, beam.ended_tokens.size(2) - position), value=PAD)  # (B, 2K, T)
    ended_ranks, keep = torch.cat((beam.ended_ranks, ranks), dim=1).topk(beam_size, dim=1)

    def merge(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat((old, new), dim=1).gather(1, keep)

    both = torch.cat((beam.ended_tokens, sequences), dim=1)
    return replace(
        beam,
        ended_tokens=both.gather(1, keep[:, :, None].expand(-1, -1, both.size(2))),
        ended_lengths=merge(beam.ended_lengths, torch.full_like(origin, position)),
        ended_scores=merge(beam.ended_scores, scores),
        ended_ranks=ended_ranks,
        forced=merge(beam.forced, cut.gather(1, origin)),
        num_ended=beam.num_ended + (scores > -math.inf).sum(dim=1),
    )


def _collect(results: list[tuple[BeamState, int]], num_candidates: int) -> Hypotheses:
    """Finished sentences back in input order."""
    order = torch.cat([part.sentence for part, _ in results]).argsort()

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part, _ in results])[order]

    lengths = gather("ended_lengths")[:, :num_candidates]
    width = max(1, int(lengths.max()))
    return Hypotheses(
        tokens=gather("ended_tokens")[:, :num_candidates, :width],
        lengths=lengths,
        scores=gather("ended_scores")[:, :num_candidates],
        truncated=gather("forced")[:, 0],
        steps=torch.cat([part.sentence.new_full((len(part),), steps) for part, steps in results])[order],
    )
