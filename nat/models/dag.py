"""Single-pass translation over a directed acyclic graph of vertices (the directed acyclic transformer).

Huang, Zhou, Liu, Li & Huang 2022, https://arxiv.org/abs/2205.07459; with glancing (section 3.3) as an option. Decoded
greedily, with lookahead, by a beam, or jointly (Shao, Ma & Feng 2022, https://arxiv.org/abs/2210.05193). As an option,
the tokens of a path are those of a random field over it, see nat/nn/random_field.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import Symbol, Vocabularies
from nat.errors import ConfigError
from nat.losses import smoothed
from nat.models.contract import LossTerm, StaticPass, Translation, TranslationModel
from nat.models.options import DecodingOptions, PrefixBeamOptions
from nat.nn.glancing import Glancing, reveal, shown
from nat.nn.head import Head
from nat.nn.limits import LengthLimits
from nat.nn.random_field import PathField
from nat.nn.rng import RowRandom
from nat.nn.slots import Slots, SplitConfig
from nat.nn.transformer import Memory
from nat.nn.transitions import Transitions
from nat.ops.dag import best_path, marginal_loss
from nat.ops.selection import to_the_left
from nat.rows import Rows
from nat.search.dag import beam_search, follow, joint_viterbi
from nat.search.refine import History, Links

PAD = int(Symbol.PAD)
USUAL_BETA, USUAL_PENALTY = 1.0, 1.0
STRONGEST = 3  # steps from each vertex that a history keeps


class Search(Enum):
    GREEDY = "greedy"
    LOOKAHEAD = "lookahead"
    VITERBI = "viterbi"
    BEAM = "beam"


@dataclass(frozen=True)
class Graph:
    """What the decoder says of its vertices. states: of which `head` tells the tokens. transitions: where paths go, see
    nat/ops/dag.py."""

    head: Head
    states: Float[Tensor, "B A D"]
    transitions: Float[Tensor, "B A1 A1"]
    valid: Bool[Tensor, "B A"]

    def columns(
        self, target: Target, *, with_mean: bool = False
    ) -> tuple[Float[Tensor, "B A T"], Float[Tensor, "B A"]]:
        """The log-probability that a vertex holds each token of the target; and `Head.columns`' mean."""
        return self.head.columns(self.states, target.tokens, with_mean=with_mean)


@dataclass(frozen=True)
class Paths(Rows):
    """N paths through the vertices of each row. tokens, log_probs: (B, N, A) of every vertex, visited or not. visited:
    (B, N, A). scores: (B, N) log-probability of the steps and of the tokens written. valid: (B, A). links: for who
    looks at the graph."""

    tokens: Int[Tensor, "B N A"]
    log_probs: Float[Tensor, "B N A"]
    visited: Bool[Tensor, "B N A"]
    scores: Float[Tensor, "B N"]
    valid: Bool[Tensor, "B A"]
    links: Links

    @classmethod
    def along(
        cls,
        graph: Graph,
        successors: Int[Tensor, "B N A1"],
        visited: Bool[Tensor, "B N A"],
        tokens: Int[Tensor, "B N A"],
        log_probs: Float[Tensor, "B N A"],
    ) -> Paths:
        """Those that take these steps, see `nat.search.dag.follow`."""
        nodes = F.pad(visited, (1, 0), value=True)
        steps = graph.transitions.gather(2, successors.transpose(1, 2)).transpose(1, 2)
        scores = steps.masked_fill(~nodes, 0.0).sum(dim=2) + log_probs.masked_fill(~visited, 0.0).sum(dim=2)
        return cls(tokens, log_probs, visited, scores, graph.valid, Links.of(graph.transitions, STRONGEST))

    def translation(self, *, history: bool) -> Translation:
        tokens, valid = to_the_left(self.visited.flatten(0, 1), self.tokens.flatten(0, 1), pad=PAD)
        shape = self.tokens.shape[:2]
        candidates = zip(*(x.unbind(1) for x in (self.tokens, self.log_probs, self.visited)), strict=True)
        return Translation.of_one_pass(
            tokens.unflatten(0, shape),
            valid.unflatten(0, shape),
            self.scores,
            [
                History.of_one_pass(ids, self.valid, probs, left=left, links=self.links)
                for ids, probs, left in candidates
            ]
            if history
            else (),
        )


class DAG(TranslationModel):
    """Encoder states split into s vertices by a linear map, an unmasked decoder over them, and transitions between
    them: a path from the begin to the end writes the token of every vertex that it visits.

    The target is the marginal over all paths; no length model is needed. A pair with T > s S has no path: it is counted
    in `unalignable` and left out of the loss. The score of a translation is the log-probability of its path and tokens;
    of a beam's, which sums all paths, that of the tokens.

    With a random field (crf.weight), the loss has that of the target's best path, too, and the field's Viterbi search
    chooses the tokens of the path that was found. Then a beam, and scores of given targets, which sum over paths of
    tokens that are independent, are refused.
    """

    unlearnable = "more tokens than vertices, model.upsampling; or longer than {limit}"

    @dataclass(frozen=True, kw_only=True)
    class Config(SplitConfig):
        upsampling: int = option(4, "vertices s for each source token; the paper's 8", minimum=1, maximum=100)
        glancing: Glancing = field(default_factory=Glancing)
        crf: PathField.Config = field(default_factory=PathField.Config)

    @dataclass(frozen=True)
    class Decoding(PrefixBeamOptions):
        beam_size: int = option(1, "1 is one path, more is a beam of prefixes", minimum=1, maximum=10_000)
        search: Search | None = option(
            None,
            "greedy: the best step, then its token; lookahead: the best of both together; viterbi: the best path; "
            "beam: the best translations, over all their paths; null: lookahead, or beam with beam_size",
        )
        lookahead_beta: float | None = option(
            None, f"search=lookahead: weight of a token's log-probability; null: {USUAL_BETA}", minimum=0, maximum=1000
        )
        length_penalty: float | None = option(
            None,
            "search=viterbi or beam: log-probabilities are divided by tokens^length_penalty, more of it: longer; null: "
            f"{USUAL_PENALTY}, or 0 with a language model, whose length_bonus does it",
            minimum=0,
            maximum=100,
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.search is not None and self.temperature is not None:
                raise ConfigError(f"search={self.search.value}: has no effect with temperature, which samples")
            if self.search is Search.BEAM and self.beam_size == 1:
                raise ConfigError("search=beam: give beam_size, more than 1")
            if self.search not in (None, Search.BEAM) and self.beam_size > 1:
                raise ConfigError(f"beam_size={self.beam_size}: has no effect with search={self.search.value}")
            of = None if self.temperature is not None else self.chosen
            if self.lookahead_beta is not None and of is not Search.LOOKAHEAD:
                raise ConfigError(f"lookahead_beta={self.lookahead_beta}: has no effect without search=lookahead")
            if self.length_penalty is not None and of not in (Search.VITERBI, Search.BEAM):
                raise ConfigError(f"length_penalty={self.length_penalty}: has no effect without search=viterbi or beam")

        @property
        def chosen(self) -> Search:
            if self.search is None:
                return Search.LOOKAHEAD if self.beam_size == 1 else Search.BEAM
            return self.search

        @property
        def penalty(self) -> float:
            """The power of a translation's length that its log-probability is divided by."""
            usual = USUAL_PENALTY if self.language_model is None else 0.0
            return usual if self.length_penalty is None else self.length_penalty

    def __init__(self, config: Config, *, vocabularies: Vocabularies) -> None:
        super().__init__(vocabularies)
        self.config = config
        self.net, self.split = config.build(vocabularies, symbols=(Symbol.UNK,))
        self.transitions = Transitions(config.size)
        self.crf: PathField | None = None
        if config.crf.weight > 0:
            self.crf = PathField(config.crf, size=vocabularies.target_size, dim=config.size.dim)

    def graph(self, slots: Slots, x: Float[Tensor, "B A D"], memory: Memory) -> Graph:
        """x: decoder inputs, without positions."""
        states = self.net.states(self.net.place(x), slots.mask, memory)
        return Graph(self.net.head(memory), states, self.transitions(states, slots.valid), slots.valid)

    def read(self, source: Source, *, banned: tuple[int, ...] = ()) -> Graph:
        """banned: symbols that are not to be written."""
        memory = replace(self.net.encode(source), banned=banned)
        slots = self.split(memory)
        return self.graph(slots, slots.states, memory)

    # --- training -------------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        batch = batch.compact()
        memory = self.net.encode(batch.source)
        slots = self.split(memory)
        x = slots.states
        ratio = self.config.glancing(update) if self.training else 0.0
        if ratio > 0:
            x = self.glance(slots, memory, batch, ratio=ratio, seed=update)
        return self.terms(self.graph(slots, x, memory), batch.target)

    def glance(self, slots: Slots, memory: Memory, batch: Batch, *, ratio: float, seed: int) -> Float[Tensor, "B A D"]:
        """Decoder inputs with part of the best path revealed (section 3.3)."""
        with torch.no_grad():
            graph = self.graph(slots, slots.states, memory)
        emissions, predicted = graph.head.glanced(graph.states, batch.target.tokens)
        held = best_path(emissions, graph.transitions, batch.target.lengths)
        on_path = held >= 0
        reference = F.pad(batch.target.tokens, (0, 1), value=PAD).gather(1, held.clamp(min=0))
        where = shown(predicted, reference, on_path, RowRandom.of_pairs(batch, seed=seed), ratio=ratio)
        return reveal(slots.states, self.net.embed(reference), where)

    def terms(self, graph: Graph, target: Target) -> dict[str, LossTerm]:
        smoothing = self.config.label_smoothing
        emissions, mean = graph.columns(target, with_mean=smoothing > 0)
        nll, possible = marginal_loss(emissions, graph.transitions, target.lengths)
        tokens, impossible = (target.lengths * possible).sum(), (~possible).sum()
        total = smoothed(nll.sum(), mean, graph.valid & possible[:, None], weight=smoothing)
        terms = {
            "dag": LossTerm(total, tokens),
            "unalignable": LossTerm(impossible, impossible.new_full((), len(target)), weight=0.0),
            "nll": LossTerm(nll.sum().detach(), tokens, weight=0.0),
        }
        if self.crf is not None:
            held = best_path(emissions.detach(), graph.transitions.detach(), target.lengths)
            of_path = self.crf.nll(graph.head, graph.states, held, target).sum()
            terms["crf"] = LossTerm(of_path, tokens, weight=self.config.crf.weight)
        return terms

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y|x), the marginal over all paths; -inf for a pair that has none."""
        if self.crf is not None:
            raise ConfigError("DAG with crf.weight cannot score given targets: its field is over one path")
        batch = batch.compact()
        graph = self.read(batch.source)
        nll, possible = marginal_loss(graph.columns(batch.target)[0], graph.transitions, batch.target.lengths)
        return (-nll).masked_fill(~possible, -torch.inf)

    # --- decoding -------------------------------------------------------------------------------------

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, DAG.Decoding)
        if decoding.beam_size > 1:
            if self.crf is not None:
                raise ConfigError(f"beam_size={decoding.beam_size}: sums over paths, this model's crf is over one path")
            return self.beam(self.read(source.compact(), banned=decoding.banned), decoding)
        return self.paths(source, decoding).translation(history=decoding.history)

    def static_pass(self, decoding: DecodingOptions) -> StaticPass | None:
        """Of one path."""
        assert isinstance(decoding, DAG.Decoding)
        if decoding.beam_size > 1 or decoding.is_random or not self.net.static or self.crf is not None:
            return None
        return StaticPass(
            compute=lambda source: self.paths(source, decoding),
            finish=partial(Paths.translation, history=decoding.history),
        )

    def paths(self, source: Source, decoding: Decoding) -> Paths:
        """The path that the search finds, or samples, of steps and tokens at the temperature; and the log-probability
        of each at temperature 1."""
        source = source.compact()
        graph, random = self.read(source, banned=decoding.banned), decoding.random(source)
        if random is None or decoding.temperature is None:
            tokens, log_probs = (best[:, None] for best in graph.head.best(graph.states))
            successors = self.successors(graph.transitions, log_probs.squeeze(1), decoding)[:, None]
        else:
            every = graph.head.full(graph.states)
            tokens = random.samples(every / decoding.temperature)
            log_probs = every.gather(2, tokens.transpose(1, 2)).transpose(1, 2)
            successors = random.fork(1).samples(graph.transitions / decoding.temperature)
        visited = follow(successors.flatten(0, 1)).unflatten(0, successors.shape[:2])[:, :, 1:]
        if self.crf is not None:
            temperature = decoding.temperature
            written = self.crf.written(graph.head, graph.states, visited, random, temperature=temperature)
            tokens, log_probs = (x.where(visited, y) for x, y in zip(written, (tokens, log_probs), strict=True))
        return Paths.along(graph, successors, visited, tokens, log_probs)

    def successors(
        self, transitions: Float[Tensor, "B A1 A1"], log_probs: Float[Tensor, "B A"], decoding: Decoding
    ) -> Int[Tensor, "B A1"]:
        """The step that the search takes from the begin and from each vertex. log_probs: of their best tokens."""
        if decoding.chosen is Search.VITERBI:
            return joint_viterbi(transitions, log_probs, length_penalty=decoding.penalty)
        if decoding.chosen is Search.LOOKAHEAD:  # Huang et al. 2022, equation 7; the end holds no token
            beta = USUAL_BETA if decoding.lookahead_beta is None else decoding.lookahead_beta
            transitions = transitions + F.pad(beta * log_probs, (0, 1))[:, None]
        return transitions.argmax(dim=2)

    def beam(self, graph: Graph, decoding: Decoding) -> Translation:
        """Candidates of the beam search: each is the sum of many paths, of which a history shows the best."""
        log_probs = graph.head.full(graph.states)
        prior = decoding.prior(num_tokens=log_probs.size(2), device=log_probs.device)
        tokens, lengths, scores = beam_search(
            log_probs,
            graph.transitions,
            pad=PAD,
            beam_size=decoding.beam_size,
            num_candidates=decoding.num_candidates,
            length_penalty=decoding.penalty,
            token_beam=decoding.num_tried(prior),
            prior=prior,
        )
        history = []
        for n in range(tokens.size(1) if decoding.history else 0):
            emissions = log_probs.gather(2, tokens[:, n, None].expand(-1, log_probs.size(1), -1))
            held = best_path(emissions, graph.transitions, lengths[:, n])
            written = tokens[:, n].gather(1, held.clamp(min=0)).where(held >= 0, log_probs.argmax(dim=2))
            confidence = log_probs.gather(2, written[:, :, None]).squeeze(2)
            links = Links.of(graph.transitions, STRONGEST)
            history.append(History.of_one_pass(written, graph.valid, confidence, left=held >= 0, links=links))
        valid = torch.arange(tokens.size(2), device=tokens.device) < lengths[:, :, None]
        return Translation.of_one_pass(tokens, valid, scores, history)

    # --- lengths --------------------------------------------------------------------------------------

    def canvas_length(self, source_length: np.ndarray, target_length: np.ndarray) -> np.ndarray:
        return self.split.num_slots * source_length

    @property
    def length_limits(self) -> LengthLimits:
        return self.split.length_limits(self.net)

    def learnable(self, batch: Batch) -> Bool[Tensor, " B"]:
        return (batch.target.lengths <= self.split.num_slots * batch.source.lengths) & super().learnable(batch)
