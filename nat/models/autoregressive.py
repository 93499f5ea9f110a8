"""The autoregressive transformer: teacher, rescorer and baseline.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. A deep encoder with a shallow decoder is the honest
speed baseline: Kasai et al. 2021, https://arxiv.org/abs/2006.10369.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source, Target, Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms
from nat.models.options import BeamOptions, DecodingOptions
from nat.nn.attention.full import CausalAttention
from nat.nn.cached import DecoderState, check_decoder, step_decoder
from nat.nn.copying import Copyable, Copying
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Seq2Seq, Seq2SeqConfig
from nat.nn.transformer import Memory
from nat.rows import Rows
from nat.search.beam import Hypotheses, beam_search, greedy, sample
from nat.search.drafting import Tolerance, drafted
from nat.search.refine import History


@dataclass(frozen=True)
class TeacherState(Rows):
    """What is kept between two steps, for `nat.search.beam`. copyable: None where nothing is copied. banned: symbols
    that are not to be written."""

    decoder: DecoderState
    copyable: Copyable | None
    banned: tuple[int, ...]

    def reorder(self, origin: Int[Tensor, "B K"]) -> TeacherState:
        return replace(self, decoder=self.decoder.reorder(origin))

    def keep(self, taken: Bool[Tensor, "B K"]) -> TeacherState:
        return replace(self, decoder=self.decoder.keep(taken))


class Autoregressive(TranslationModel):
    """p(y|x) = prod_t p(y_t | y_<t, x), with cached greedy and beam search and sampling, and a one-pass `score`."""

    num_ends: ClassVar[int] = 1  # EOS, or BOS
    checks_drafts: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Seq2SeqConfig):
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

    @dataclass(frozen=True)
    class Decoding(BeamOptions):
        beam_size: int = option(1, "hypotheses kept; 1 is greedy search", minimum=1, maximum=10_000)
        length_penalty: float | None = option(
            None, "beam search: scores are divided by ((5 + length) / 6)^alpha; null is 0.6", minimum=0, maximum=100
        )
        max_length_factor: float = option(
            2.0, "a translation ends after factor * S + offset tokens", minimum=0, maximum=100
        )
        max_length_offset: int = option(20, "see max_length_factor", minimum=1, maximum=100_000)
        tolerance: float = option(
            0.0,
            "drafter: a drafted token stands where its log-probability is at most so much below the likeliest's; more "
            "than 0 changes translations",
            minimum=0,
            maximum=100,
        )
        tolerance_top: int = option(
            3, "with tolerance: and where it is among so many likeliest", minimum=1, maximum=1000
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.tolerance > 0 and (self.beam_size > 1 or self.temperature is not None):
                raise ConfigError(f"tolerance={self.tolerance}: is of greedy search with a drafter")
            if self.length_penalty is not None and self.beam_size == 1:
                raise ConfigError(f"length_penalty={self.length_penalty}: has no effect with beam_size=1 (greedy)")

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.label_smoothing = config.label_smoothing
        dim, heads = config.size.dim, config.size.num_heads
        attentions = (
            CausalAttention(CausalAttention.Config(), dim=dim, num_heads=heads)
            for _ in range(config.decoder.num_layers)
        )
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK, Symbol.EOS),
            decoder=attentions,
            copying=config.copying,
        )

    def log_probs(self, memory: Memory, target: Target) -> tuple[Float[Tensor, "B T V"], Tensor, Tensor]:
        """Teacher-forced log-probabilities with labels (B, T + 1) = y EOS and their validity."""
        x, labels, valid = self.inputs(target)
        return self.net.log_probs(x, valid, memory), labels, valid

    def inputs(self, target: Target) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Teacher-forced decoder inputs (B, T + 1) = BOS y, their labels y EOS and their validity."""
        tokens = F.pad(target.tokens, (1, 0), value=int(Symbol.BOS))
        labels = F.pad(target.tokens, (0, 1), value=int(Symbol.PAD))
        labels = labels.scatter(1, target.lengths[:, None], int(Symbol.EOS))
        return self.net.place(self.net.embed(tokens)), labels, F.pad(target.valid, (1, 0), value=True)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory = self.net.encode(batch.source)
        x, labels, valid = self.inputs(batch.target)
        states = self.net.states(x, valid, memory)
        return cross_entropy_terms(
            self.net.head(memory).cross_entropy(states, labels, valid, label_smoothing=self.label_smoothing)
        )

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y, EOS | x), one teacher-forced pass."""
        batch = batch.compact()
        return self.token_log_probs(self.net.encode_once(batch.source), batch.target).sum(dim=1)

    def token_log_probs(self, memory: Memory, target: Target) -> Float[Tensor, "B T1"]:
        """log p(y_t | y_<t, x) of each token and of the end after them; 0 where not valid."""
        x, labels, valid = self.inputs(target)
        scores = self.net.head(memory).of(self.net.states(x, valid, memory), labels)
        return scores.masked_fill(~valid, 0.0)

    def cross_attention(self, batch: Batch, *, layer: int | None = None) -> Float[Tensor, "B T S"]:
        num_layers = len(self.net.decoder.stack)
        chosen = num_layers if layer is None else layer
        if not 1 <= chosen <= num_layers:
            raise ConfigError(f"attention_layer={layer}: must be one of the decoder's layers, 1 to {num_layers}")
        x, _, valid = self.inputs(batch.target)
        weights = self.net.decoder.cross_weights(x, valid, self.net.encode(batch.source), layer=chosen - 1)
        return weights.mean(dim=1)[:, :-1]  # what is input at T predicts EOS

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Autoregressive.Decoding)
        source = source.compact()
        limits = (source.lengths * decoding.max_length_factor).long() + decoding.max_length_offset
        if self.max_target_length is not None:
            limits = limits.clamp(max=self.max_target_length)
        memory = replace(self.net.encode(source), banned=decoding.banned)
        state = self.start(memory)
        random = decoding.random(source)
        if source.draft is not None:
            hypotheses = self.checked(state, limits, source.draft, random, decoding)
        elif random is not None and decoding.temperature is not None:
            hypotheses = sample(self.step, state, limits, random=random, temperature=decoding.temperature)
        elif decoding.beam_size == 1:
            hypotheses = greedy(self.step, state, limits)
        else:
            hypotheses = beam_search(
                self.step,
                state,
                limits,
                beam_size=decoding.beam_size,
                num_candidates=decoding.num_candidates,
                alpha=0.6 if decoding.length_penalty is None else decoding.length_penalty,
            )
        valid = (
            torch.arange(hypotheses.tokens.size(2), device=hypotheses.tokens.device) < hypotheses.lengths[:, :, None]
        )
        history: tuple[History, ...] = ()
        if decoding.history:
            pairs = zip(hypotheses.tokens.unbind(1), valid.unbind(1), strict=True)
            history = tuple(self.written(memory, Target(*pair)) for pair in pairs)
        return Translation(hypotheses.tokens, valid, hypotheses.scores, hypotheses.steps, hypotheses.truncated, history)

    def checked(
        self,
        state: TeacherState,
        limits: Int[Tensor, " B"],
        draft: Tokens,
        random: RowRandom | None,
        decoding: Decoding,
    ) -> Hypotheses:
        """What greedy search or sampling gives, found by checking a draft, see `nat.search.drafting`."""

        def pick(log_probs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
            if random is None or decoding.temperature is None:
                return log_probs.argmax(dim=-1)
            return random.select(rows).fork_each(positions).sample(log_probs / decoding.temperature)

        number = 1 if random is None else decoding.num_candidates
        rows = torch.arange(len(limits), device=limits.device).repeat_interleave(number)
        table = self.net.target_positions(int(limits.max()) + 1)
        tolerance = Tolerance(decoding.tolerance_top, decoding.tolerance) if decoding.tolerance > 0 else None
        check = partial(self.check, table=table)
        found = drafted(check, state.select(rows), limits[rows], draft.select(rows), pick, tolerance=tolerance)
        return found.together(number)

    def written(self, memory: Memory, target: Target) -> History:
        """A translation with log p(y_t | y_<t, x), by a forced pass. A search writes a token a pass, so that what it
        ended with tells all."""
        scores = self.token_log_probs(memory, target)[:, :-1]  # without the end
        return History.of_one_pass(target.tokens, target.valid, scores)

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits.of(self.net, ends=self.num_ends)

    def start(self, memory: Memory) -> TeacherState:
        """The state before the first step."""
        return TeacherState(DecoderState.start(self.net.decoder, memory), self.net.copyable(memory), memory.banned)

    def step(
        self, tokens: Int[Tensor, "B K"], position: int, state: TeacherState
    ) -> tuple[Float[Tensor, "B K V"], TeacherState]:
        """`NextToken`: one position for every hypothesis, see `step_decoder`."""
        x = self.net.embed(tokens) + self.net.target_positions(1, start=position)  # (B, K, D)
        x, decoder = step_decoder(self.net.decoder, x, state.decoder)
        return self.net.head_for(state.copyable, state.banned).full(x), replace(state, decoder=decoder)

    def check(
        self,
        tokens: Int[Tensor, "B K"],
        positions: Int[Tensor, "B K"],
        seen: Bool[Tensor, "K K"],
        state: TeacherState,
        *,
        table: Float[Tensor, "L D"],
    ) -> tuple[Float[Tensor, "B K V"], TeacherState]:
        """`nat.search.drafting.Check`. table: positions; what is drafted beyond them is never written."""
        x = self.net.embed(tokens) + table[positions.clamp(max=len(table) - 1)]  # (B, K, D)
        x, decoder = check_decoder(self.net.decoder, x, seen, state.decoder)
        return self.net.head_for(state.copyable, state.banned).full(x), replace(state, decoder=decoder)
