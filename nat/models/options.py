"""Decoding options, by what a method decodes with: candidates, a beam, a length beam, samples, edits, insertions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.nn.head import Head
from nat.nn.length import LengthPredictor
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Seq2Seq
from nat.search.editing import num_orders
from nat.search.insertion import Finalisation, InsertionRule
from nat.search.language_model import Fusion, check_language_model, open_language_model
from nat.search.length_beam import LengthBeam

# Weight and bonus: CTC's best on 351 validation sentences of lohelp, with the order 3 model of nat-lm.
LM_WEIGHT, LENGTH_BONUS, LM_TOKEN_BEAM = 0.3, 2.0, 20


@dataclass(frozen=True)
class DecodingOptions:
    """Options that every decoder has. A method's nested `Decoding` adds its own. calls_per_pass: decoder calls, at
    most, of one of `max_passes`, where the method has that option. writes_text: whether it writes tokens of text."""

    calls_per_pass: ClassVar[int] = 1
    writes_text: ClassVar[bool] = True
    num_candidates: int = option(
        1, "translations made for each sentence, for the candidate stage", minimum=1, maximum=10_000
    )
    temperature: float | None = option(
        None,
        "translations are samples at this temperature; null: what the method finds most probable",
        above=0,
        maximum=1000,
    )
    seed: int = option(1, "seed of whatever is sampled", minimum=0)
    history: bool = option(False, "keep token, confidence and fate of every position at every pass")
    allow_unknown: bool = option(True, "whether <unk> may be written; false: its probability is shared by all others")

    def __post_init__(self) -> None:
        if not self.allow_unknown and not self.writes_text:
            raise ConfigError("allow_unknown=false: has no effect on points, there is no <unk> among them")
        if self.seed != 1 and not self.is_random:
            raise ConfigError(f"seed={self.seed}: has no effect without temperature, for nothing is sampled")

    @property
    def banned(self) -> tuple[int, ...]:
        """Symbols that are not to be written, though the method could. What is given is not written."""
        return () if self.allow_unknown else (int(Symbol.UNK),)

    @property
    def is_random(self) -> bool:
        """Whether the seed matters. A method that samples something else, too, says so here."""
        return self.temperature is not None

    @property
    def reverse(self) -> bool:
        """Whether the target language is read and the source language written."""
        return False

    def check_files(self, *, vocabularies: Vocabularies, tokenizer: str) -> None:
        """Opens the files that the options name, before anything is decoded. tokenizer: the run's fingerprint.
        Raises DataError."""

    def random(self, source: Source) -> RowRandom | None:
        """The numbers of num_candidates samples of each right-padded source, (B * N,); None if tokens are not
        sampled. The first samples are the same however many there are."""
        if self.temperature is None:
            return None
        return RowRandom.of((source.tokens, source.valid), seed=self.seed).copies(self.num_candidates)

    def choose(
        self,
        head: Head,
        states: Float[Tensor, "B L D"],
        random: RowRandom | None,
        *,
        where: Bool[Tensor, "B L"] | None = None,
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """The most probable tokens, or samples at the temperature, with their log-probabilities. What stands at other
        positions than `where` means nothing."""
        if random is None or self.temperature is None:
            return head.best(states, where)
        drawn = random.uniform(states.size(1))
        return head.sampled(states, drawn, temperature=self.temperature, where=where)

    def pick(self, log_probs: Float[Tensor, "B L V"], random: RowRandom | None) -> Int[Tensor, "B L"]:
        """The most probable token of each position, or a sample at the temperature."""
        if random is None or self.temperature is None:
            return log_probs.argmax(dim=-1)
        return random.sample(log_probs / self.temperature)


@dataclass(frozen=True)
class BeamOptions(DecodingOptions):
    """Of decoders whose candidates are those of a beam, or samples."""

    beam_size: int = option(1, "hypotheses kept", minimum=1, maximum=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and self.beam_size > 1:
            raise ConfigError(f"beam_size={self.beam_size}: has no effect with temperature, which samples")
        if self.temperature is None and self.num_candidates > self.beam_size:
            raise ConfigError(
                f"num_candidates={self.num_candidates}: must be at most beam_size={self.beam_size}, unless "
                "temperature is set"
            )


@dataclass(frozen=True)
class PrefixBeamOptions(BeamOptions):
    """Of decoders whose beam holds prefixes of targets, and ranks them with an n-gram language model where there is
    one."""

    token_beam: int | None = option(
        None,
        f"beam search: tokens tried at a slot, or after a prefix, the best ones; null tries all that can matter, and "
        f"with a language model {LM_TOKEN_BEAM} (or beam_size + 1)",
        minimum=1,
        maximum=1_000_000,
    )
    language_model: str | None = option(None, "beam search: ARPA file of nat-lm; scores are then the fused ones")
    lm_weight: float | None = option(
        None, f"weight of its log-probability; null: {LM_WEIGHT} where there is one", minimum=0
    )
    length_bonus: float | None = option(None, f"added for each token; null: {LENGTH_BONUS} with a language model")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("token_beam", "language_model"):
            value = getattr(self, name)
            if value is not None and self.beam_size == 1:
                raise ConfigError(
                    f"{name}={value}: has no effect with beam_size=1, which keeps one path; give beam_size"
                )
        for name in ("lm_weight", "length_bonus"):
            value = getattr(self, name)
            if value is not None and self.language_model is None:
                raise ConfigError(f"{name}={value}: has no effect without language_model=FILE")
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"{name}={value}: must be a finite number")

    def check_files(self, *, vocabularies: Vocabularies, tokenizer: str) -> None:
        if self.language_model is not None:
            check_language_model(self.language_model, num_tokens=vocabularies.target_size, tokenizer=tokenizer)

    def prior(self, *, num_tokens: int, device: torch.device) -> Fusion | None:
        """What the beam search adds; None where that is nothing."""
        weight = LM_WEIGHT if self.lm_weight is None else self.lm_weight
        bonus = LENGTH_BONUS if self.length_bonus is None else self.length_bonus
        if self.language_model is None or weight == bonus == 0:
            return None
        return Fusion(open_language_model(self.language_model, num_tokens=num_tokens, device=device), weight, bonus)

    def num_tried(self, prior: Fusion | None) -> int | None:
        """Tokens that the beam search tries; None: all that can matter."""
        return self.token_beam or (None if prior is None else max(LM_TOKEN_BEAM, self.beam_size + 1))


@dataclass(frozen=True)
class LengthBeamOptions(DecodingOptions):
    """Of decoders that predict the length first. usual_beam: what length_beam=null means, unless tokens are sampled."""

    usual_beam: ClassVar[int] = 1
    length_beam: int | None = option(
        None,
        "lengths tried for each sentence, the most probable first; null: what the method's paper tries",
        minimum=1,
        maximum=10_000,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and self.beam > 1:
            raise ConfigError(f"length_beam={self.length_beam}: has no effect with temperature, which samples")
        if self.temperature is None and self.num_candidates > self.beam:
            raise ConfigError(
                f"num_candidates={self.num_candidates}: must be at most length_beam={self.beam}, "
                "unless temperature is set"
            )

    @property
    def beam(self) -> int:
        """Lengths that are tried."""
        if self.length_beam is None:
            return self.usual_beam if self.temperature is None else 1
        return self.length_beam

    def num_copies(self, source: Source) -> int:
        """Canvases of each sentence: its lengths, or its samples; drafts have one length each."""
        drafted = source.draft is not None and bool(source.draft.valid.any(dim=1).all())
        return self.num_candidates if drafted or self.temperature is not None else self.beam

    def lengths(self, predictor: LengthPredictor, net: Seq2Seq, source: Source, *, limit: int | None) -> LengthBeam:
        """The canvases of each right-padded source, of lengths up to `limit`."""
        copies, samples = self.num_copies(source), self.temperature is not None
        return LengthBeam.of(predictor, net, source, copies=copies, samples=samples, limit=limit, banned=self.banned)


@dataclass(frozen=True)
class MaskOptions(LengthBeamOptions):
    """Of decoders whose canvas is masks at first, or a draft with some, or phrases that must stay, see
    `nat.search.masks`."""

    usual_beam: ClassVar[int] = 5
    max_passes: int = option(4, "decoder calls", minimum=1, maximum=100_000)
    remask: float = option(0.3, "with a draft: share of it that the first pass predicts anew", minimum=0, maximum=1)
    orders: int = option(24, "several constraints: orders of them that are tried", minimum=1, maximum=10_000)


@dataclass(frozen=True)
class SampleOptions(DecodingOptions):
    """Of decoders whose several candidates are samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_candidates > 1 and self.temperature is None:
            raise ConfigError(f"num_candidates={self.num_candidates}: needs temperature (samples)")


@dataclass(frozen=True)
class EditOptions(SampleOptions):
    """Of decoders that insert into a canvas: it begins with nothing, with a draft, or with phrases that must stay, see
    `nat.search.editing`."""

    max_passes: int = option(
        10, "passes at most; a sentence in which nothing changes needs fewer", minimum=1, maximum=100_000
    )
    orders: int = option(
        24, "several constraints: orders of them that are tried; the best result stays", minimum=1, maximum=10_000
    )
    max_length_factor: float = option(
        2.0, "a translation has at most factor * S + offset tokens", minimum=0, maximum=100
    )
    max_length_offset: int = option(20, "see max_length_factor", minimum=1, maximum=100_000)

    def num_copies(self, source: Source) -> int:
        """Canvases of each sentence: its samples, or the orders of its phrases."""
        return num_orders(source.phrases, limit=self.orders) if self.temperature is None else self.num_candidates

    def limits(self, source: Source, *, positions: int | None) -> Int[Tensor, " B"]:
        """The longest canvas of each row, in tokens. positions: the most that the model takes, if there is a limit."""
        limits = (source.lengths * self.max_length_factor).long() + self.max_length_offset
        return limits if positions is None else limits.clamp(max=positions)


@dataclass(frozen=True)
class InsertionOptions(EditOptions):
    """Of decoders that insert one token into each slot, see `nat.search.insertion`."""

    max_passes: int = option(
        1000,
        "passes at most; in parallel about log2 of the length, else one for each token; and a last one",
        minimum=1,
        maximum=100_000,
    )
    parallel: bool | None = option(
        None, "insert into all slots at once, or one token at a time; null: at once wherever the model can"
    )
    end_penalty: float = option(
        0.0, "subtracted from the log-probability of the end; more of it: longer", minimum=0, maximum=1000
    )

    def rule(self, finalisation: Finalisation, *, end: int) -> InsertionRule:
        """The rule of a model with this finalisation, whose end is the symbol `end`. Raises ConfigError for
        parallel=true where one insertion ends all: slots do not end one by one (Stern et al. 2019, section 5.2)."""
        whole = finalisation is Finalisation.SEQUENCE
        if whole and self.parallel:
            raise ConfigError("parallel=true: needs a model of finalisation=slot, this one has finalisation=sequence")
        parallel = not whole if self.parallel is None else self.parallel
        return InsertionRule(parallel, finalisation, end, self.end_penalty, self.temperature)
