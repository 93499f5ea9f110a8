"""Single-pass translation with fertilities as the latent variable.

Gu et al. 2018, "Non-Autoregressive Neural Machine Translation", https://arxiv.org/abs/1711.02281; with glancing (Qian
et al. 2021, https://arxiv.org/abs/2008.07905) and deep supervision (Huang et al. 2022,
https://arxiv.org/abs/2110.07515) as options.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import cross_entropy
from nat.models.contract import LossTerm, Translation, TranslationModel, cross_entropy_terms
from nat.models.options import DecodingOptions
from nat.nn.attention.full import FullAttention
from nat.nn.attention.positional import OthersAttention, PositionalAttention
from nat.nn.copying import Copying
from nat.nn.glancing import SinglePassConfig, glanced_cross_entropy
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Seq2Seq, Seq2SeqConfig
from nat.nn.transformer import Decoder, Memory, initialise
from nat.ops.copying import copy_by_fertility, cut_fertilities
from nat.ops.precision import at_least_float32
from nat.search.canvas import Canvas
from nat.search.refine import History


class Choice(Enum):
    ARGMAX = "argmax"
    AVERAGE = "average"
    SAMPLE = "sample"


class Fertility(TranslationModel):
    """A classifier on the encoder says how many target tokens each source token stands for; the decoder reads every
    source embedding so many times, and translates all positions at once.

    log p(y|x) >= log p(f|x) + log p(y|x, f) for fertilities f with sum T, which the corpus brings
    (`Batch.fertilities`; section 4, equations 6 and 7). Decoder layers have self-attention without oneself,
    positional attention and cross-attention (section 3.2).
    """

    unlearnable = "a fertility above model.max_fertility, or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(SinglePassConfig, Seq2SeqConfig):
        max_fertility: int = option(50, "largest fertility L_max of a source token", minimum=1, maximum=10_000)
        fertility_weight: float = option(1.0, "weight of the fertilities' cross entropy in the objective", above=0)
        label_smoothing: float = option(0.0, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)

    @dataclass(frozen=True)
    class Decoding(DecodingOptions):
        fertilities: Choice = option(
            Choice.ARGMAX,
            "argmax: the most probable of each token; average: its expectation, rounded; sample: the first candidate's "
            "are argmax, the others' are samples (noisy parallel decoding)",
        )
        max_length_factor: float = option(
            2.0, "a translation ends after factor * S tokens, or one", above=0, maximum=100
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            sampled = self.fertilities is Choice.SAMPLE
            if sampled and self.num_candidates == 1:
                raise ConfigError("fertilities=sample: has no effect with num_candidates=1, whose one is argmax")
            if self.num_candidates > 1 and not sampled and self.temperature is None:
                raise ConfigError(
                    f"num_candidates={self.num_candidates}: fertilities={self.fertilities.value} gives one "
                    "translation; choose fertilities=sample or a temperature"
                )

        @property
        def is_random(self) -> bool:
            return self.temperature is not None or self.fertilities is Choice.SAMPLE

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK,),
            decoder=decoder_of(config),
            deep=config.deep_supervision.enabled,
            copying=config.copying,
        )
        self.fertility = nn.Linear(config.size.dim, config.max_fertility + 1)
        initialise(self.fertility, config.size.initial)

    def fertility_log_probs(self, memory: Memory) -> Float[Tensor, "B S F"]:
        """log p(f_i | x) for f_i = 0 .. L_max (section 3.3)."""
        return F.log_softmax(at_least_float32(self.fertility(memory.states)), dim=-1)

    def canvas(
        self, source: Source, fertilities: Int[Tensor, "B S"], *, width: int | None = None
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Copied source embeddings, without positions, and where they are valid. width: columns, if known."""
        index, valid = copy_by_fertility(fertilities, width=width)
        return self.net.embeddings.source(source.tokens.gather(1, index)), valid

    def translate(
        self, source: Source, fertilities: Int[Tensor, "B S"], memory: Memory
    ) -> tuple[Float[Tensor, "B L V"], Bool[Tensor, "B L"]]:
        """log p(y_t | x, f) on the canvas that the fertilities give, and the canvas's validity."""
        x, valid = self.canvas(source, fertilities)
        return self.net.log_probs(self.net.place(x), valid, memory), valid

    # --- training ----------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """No terms for validation pairs without fertilities."""
        if batch.fertilities is None and not self.training:
            return {}
        batch = batch.compact()
        return self.terms(batch, self.net.encode(batch.source), update=update)

    def terms(self, batch: Batch, memory: Memory, *, update: int) -> dict[str, LossTerm]:
        """`loss` of a right-padded batch with fertilities, given its encoded source. Raises ConfigError without
        them."""
        if batch.fertilities is None:
            raise ConfigError(MISSING)
        fertility, _, positions = cross_entropy(
            self.fertility_log_probs(memory), batch.fertilities.clamp(max=self.config.max_fertility), batch.source.valid
        )
        weight = self.config.fertility_weight
        return self.translation_terms(batch, memory, update=update) | {
            "fertility": LossTerm(fertility, positions, weight=weight)
        }

    def translation_terms(self, batch: Batch, memory: Memory, *, update: int) -> dict[str, LossTerm]:
        """Cross entropy of the target on the canvas of the batch's fertilities, the mean over the layers that
        predict; with glancing at the positions that are not revealed."""
        assert batch.fertilities is not None
        x, _ = self.canvas(batch.source, batch.fertilities, width=batch.target.tokens.size(1))
        entropy = glanced_cross_entropy(
            self.net,
            x,
            batch.target,
            memory,
            RowRandom.of_pairs(batch, seed=update),
            self.config,
            update=update if self.training else None,
            label_smoothing=self.config.label_smoothing,
        )
        return cross_entropy_terms(entropy)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Raises ConfigError where the corpus has no fertilities."""
        if batch.fertilities is None:
            raise ConfigError(MISSING)
        known = batch.source.valid.any(dim=1) & (batch.fertilities.amax(dim=1) <= self.config.max_fertility)
        return known & self.fits(batch.source.lengths, batch.target.lengths)

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return np.maximum(target_length, 1)

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits.of(self.net)

    # --- decoding ----------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """Candidates are in order: with sampled fertilities the first is the argmax translation, and those of
        num_candidates=n are the first n of any more. One decoder call for all of them. scores: log p(y|x, f), without
        the fertilities' own log-probability."""
        assert isinstance(decoding, Fertility.Decoding)
        source = source.compact()
        memory = replace(self.net.encode(source), banned=decoding.banned)
        random = RowRandom.of((source.tokens, source.valid), seed=decoding.seed)
        chosen = self.choose_fertilities(memory, random.fork(0), decoding)  # (B, C, S)
        num_canvases = chosen.size(1)
        limits = self.limits(source, decoding.max_length_factor).repeat_interleave(num_canvases)
        fertilities, was_cut = cut_fertilities(chosen.flatten(0, 1), limits)
        log_probs, valid = self.translate(source.repeat_rows(num_canvases), fertilities, memory.shared(num_canvases))
        tokens, valid, scores = choose_tokens(log_probs, valid, random.fork(1), decoding)
        tokens, valid, scores = (values.flatten(0, 1) for values in (tokens, valid, scores))
        translation = Translation.best_of(
            replace(Canvas.start(tokens, valid), scores=scores),
            decoding,
            copies=decoding.num_candidates,
            history=History.of_one_pass(tokens, valid, scores) if decoding.history else None,
        )
        return replace(translation, truncated=was_cut.view(-1, num_canvases)[:, 0])

    def choose_fertilities(
        self, memory: Memory, random: RowRandom, decoding: Fertility.Decoding
    ) -> Int[Tensor, "B C S"]:
        """The fertilities of each canvas: one, or as many as candidates (section 3.4). At least one token each."""
        log_probs = self.fertility_log_probs(memory)
        if decoding.fertilities is Choice.AVERAGE:
            chosen = average_fertilities(log_probs)[:, None]
        else:
            chosen = log_probs.argmax(dim=-1)[:, None]
        if decoding.fertilities is Choice.SAMPLE:
            chosen = torch.cat((chosen, random.copies(decoding.num_candidates - 1).samples(log_probs)), dim=1)
        return at_least_one(chosen, log_probs, memory.valid)

    def limits(self, source: Source, factor: float) -> Int[Tensor, " B"]:
        """The longest canvas of each row."""
        limits = (source.lengths * factor).long().clamp(min=1)
        return limits if self.max_target_length is None else limits.clamp(max=self.max_target_length)


MISSING = (
    "data.fertilities: model=fertility learns from fertilities and this corpus has none; make them with "
    "nat-distill ... fertilities=attention, train on its output and set data.fertilities=fertilities"
)


def decoder_of(config: Seq2SeqConfig) -> Decoder:
    """A decoder whose layers have the attentions of section 3.2."""
    layers = range(config.decoder.num_layers)
    plain, dims = FullAttention.Config(), {"dim": config.size.dim, "num_heads": config.size.num_heads}
    return Decoder(
        [OthersAttention(plain, **dims) for _ in layers],
        size=config.size,
        positional_attentions=[PositionalAttention(plain, **dims) for _ in layers],
    )


def average_fertilities(log_probs: Float[Tensor, "B S F"]) -> Int[Tensor, "B S"]:
    """The rounded expectation of each fertility (section 3.4)."""
    numbers = torch.arange(log_probs.size(-1), dtype=log_probs.dtype, device=log_probs.device)
    return (log_probs.exp() @ numbers).round().long()


def at_least_one(
    fertilities: Int[Tensor, "B C S"], log_probs: Float[Tensor, "B S F"], valid: Bool[Tensor, "B S"]
) -> Int[Tensor, "B C S"]:
    """Zeros at padding; where nothing would be left, one copy of the token least likely to have none."""
    fertilities = fertilities.masked_fill(~valid[:, None], 0)
    likeliest = log_probs[:, :, 0].masked_fill(~valid, torch.inf).argmin(dim=1)
    empty = (fertilities.sum(dim=2, keepdim=True) == 0).to(fertilities.dtype)
    return fertilities.scatter_add(2, likeliest[:, None, None].expand_as(empty), empty)


def choose_tokens(
    log_probs: Float[Tensor, "N L V"], valid: Bool[Tensor, "N L"], random: RowRandom, decoding: DecodingOptions
) -> tuple[Int[Tensor, "B K L"], Bool[Tensor, "B K L"], Float[Tensor, "B K L"]]:
    """Tokens of the K candidates of a row, from a canvas for each or one for all, N = B K or B: the most probable
    ones, or samples. Also their validity and log-probability."""
    if decoding.temperature is None:
        tokens = log_probs.argmax(dim=-1)[:, None]  # (N, K B / N, L)
    else:
        tokens = random.copies(decoding.num_candidates).samples(log_probs / decoding.temperature)
    scores = log_probs.gather(2, tokens.transpose(1, 2)).transpose(1, 2)
    shape = (-1, decoding.num_candidates, valid.size(1))
    return tokens.reshape(shape), valid[:, None].expand_as(tokens).reshape(shape), scores.reshape(shape)
