"""Pointer network: a decoder whose attention over the points is its output.

Vinyals et al. 2015, https://arxiv.org/abs/1506.03134. Departs from the paper: encoder and decoder are transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import token_log_probs
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import BeamOptions, DecodingOptions
from nat.nn.attention.full import CausalAttention
from nat.nn.cached import DecoderState, step_decoder
from nat.nn.limits import LengthLimits
from nat.nn.pointing import PointConfig, PointEncoder, PointerHead, each_once, places, pointer_cross_entropy, visited
from nat.nn.transformer import Decoder, DecoderConfig, Memory
from nat.ops.cycle import from_lowest, rotate
from nat.rows import Rows
from nat.search.beam import Hypotheses, beam_search, greedy, sample
from nat.search.refine import History


@dataclass(frozen=True)
class PointerState(Rows):
    """Between two steps. states: (B, S, D) what the decoder feeds on. keys: (B, 1 + S, D) of the head. allowed:
    (B, K, 1 + S) what each hypothesis may still point at."""

    decoder: DecoderState
    states: Float[Tensor, "B S D"]
    keys: Float[Tensor, "B C D"]
    allowed: Bool[Tensor, "B K C"]

    def reorder(self, origin: Int[Tensor, "B K"]) -> PointerState:
        wide = origin[:, :, None].expand(-1, -1, self.allowed.size(2))
        return replace(self, decoder=self.decoder.reorder(origin), allowed=self.allowed.gather(1, wide))


class Pointer(TranslationModel):
    """p(y|x) = prod_t p(y_t | y_<t, x), where y_t is a point of x or the end.

    The decoder's input at a step is the encoding of the point before; it has no positions of its own: order reaches it
    through causality. cyclic: what is written is a closed polygon, whose first point says nothing. It is given from its
    lowest index, and its probability is the sum over the points that it could begin with.
    """

    points = True
    num_ends = 1  # the end, or what is read before any point
    unlearnable = "an empty source, a point twice under mask_used=true, or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(PointConfig):
        decoder: DecoderConfig = field(default_factory=DecoderConfig)
        mask_used: bool = option(True, "a point is pointed at once at most")
        cyclic: bool = option(True, "what is written is a closed polygon, and given from its lowest index")
        label_smoothing: float = option(0.0, "probability spread over all points and the end", minimum=0, below=1)

        def __post_init__(self) -> None:
            if self.cyclic and not self.mask_used:
                raise ConfigError("mask_used=false: a polygon (cyclic=true) has each point once")

    @dataclass(frozen=True)
    class Decoding(BeamOptions):
        writes_text: ClassVar[bool] = False
        max_length_factor: float | None = option(
            None,
            "a sequence ends after factor * S + offset points; null: 1 with mask_used, else 6",
            minimum=0,
            maximum=100,
        )
        max_length_offset: int = option(0, "see max_length_factor", minimum=0, maximum=100_000)

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.mask_used, self.cyclic, self.label_smoothing = config.mask_used, config.cyclic, config.label_smoothing
        size = config.size
        self.encoder = PointEncoder(config, vocabularies=vocabularies, method="Pointer")
        attentions = (
            CausalAttention(CausalAttention.Config(), dim=size.dim, num_heads=size.num_heads)
            for _ in range(config.decoder.num_layers)
        )
        self.decoder = Decoder(list(attentions), size=size)
        self.head = PointerHead(config.score, dim=size.dim, initial=size.initial)
        self.first = nn.Parameter(torch.randn(size.dim) * size.dim**-0.5)  # the decoder's input before any point

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        log_probs, labels, valid = self.log_probs(self.encoder(batch.source), batch.target.tokens, batch.target.valid)
        total, nll, count = pointer_cross_entropy(log_probs, labels, valid, label_smoothing=self.label_smoothing)
        return {"cross_entropy": LossTerm(total, count), "nll": LossTerm(nll, count, weight=0.0)}

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y, end | x), one teacher-forced pass; of a polygon, over all its rotations."""
        batch = batch.compact()
        memory, tokens, valid = self.encoder(batch.source), batch.target.tokens, batch.target.valid
        if not self.cyclic:
            return self._forced(memory, tokens, valid)
        num_rows, width = tokens.shape
        starts = torch.arange(width, device=tokens.device)
        turned = rotate(
            tokens[:, None].expand(-1, width, -1), valid[:, None].expand(-1, width, -1), starts.expand(num_rows, -1)
        )
        every = self._forced(memory.repeat_rows(width), turned.flatten(0, 1), valid.repeat_interleave(width, dim=0))
        distinct = starts < batch.target.lengths.clamp(min=1)[:, None]  # (B, T)
        return every.view(num_rows, width).masked_fill(~distinct, -torch.inf).logsumexp(dim=1)

    def _forced(self, memory: Memory, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
        return self._each(memory, tokens, valid).sum(dim=1)

    def _each(self, memory: Memory, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B L"]:
        """Log-probability of each point and of the end, T + 1 of them, 0 where not valid."""
        log_probs, labels, inside = self.log_probs(memory, tokens, valid)
        return token_log_probs(log_probs, labels, inside)

    def log_probs(
        self, memory: Memory, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B L C"], Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Teacher-forced log-probabilities of the classes of `PointerHead` at T + 1 places, the labels (points, then
        the end) and where they are valid."""
        points = places(tokens).masked_fill(~valid, -1)
        inputs = F.pad(points, (1, 0), value=-1)  # (B, T + 1)
        inside = F.pad(valid, (1, 0), value=True)
        states = self.decoder(self.encoder.dropout(self.inputs(memory.states, inputs)), inside, memory)
        allowed = F.pad(memory.valid[:, None], (1, 0), value=True)  # (B, 1, 1 + S)
        if self.mask_used:
            used = visited(F.pad(points, (0, 1), value=-1), count=memory.valid.size(1))
            allowed = allowed & ~F.pad(used, (1, 0))
        logits = self.head(states, self.head.memorise(memory.states), allowed)
        return F.log_softmax(logits, dim=-1), F.pad(points, (0, 1), value=-1) + 1, inside

    def inputs(self, states: Float[Tensor, "B S D"], points: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """What the decoder feeds on after these points; below 0: before any."""
        index = points.clamp(min=0)[:, :, None].expand(-1, -1, states.size(2))
        return torch.where((points < 0)[:, :, None], self.first.to(states.dtype), states.gather(1, index))

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Pointer.Decoding)
        source = source.compact()
        memory, random = self.encoder(source), decoding.random(source)
        state = self.start(memory)
        limits = self.limits(source, decoding)
        if random is not None and decoding.temperature is not None:
            hypotheses = sample(self.step, state, limits, random=random, temperature=decoding.temperature)
        elif decoding.beam_size == 1:
            hypotheses = greedy(self.step, state, limits)
        else:
            size, count = decoding.beam_size, decoding.num_candidates
            hypotheses = possible(beam_search(self.step, state, limits, beam_size=size, num_candidates=count))
        valid = (
            torch.arange(hypotheses.tokens.size(2), device=hypotheses.tokens.device) < hypotheses.lengths[:, :, None]
        )
        tokens = from_lowest(hypotheses.tokens, valid) if self.cyclic else hypotheses.tokens
        history: tuple[History, ...] = ()
        if decoding.history:
            pairs = zip(hypotheses.tokens.unbind(1), valid.unbind(1), strict=True)
            history = tuple(self.written(memory, *pair) for pair in pairs)
        return Translation(tokens, valid, hypotheses.scores, hypotheses.steps, hypotheses.truncated, history)

    def written(self, memory: Memory, tokens: Int[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> History:
        """A sequence as it was written, a polygon from its first point on, each point with its log-probability after
        those before it."""
        return History.of_one_pass(tokens, valid, self._each(memory, tokens, valid)[:, :-1])

    def limits(self, source: Source, decoding: Decoding) -> Int[Tensor, " B"]:
        """The most points of each row's sequence: with the mask, all of them; a triangulation has fewer than 6 S."""
        factor = decoding.max_length_factor
        if factor is None:
            factor = 1.0 if self.mask_used else 6.0
        limits = (source.lengths * factor).long() + decoding.max_length_offset
        return torch.minimum(limits, source.lengths) if self.mask_used else limits

    def start(self, memory: Memory) -> PointerState:
        """The state before the first step."""
        keys = self.head.memorise(memory.states)
        allowed = F.pad(memory.valid[:, None], (1, 0), value=True)
        return PointerState(DecoderState.start(self.decoder, memory), memory.states, keys, allowed)

    def step(
        self, tokens: Int[Tensor, "B K"], position: int, state: PointerState
    ) -> tuple[Float[Tensor, "B K V"], PointerState]:
        """`NextToken`, with V = NUM_SYMBOLS + S: the ids of the end and of the points that there are."""
        points, allowed = places(tokens), state.allowed
        if self.mask_used and position:
            allowed = allowed.scatter(2, points.clamp(min=0)[:, :, None] + 1, False)
        x, decoder = step_decoder(self.decoder, self.inputs(state.states, points), state.decoder)
        places_log_probs = F.log_softmax(self.head(x, state.keys, allowed), dim=-1)  # (B, K, 1 + S)
        log_probs = F.pad(places_log_probs[:, :, 1:], (NUM_SYMBOLS, 0), value=-torch.inf)
        log_probs[:, :, Symbol.EOS] = places_log_probs[:, :, 0]
        return log_probs, replace(state, decoder=decoder, allowed=allowed)

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits(self.encoder.max_length)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        fits = self.encoder.takes(batch.source)
        return fits & each_once(batch.compact().target) if self.mask_used else fits


def possible(hypotheses: Hypotheses) -> Hypotheses:
    """Few points may have fewer sequences than the beam has candidates: then the last one stands for the others."""
    last = (hypotheses.scores > -torch.inf).sum(dim=1, keepdim=True) - 1
    index = torch.minimum(torch.arange(hypotheses.scores.size(1), device=last.device), last)
    tokens = hypotheses.tokens.gather(1, index[:, :, None].expand_as(hypotheses.tokens))
    return replace(
        hypotheses,
        tokens=tokens,
        lengths=hypotheses.lengths.gather(1, index),
        scores=hypotheses.scores.gather(1, index),
    )
