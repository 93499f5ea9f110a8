"""The Levenshtein Transformer: deletes, makes room, fills the room, until nothing changes.

Gu, Wang & Zhao 2019, https://arxiv.org/abs/1905.11006. Terms that must stay: Susanto, Chollampatt & Tan 2020,
https://arxiv.org/abs/2004.12681.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source, Target, Tokens
from nat.data.vocabulary import Symbol, Vocabularies
from nat.losses import cross_entropy
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import DecodingOptions, EditOptions
from nat.nn.copying import Copying
from nat.nn.edit_heads import EditHeads, Exits, Sharing
from nat.nn.limits import LengthLimits
from nat.nn.rng import RowRandom
from nat.nn.roll_in import DraftConfig, completed, dropped, either, kept
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.transformer import Memory
from nat.ops.edit_distance import best_edits
from nat.ops.editing import gaps
from nat.ops.sampling import class_of
from nat.ops.selection import unpacked
from nat.ops.shapes import are_fixed, nothing_in
from nat.search.canvas import Canvas, Fate
from nat.search.editing import CUT, Work, start, traced, with_deleted, with_given_scores, within_limits
from nat.search.refine import Step, refine, unchanged

PLH = int(Symbol.PLH)


class RollIn(Enum):
    SAMPLE = "sample"
    ARGMAX = "argmax"


class Levenshtein(TranslationModel):
    """Three policies on one canvas: delete tokens, insert placeholders, fill them.

    Trained by imitation of the shortest edit to the target (section 3.2), each policy on what the others leave to it.
    A gap of more than max_placeholders is learnt as max_placeholders, filled with its first tokens, and counted in
    `wide_gaps`; decoding needs another pass for it. A pass of decoding is up to three decoder calls.
    """

    unlearnable = "an empty side, or a canvas longer than {limit}"
    num_ends = 2  # BOS and EOS around the canvas
    edits = frozenset({"draft", "known", "constraints"})

    @dataclass(frozen=True, kw_only=True)
    class Config(DraftConfig, ParallelConfig):
        share_decoders: Sharing = option(
            Sharing.ALL, "classifiers on one decoder: all, a pair with the token classifier, none"
        )
        exits: Exits = field(default_factory=Exits)
        max_placeholders: int = option(255, "placeholders in one gap in one pass, K_max", minimum=1, maximum=10_000)
        alpha: float = option(
            0.5, "training: share of pairs whose deletion starts from the initial sequence", minimum=0, maximum=1
        )
        beta: float = option(
            0.5, "training: share of pairs whose insertion starts from the initial sequence", minimum=0, maximum=1
        )
        roll_in: RollIn = option(RollIn.SAMPLE, "training: the model's own actions are samples, or the most probable")
        label_smoothing: float = option(0.1, "probability spread over all other tokens", minimum=0, below=1)
        copying: Copying = field(default_factory=Copying)
        placeholder_smoothing: float = option(0.01, "the same over all other counts", minimum=0, below=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            self.exits.check(all_layers=self.decoder.num_layers, sharing=self.share_decoders)

    @dataclass(frozen=True)
    class Decoding(EditOptions):
        calls_per_pass: ClassVar[int] = 3
        max_passes: int = option(
            10,
            "rounds at most, each of up to three decoder calls; a sentence in which nothing changes needs fewer",
            minimum=1,
            maximum=100_000,
        )
        placeholder_penalty: float = option(
            0.0,
            "subtracted from the log-probability of 0 placeholders: more gives longer translations",
            minimum=0,
            maximum=1000,
        )

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net = Seq2Seq(
            config,
            vocabularies=vocabularies,
            symbols=(Symbol.UNK,),
            decoder=config.attentions(),
            copying=config.copying,
        )
        self.heads = EditHeads(
            config, sharing=config.share_decoders, exits=config.exits, max_placeholders=config.max_placeholders
        )

    # --- training: what each policy starts from (section 3.2) -------------------------------------------

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        source, target = batch.source, batch.target
        memory = self.net.encode(source)
        random = RowRandom.of_pairs(batch, seed=update)
        initial = self.initial(target, random.fork(0))
        ready = self.insertion_roll_in(initial, target, memory, random.fork(1))
        terms, inserted = self.insertion_loss(ready, target, memory, random.fork(2))
        edited = either(random.fork(3).uniform() < self.config.alpha, initial, inserted)
        return terms | {"deletion": self.deletion_loss(edited, target, memory)}

    def initial(self, target: Target, random: RowRandom) -> Tokens:
        """y^0."""
        return self.config.initial(target, random, num_tokens=self.vocabularies.target_size)

    def insertion_roll_in(self, initial: Tokens, target: Target, memory: Memory, random: RowRandom) -> Tokens:
        """y_ins: with probability beta the initial sequence after deletion, else the target after random deletion.

        Departs from the paper, where the expert deletes from y^0: here the model does, as it will when it decodes, and
        what it fails to delete stays. From nothing, y^0 of the paper's translations, both delete nothing.
        """
        own = random.uniform() < self.config.beta
        deleted = self.own_deletions(initial, own, memory, random.fork(0))
        return either(own, kept(initial, initial.valid & ~deleted), dropped(target, random.fork(1)))

    @torch.no_grad()
    def own_deletions(
        self, sequence: Tokens, asked: Bool[Tensor, " B"], memory: Memory, random: RowRandom
    ) -> Bool[Tensor, "B L"]:
        """What the model deletes from the rows that are asked for."""
        if are_fixed(asked):
            return asked[:, None] & sequence.valid & self.deletions(sequence, memory, random)
        deleted = torch.zeros_like(sequence.valid)
        rows = (asked & sequence.valid.any(dim=1)).nonzero().squeeze(1)
        if not len(rows):
            return deleted
        chosen = self.deletions(sequence.select(rows), memory.select(rows), random.select(rows))
        return deleted.index_copy(0, rows, chosen) & sequence.valid

    def deletions(self, sequence: Tokens, memory: Memory, random: RowRandom) -> Bool[Tensor, "B L"]:
        """The model's own decisions to delete."""
        log_probs = self.heads.deletion(self.net, *self._of(sequence), memory)
        return self.act(log_probs, random.uniform(log_probs.size(1))) == 1

    def act(self, scores: Float[Tensor, "*B C"], drawn: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """The model's own choice of classes. drawn: uniform in (0, 1)."""
        return scores.argmax(dim=-1) if self.config.roll_in is RollIn.ARGMAX else class_of(scores, drawn)

    # --- training: what it learns there -----------------------------------------------------------------

    def insertion_loss(
        self, ready: Tokens, target: Target, memory: Memory, random: RowRandom
    ) -> tuple[dict[str, LossTerm], Tokens]:
        """Placeholders in y_ins and tokens in y'_ins, y_ins with the expert's placeholders; and y'_ins as the model
        itself fills it."""
        wanted = best_edits(*self._of(ready), *self._of(target))
        edits = wanted.limited(self.config.max_placeholders)
        counts = self.heads.placeholders(self.net, *self._of(ready), memory)
        total, _, count = cross_entropy(
            counts, edits.placeholders, gaps(ready.valid), label_smoothing=self.config.placeholder_smoothing
        )
        canvas, new = completed(ready, edits, target)
        states = self.heads.token_states(self.net, canvas.tokens.masked_fill(new, PLH), canvas.valid, memory)
        head = self.net.head(memory)
        there, scores, labels, drawn = head.packed(states, new, canvas.tokens, random.uniform(new.size(1)))
        token_total, nll, num_new = cross_entropy(
            scores, labels, there, label_smoothing=self.config.label_smoothing, forbidden=head.forbidden
        )
        own = self.act(scores.detach(), drawn)
        wide = (wanted.placeholders > self.config.max_placeholders).sum()
        terms = {
            "placeholder": LossTerm(total, count),
            "token": LossTerm(token_total, num_new),
            "nll": LossTerm(nll, num_new, weight=0.0),
            "wide_gaps": LossTerm(wide, count, weight=0.0),
        }
        return terms, Tokens(unpacked(new, own, canvas.tokens), canvas.valid)

    def deletion_loss(self, edited: Tokens, target: Target, memory: Memory) -> LossTerm:
        """What the expert deletes from y_del."""
        edits = best_edits(*self._of(edited), *self._of(target))
        log_probs = self.heads.deletion(self.net, *self._of(edited), memory)
        total, _, count = cross_entropy(log_probs, edits.deleted.long(), edited.valid)
        return LossTerm(total, count)

    @staticmethod
    def _of(sequence: Tokens) -> tuple[Tensor, Tensor]:
        return sequence.tokens, sequence.valid

    # --- decoding (section 3.3) ---------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, Levenshtein.Decoding)
        source = source.compact()
        copies = decoding.num_copies(source)
        limits = decoding.limits(source, positions=self.max_target_length)
        memory = self.heads.project(self.net, self.net.encode(source))
        memory = replace(memory, banned=decoding.banned).shared(copies)
        refined = refine(
            self.stepper(decoding),
            start(source, copies=copies),
            Work(memory, limits.repeat_interleave(copies), decoding.random(source)),
            max_passes=decoding.max_passes,
            finished=unchanged,
            history=decoding.history,
        )
        canvas, scoring = self.score_given(refined.canvas, memory)
        return Translation.best_of(
            canvas,
            decoding,
            copies=copies,
            calls=refined.calls + scoring,
            truncated=canvas.rows[CUT] | ~refined.finished,
            history=refined.history(with_deleted),
        )

    def stepper(self, decoding: Decoding) -> Step[Canvas, Work]:
        """Delete, insert placeholders, fill them: up to three decoder calls, those that have nothing to decide are
        left out. With a temperature the first pass samples tokens, and the later ones refine the sample."""

        def step(canvas: Canvas, work: Work, number: int) -> tuple[Canvas, Int[Tensor, " B"]]:
            canvas = traced(canvas)
            canvas, deleting = self.delete(canvas, work)
            canvas, making_room = self.make_room(canvas, work, penalty=decoding.placeholder_penalty)
            random = work.random if number == 1 else None
            canvas, filling = self.fill(canvas, work.memory, random, decoding)
            return canvas, deleting.long() + making_room.long() + filling.long()

        return step

    # Each of the three also returns which rows needed its decoder call. A row gets the same without it, so that neither
    # the result nor the count depends on the batch.

    def delete(self, canvas: Canvas, work: Work) -> tuple[Canvas, Bool[Tensor, " B"]]:
        """Without the tokens that are more probably deleted than kept; fixed ones stay (Susanto et al. 2020)."""
        free = canvas.valid & ~canvas.fixed
        if nothing_in(free):
            return canvas, free.any(dim=1)
        log_probs = self.heads.deletion(self.net, canvas.tokens, canvas.valid, work.memory)
        return canvas.without(free & (log_probs.argmax(dim=-1) == 1)), free.any(dim=1)

    def make_room(self, canvas: Canvas, work: Work, *, penalty: float) -> tuple[Canvas, Bool[Tensor, " B"]]:
        """With the most probable number of placeholders in each open gap; an empty canvas gets at least one, for a
        translation has words. What exceeds the row's limit is cut from the last gaps on."""
        is_open = canvas.open_gaps
        wanted = torch.zeros_like(is_open, dtype=torch.long)
        if not nothing_in(is_open):
            log_probs = self.heads.placeholders(self.net, canvas.tokens, canvas.valid, work.memory)
            none = (log_probs[:, :, :1] - penalty).masked_fill((canvas.lengths == 0)[:, None, None], -torch.inf)
            wanted = torch.cat((none, log_probs[:, :, 1:]), dim=2).argmax(dim=2).masked_fill(~is_open, 0)
        canvas, counts = within_limits(canvas, wanted, work.limits)
        return canvas.inserted(counts, token=PLH), is_open.any(dim=1)

    def fill(
        self, canvas: Canvas, memory: Memory, random: RowRandom | None, decoding: Decoding
    ) -> tuple[Canvas, Bool[Tensor, " B"]]:
        """With tokens in the placeholders."""
        new = canvas.fate == Fate.INSERTED
        if nothing_in(new):
            return canvas, new.any(dim=1)
        states = self.heads.token_states(self.net, canvas.tokens, canvas.valid, memory)
        written, scores = decoding.choose(self.net.head(memory), states, random, where=new)
        scores = scores.where(new, canvas.scores.to(scores))
        return replace(canvas, tokens=written.where(new, canvas.tokens), scores=scores), new.any(dim=1)

    def score_given(self, canvas: Canvas, memory: Memory) -> tuple[Canvas, Int[Tensor, " B"]]:
        """With scores of the tokens that were given, as if they were placeholders; and each row's decoder calls."""
        memory = replace(memory, banned=())  # what is given may be anything

        def log_probs(tokens: Tensor) -> Tensor:
            states = self.heads.token_states(self.net, tokens, canvas.valid, memory)
            return self.net.head(memory).of(states, canvas.tokens)

        return with_given_scores(canvas, log_probs, symbol=PLH)

    # --- lengths --------------------------------------------------------------------------------------

    @property
    def length_limits(self) -> LengthLimits:
        return LengthLimits.of(self.net, ends=self.num_ends)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        sources, targets = batch.source.lengths, batch.target.lengths
        # a draft of which nothing is deleted, and all of the target beside it
        canvas = targets * (2 if self.config.drafts > 0 and self.config.beta > 0 else 1)
        return (sources >= 1) & (targets >= 1) & self.fits(sources, canvas)
