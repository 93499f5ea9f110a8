"""The Insertion Transformer: every pass inserts tokens anywhere in what there is so far.

Stern et al. 2019, https://arxiv.org/abs/1902.03249.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.batch import Batch, Source
from nat.data.vocabulary import Symbol, Vocabularies
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, InsertionOptions
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.spans import SpanConfig
from nat.nn.transformer import Memory, initialise
from nat.ops import insertion
from nat.ops.editing import bracket, gaps, rearrange
from nat.ops.selection import packed
from nat.search.editing import start
from nat.search.insertion import Contents, Finalisation, Texts, insert_until_complete

BOS, EOS, PAD = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.PAD)


class Distribution(Enum):
    JOINT = "joint"
    FACTORED = "factored"


class InsertionTransformer(TranslationModel):
    """p(c, l | x, y_partial): which token comes next, and into which slot. Trained on random parts of the target, whose
    slots have the missing spans as targets; EOS is the end of a slot, or of the sequence."""

    num_ends: ClassVar[int] = 2  # BOS and EOS around the canvas
    edits: ClassVar[frozenset[str]] = frozenset({"draft", "known", "constraints"})

    @dataclass(frozen=True, kw_only=True)
    class Config(SpanConfig, ParallelConfig):
        distribution: Distribution = option(
            Distribution.JOINT, "one softmax over tokens of all slots, or one over slots times one over tokens"
        )
        finalisation: Finalisation = option(
            Finalisation.SLOT, "each slot ends by itself, or one insertion ends all (then no parallel decoding)"
        )
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)

    @dataclass(frozen=True)
    class Decoding(InsertionOptions):
        pass

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        dim = config.size.dim
        self.net = Seq2Seq(
            config, vocabularies=vocabularies, symbols=(Symbol.UNK, Symbol.EOS), decoder=config.attentions()
        )
        self.slot = nn.Linear(2 * dim, dim)
        initialise(self.slot, config.size.initial)
        self.where = nn.Parameter(torch.randn(dim) * 0.02) if config.distribution is Distribution.FACTORED else None

    def contents(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], memory: Memory) -> Contents:
        """Of every slot of partial translations, closed ones too: all share the probability."""
        slots, there = self.slots(tokens, valid, memory), gaps(valid)
        _, states = packed(there, slots)
        contents = Contents.of(self.net.head(memory).scores(states), there)
        return contents.located(None if self.where is None else slots @ self.where)

    def slots(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], memory: Memory) -> Float[Tensor, "B G D"]:
        """States of the slots of partial translations: those on the two sides (section 3.1), mapped to D for the tied
        output."""
        marked, real = bracket(tokens, valid, first=BOS, last=EOS)
        states = self.net.states(self.net.place(self.net.embed(marked)), real, memory)
        slots: Tensor = self.slot(torch.cat((states[:, :-1], states[:, 1:]), dim=2))
        return slots

    # --- training -------------------------------------------------------------------------------------

    def partial(self, batch: Batch, update: int) -> insertion.Partial:
        """What is shown of each target: k tokens, uniform in 0..T, anywhere (section 4.2)."""
        target = batch.target
        random = RowRandom.of_pairs(batch, seed=update)
        noise = random.fork(1).uniform(target.valid.size(1))
        return insertion.shortened(insertion.kept_at_random(target.valid, random.uniform(), noise), target.valid)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """The paper's loss of one random state is a mean over slots. Departs from it: a pair counts T + 1 times, once
        for each number of tokens that can be shown, so that long pairs weigh as much as in other methods."""
        batch = batch.compact()
        target, partial = batch.target, self.partial(batch, update)
        memory = self.net.encode(batch.source)
        shown = rearrange(target.tokens, partial.origin).masked_fill(~partial.valid, PAD)
        scores = self.scores(self.slots(shown, partial.valid, memory), target.tokens, partial, memory)
        whole = self.config.finalisation is Finalisation.SEQUENCE
        ends = (insertion.sequence_ends if whole else insertion.slot_ends)(partial, partial.slots)
        losses, plain = insertion.insertion_losses(
            scores,
            self.config.weights(partial, dtype=scores.spans.dtype),
            partial,
            ends,
            label_smoothing=self.config.label_smoothing,
        )
        states = target.lengths + 1
        count = states.sum()
        return {
            "insertion": LossTerm((losses * states).sum(), count),
            "nll": LossTerm((plain * states).sum(), count, weight=0.0),
        }

    def scores(
        self, slots: Float[Tensor, "B G D"], tokens: Int[Tensor, "B L"], partial: insertion.Partial, memory: Memory
    ) -> insertion.SlotScores:
        """log p(c, l) of what is missing, of ends, and their means."""
        head = self.net.head(memory)
        scores = insertion.SlotScores.of(
            head.scores(slots),
            tokens,
            partial,
            end=EOS,
            with_mean=self.config.label_smoothing > 0,
            forbidden=head.forbidden,
        )
        slot_logits = scores.normaliser if self.where is None else slots @ self.where
        return scores.located(slot_logits, partial, partial.slots)

    # --- decoding -------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """Scores are sums of log p(c | l), the token given its slot, of all that was inserted and of the ends."""
        assert isinstance(decoding, InsertionOptions)
        rule = decoding.rule(self.config.finalisation, end=EOS)
        source = source.compact()
        copies = decoding.num_copies(source)
        limits = decoding.limits(source, positions=self.max_target_length)

        def contents(texts: Texts, memory: Memory) -> list[Contents]:
            return [self.contents(texts.canvases[0].tokens, texts.canvases[0].valid, memory)]

        refined = insert_until_complete(
            contents,
            Texts.of(start(source, copies=copies)),
            replace(self.net.decoder.project(self.net.encode(source)), banned=decoding.banned).shared(copies),
            scorer=lambda texts, memory: contents(texts, replace(memory, banned=())),
            rule=rule,
            limits=limits.repeat_interleave(copies)[:, None],
            random=decoding.random(source),
            max_passes=decoding.max_passes,
            history=decoding.history,
        )
        return Translation.of_insertions(refined, 0, copies=copies, decoding=decoding)

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits.of(self.net, ends=self.num_ends)
