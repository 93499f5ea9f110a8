"""Single-pass translation with latent alignments (connectionist temporal classification).

Libovicky & Helcl 2018, https://arxiv.org/abs/1811.04719; Saharia et al. 2020, https://arxiv.org/abs/2004.07437; with
glancing (Qian et al. 2021, https://arxiv.org/abs/2008.07905) and deep supervision (Huang et al. 2022,
https://arxiv.org/abs/2110.07515) as options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.losses import smoothed
from nat.models.contract import LossTerm, StaticPass, Translation, TranslationModel
from nat.models.options import DecodingOptions, PrefixBeamOptions
from nat.nn.glancing import SinglePassConfig, gold_positions, reveal, shown
from nat.nn.head import Head
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import Guide
from nat.nn.slots import SlotConfig, Slots, glanced_scores, marginal_log_prob, target_scores
from nat.nn.transformer import Memory
from nat.ops import ctc
from nat.rows import Rows
from nat.search.refine import History

BLANK, PAD = int(Symbol.BLANK), int(Symbol.PAD)


@dataclass(frozen=True)
class Paths(Rows):
    """N paths through the slots of each row: canvases before they are collapsed. symbols: (B, N, A). log_probs: of each
    symbol. valid: (B, A)."""

    symbols: Int[Tensor, "B N A"]
    log_probs: Float[Tensor, "B N A"]
    valid: Bool[Tensor, "B A"]

    def translation(self, *, history: bool) -> Translation:
        tokens, valid = ctc.collapse(
            self.symbols.flatten(0, 1),
            self.valid.repeat_interleave(self.symbols.size(1), dim=0),
            blank=BLANK,
            pad=PAD,
        )
        shape = self.symbols.shape[:2]
        canvases = zip(self.symbols.unbind(1), self.log_probs.unbind(1), strict=True)
        return Translation.of_one_pass(
            tokens.unflatten(0, shape),
            valid.unflatten(0, shape),
            self.log_probs.masked_fill(~self.valid[:, None], 0.0).sum(dim=2),
            [History.of_one_pass(path, self.valid, log_probs) for path, log_probs in canvases] if history else [],
        )


class CTC(TranslationModel):
    """Encoder states split into s slots by a linear map, an unmasked decoder over the slots, CTC loss.

    The target is the marginal over all alignments; no length model is needed. A pair with
    T + repeats > s S has no alignment: it is counted in `unalignable` and left out of the loss.
    """

    unlearnable = "more tokens and repeats than slots, model.upsampling; or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(SinglePassConfig, SlotConfig):
        pass

    @dataclass(frozen=True)
    class Decoding(PrefixBeamOptions):
        beam_size: int = option(
            1, "1 is the best path (one arg max a slot), more is prefix beam search", minimum=1, maximum=10_000
        )

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net, self.split = config.parts(vocabularies, deep=config.deep_supervision.enabled)

    def states(self, source: Source, *, banned: tuple[int, ...] = ()) -> tuple[Head, Float[Tensor, "B A D"], Slots]:
        """Of every slot, with the head that tells its symbol; banned: symbols that are not to be written."""
        memory = replace(self.net.encode(source), banned=banned)
        slots = self.split(memory)
        return self.net.head(memory), self.net.states(self.net.place(slots.states), slots.mask, memory), slots

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory = self.net.encode(batch.source)
        slots = self.split(memory)
        random = RowRandom.of_pairs(batch, seed=update)
        head, states = self.net.head(memory), slots.states
        ratio = self.config.glancing(update) if self.training else 0.0
        if ratio > 0:
            states = self.glance(head, slots, memory, batch, random, ratio=ratio)
        guide = None
        if self.training and self.config.deep_supervision.enabled:
            guide = self.guide(head, slots, batch, random.fork(1))
        layers = self.net.layers(self.net.place(states), slots.mask, memory, guide=guide)
        return self.terms(head, layers, slots, batch)

    def glance(
        self, head: Head, slots: Slots, memory: Memory, batch: Batch, random: RowRandom, *, ratio: float
    ) -> Float[Tensor, "B A D"]:
        """Decoder inputs with part of the best alignment revealed (Gu & Kong 2021, https://arxiv.org/abs/2012.15833,
        section 3.3; Qian et al. 2021, section 3.2)."""
        with torch.no_grad():
            states = self.net.states(self.net.place(slots.states), slots.mask, memory)
        scored, predicted = glanced_scores(head, states, slots, batch.target)
        reference = ctc.best_path(scored)
        where = shown(predicted, reference, slots.valid & scored.alignable()[:, None], random, ratio=ratio)
        return reveal(slots.states, self.net.embed(reference), where)

    def guide(self, head: Head, slots: Slots, batch: Batch, random: RowRandom) -> Guide:
        """What a layer feeds on in training, with deep supervision: its own best path, with a share of its best
        alignment."""
        gold = gold_positions(slots.valid, random, share=self.config.deep_supervision.gold)

        def feed(states: Tensor) -> Tensor:
            scored, _ = target_scores(head, states, slots, batch.target)
            return ctc.best_path(scored).where(gold, head.argmax(states))

        return feed

    def terms(self, head: Head, layers: list[Tensor], slots: Slots, batch: Batch) -> dict[str, LossTerm]:
        """The mean over the layers that predict."""
        smoothing, totals = self.config.label_smoothing, []
        for states in layers:
            scored, mean = target_scores(head, states, slots, batch.target, with_mean=smoothing > 0)
            nll, alignable = ctc.marginal_loss(scored, states.dtype)  # (B)
            totals.append(smoothed(nll.sum(), mean, slots.valid & alignable[:, None], weight=smoothing))
        tokens = (batch.target.lengths * alignable).sum()
        unalignable = (~alignable).sum()
        return {
            "ctc": LossTerm(torch.stack(totals).mean(), tokens),
            "unalignable": LossTerm(unalignable, unalignable.new_full((), len(batch)), weight=0.0),
            "nll": LossTerm(nll.sum().detach(), tokens, weight=0.0),
        }

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y|x), the marginal over all alignments; -inf for a pair that has none."""
        batch = batch.compact()
        head, states, slots = self.states(batch.source)
        return marginal_log_prob(head, states, slots, batch.target)

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, CTC.Decoding)
        if decoding.beam_size > 1:
            head, states, slots = self.states(source.compact(), banned=decoding.banned)
            return self.beam(head.full(states), slots, decoding)
        return self.paths(source, decoding).translation(history=decoding.history)

    def static_pass(self, decoding: DecodingOptions) -> StaticPass | None:
        """Of the best path."""
        assert isinstance(decoding, CTC.Decoding)
        if decoding.beam_size > 1 or decoding.is_random or not self.net.static:
            return None
        return StaticPass(
            compute=lambda source: self.paths(source, decoding),
            finish=partial(Paths.translation, history=decoding.history),
        )

    def paths(self, source: Source, decoding: Decoding) -> Paths:
        """The best path, or samples, every slot by itself at the temperature; and the log-probability of each symbol
        at temperature 1."""
        source = source.compact()
        head, states, slots = self.states(source, banned=decoding.banned)
        random = decoding.random(source)
        if random is None or decoding.temperature is None:
            path, log_probs = head.best(states)
            return Paths(path[:, None], log_probs[:, None], slots.valid)
        every = head.full(states)
        paths = random.samples(every / decoding.temperature)
        return Paths(paths, every.gather(2, paths.transpose(1, 2)).transpose(1, 2), slots.valid)

    def beam(self, log_probs: Float[Tensor, "B A V"], slots: Slots, decoding: Decoding) -> Translation:
        """Candidates of the prefix beam search: each is the sum of many paths, of which a history shows the best."""
        prior = decoding.prior(num_tokens=log_probs.size(2), device=log_probs.device)
        tokens, lengths, scores = ctc.prefix_beam_search(
            log_probs,
            slots.lengths,
            blank=BLANK,
            pad=PAD,
            beam_size=decoding.beam_size,
            num_candidates=decoding.num_candidates,
            token_beam=decoding.num_tried(prior),
            prior=prior,
        )
        history = []
        for n in range(tokens.size(1) if decoding.history else 0):
            path = ctc.best_alignment(log_probs, tokens[:, n], slots.lengths, lengths[:, n], blank=BLANK)
            confidence = log_probs.gather(2, path[:, :, None]).squeeze(2)
            history.append(History.of_one_pass(path, slots.valid, confidence))
        valid = torch.arange(tokens.size(2), device=tokens.device) < lengths[:, :, None]
        return Translation.of_one_pass(tokens, valid, scores, history)

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return self.split.num_slots * source_length

    @property
    def length_limits(self) -> LengthLimits:
        return self.split.length_limits(self.net)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return self.split.alignable(batch) & super().learnable(batch)
