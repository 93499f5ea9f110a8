"""A draft of the whole translation, which a left-to-right model checks: its own output, in fewer calls.

Leviathan, Kalman & Matias 2023, https://arxiv.org/abs/2211.17192; with a non-autoregressive drafter Xia et al. 2023,
https://arxiv.org/abs/2203.16487. One call of the model reads the last token and what is left of the draft, and tells of
every position what it would write there. As long as that is what the draft has, it stands; then the model's own token
is written.

Departs from the papers, which draft anew there: what is left of the draft is laid anew behind that token, as if it had
taken the place of one token of the draft, had been inserted before it, or stood further on in the draft. All are
checked in one call, as queries that see the past and their own line alone, and the one that holds longest is taken.

The tokens are those of greedy search, or, where the model samples, of sampling with the same numbers: a position's
token is drawn with that position's number, whatever was drafted for it. With a tolerance they are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.data.batch import Target, Tokens
from nat.data.vocabulary import Symbol
from nat.search.beam import BOS, EOS, Hypotheses

PAD = int(Symbol.PAD)
WINDOW = 2  # tokens of a line that is laid anew, and twice as many more as the lines of the last call held
REACH = 4  # tokens of the draft in which the model's own token is looked for


@runtime_checkable
class CheckedState(Protocol):
    """What a model keeps between calls: a past for each sentence."""

    def select(self, rows: Int[Tensor, " N"]) -> Self:
        """Keep these sentences."""
        ...

    def keep(self, taken: Bool[Tensor, "B K"]) -> Self:
        """Of the K tokens of the last call, those that are the past of what comes."""
        ...


State = TypeVar("State", bound=CheckedState)


@runtime_checkable
class Check(Protocol[State]):
    """A call of the model. tokens: (B, K), at positions (B, K). seen: (K, K) which of them each one sees, itself among
    them, beside the whole past. Returns the log-probabilities (B, K, V) of what follows each, and the state."""

    def __call__(self, tokens: Tensor, positions: Tensor, seen: Tensor, state: State) -> tuple[Tensor, State]: ...


Pick = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tolerance:
    """A drafted token also stands where it is among the `top` likeliest and at most `ratio` below the likeliest, in
    log-probability (Xia et al. 2023, section 3.2)."""

    top: int
    ratio: float

    def accepts(self, log_probs: Float[Tensor, "B N V"], drafted: Int[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
        best = log_probs.topk(self.top, dim=-1).values
        own = log_probs.gather(2, drafted[:, :, None]).squeeze(2)
        return (own >= best[:, :, -1]) & (own >= best[:, :, 0] - self.ratio)


@dataclass(frozen=True)
class Answer:
    """What a call says of A sentences. line: the one that holds longest. count: its tokens that stand. path: the
    queries along it. asked: those of the last token and of what stands. tokens, gains: what is written behind each, the
    model's own token last, with its log-probability. forced: that is an end which the limit makes."""

    line: Int[Tensor, " A"]
    count: Int[Tensor, " A"]
    path: Int[Tensor, "A L1"]
    asked: Bool[Tensor, "A L1"]
    tokens: Int[Tensor, "A L1"]
    gains: Float[Tensor, "A L1"]
    forced: Bool[Tensor, " A"]

    @property
    def last(self) -> Int[Tensor, "A 1"]:
        """The model's own token."""
        return self.tokens.gather(1, self.count[:, None])


def drafted(
    check: Check[State],
    state: State,
    max_lengths: Int[Tensor, " B"],
    draft: Tokens,
    pick: Pick,
    *,
    tolerance: Tolerance | None = None,
) -> Hypotheses:
    """One hypothesis a sentence, as `nat.search.beam.greedy` finds it. draft: right-padded. pick: of log-probabilities
    (N, V) at positions (N,) of sentences (N,) the token (N,). steps counts calls of the model."""
    num_rows, device = max_lengths.numel(), max_lengths.device
    width = draft.tokens.size(1)
    written = torch.full((num_rows, int(max_lengths.max()) + width + 1), PAD, dtype=torch.long, device=device)
    lengths, steps = (torch.zeros(num_rows, dtype=torch.long, device=device) for _ in range(2))
    scores = torch.zeros(num_rows, device=device)
    truncated = torch.zeros(num_rows, dtype=torch.bool, device=device)
    alive = torch.arange(num_rows, device=device)
    last = torch.full((num_rows, 1), BOS, dtype=torch.long, device=device)
    draft = Target(draft.tokens.masked_fill(~draft.valid, PAD), draft.valid)
    begins, window = torch.zeros_like(last), width  # of each line, in the draft
    while True:
        lines = laid(draft.tokens, begins, window)  # (A, R, L)
        tree = Tree.of(lines)
        positions = lengths[alive, None] + tree.depth
        log_probs, state = check(torch.cat((last, lines.flatten(1)), dim=1), positions, tree.seen, state)
        limits = max_lengths[alive, None]
        own, forced = chosen(log_probs, positions, alive, limits, pick)
        stands = own[:, tree.before] == lines.flatten(1)
        if tolerance is not None:
            within = (lines.flatten(1) != PAD) & (positions[:, tree.before] < limits)
            stands |= within & tolerance.accepts(log_probs[:, tree.before], lines.flatten(1))
        answer = judged(lines, stands.view_as(lines), tree, own, forced, log_probs)
        places = lengths[alive, None] + torch.arange(window + 1, device=device)
        written[alive[:, None], places] = answer.tokens.masked_fill(answer.tokens == EOS, PAD)
        last = answer.last
        ended = last.squeeze(1) == EOS
        scores = scores.to(log_probs.dtype).index_add(0, alive, answer.gains.sum(dim=1))
        truncated[alive] = answer.forced
        lengths[alive] += answer.count + (~ended).long()
        steps[alive] += 1
        state = state.keep(tree.taken(answer.path, answer.asked))
        begins = realigned(draft.tokens, begins.gather(1, answer.line[:, None]) + answer.count[:, None], last)
        left = (draft.lengths - begins.amin(dim=1)).amax().clamp(min=0)
        num_ended, num_held, most = torch.stack((ended.sum(), answer.count.sum(), left)).tolist()
        window = min(WINDOW + min(4, num_held // len(alive)), most)
        if num_ended:
            if num_ended == len(alive):
                break
            going = ended.to(torch.uint8).argsort(stable=True)[: len(alive) - num_ended]
            alive, last, begins = alive[going], last[going], begins[going]
            draft, state = draft.select(going), state.select(going)
    shown = max(1, int(lengths.max()))
    return Hypotheses(written[:, None, :shown], lengths[:, None], scores[:, None], truncated, steps)


def chosen(
    log_probs: Float[Tensor, "A K V"], positions: Int[Tensor, "A K"], alive: Tensor, limits: Tensor, pick: Pick
) -> tuple[Int[Tensor, "A K"], Bool[Tensor, "A K"]]:
    """The model's own token behind each query, and where that is an end that only the limit makes."""
    rows = alive[:, None].expand_as(positions)
    own = pick(log_probs.flatten(0, 1), positions.flatten(), rows.flatten()).view_as(positions)
    forced = (positions >= limits) & (own != EOS)
    return own.masked_fill(forced, EOS), forced


def judged(
    lines: Int[Tensor, "A R L"],
    stands: Bool[Tensor, "A R L"],
    tree: Tree,
    own: Tensor,
    forced: Tensor,
    log_probs: Tensor,
) -> Answer:
    """stands: where a line has what may stand there, if all before it does."""
    count, line = stands.cumprod(dim=2).sum(dim=2).max(dim=1)
    path = tree.path(line)  # (A, L + 1)
    along = torch.arange(path.size(1), device=path.device)
    is_own, asked = along == count[:, None], along <= count[:, None]
    held = lines.gather(1, line[:, None, None].expand(-1, 1, lines.size(2))).squeeze(1)
    tokens = torch.where(is_own, own.gather(1, path), F.pad(held, (0, 1), value=PAD)).masked_fill(~asked, PAD)
    rows = torch.arange(len(path), device=path.device)
    gains = log_probs[rows[:, None], path, tokens].masked_fill(~asked, 0.0)
    return Answer(line, count, path, asked, tokens, gains, forced[rows, path[rows, count]])


@dataclass(frozen=True)
class Tree:
    """The K = 1 + R L queries of a call: the last token, and R lines of L tokens that each follow it.

    depth: (K,) positions behind the last token. seen: (K, K). before: (R L,) the query that tells of each line's token.
    """

    depth: Int[Tensor, " K"]
    seen: Bool[Tensor, "K K"]
    before: Int[Tensor, " N"]
    length: int

    @classmethod
    def of(cls, lines: Int[Tensor, "A R L"]) -> Tree:
        _, number, length = lines.shape
        place = torch.arange(length, device=lines.device).repeat(number)  # (R L)
        line = torch.arange(number, device=lines.device).repeat_interleave(length)
        query = torch.arange(1, number * length + 1, device=lines.device)
        inner = (line[:, None] == line) & (place[:, None] >= place)
        seen = F.pad(F.pad(inner, (1, 0), value=True), (0, 0, 1, 0), value=False)
        seen[0, 0] = True
        return cls(F.pad(place + 1, (1, 0)), seen, (query - 1).masked_fill(place == 0, 0), length)

    def path(self, line: Int[Tensor, " A"]) -> Int[Tensor, "A L1"]:
        """The queries along a line, from the last token on."""
        along = torch.arange(1, self.length + 1, device=line.device) + line[:, None] * self.length
        return F.pad(along, (1, 0), value=0)

    def taken(self, path: Int[Tensor, "A L1"], asked: Bool[Tensor, "A L1"]) -> Bool[Tensor, "A K"]:
        """Which queries stand before what comes next: those that were asked."""
        none = torch.zeros((len(path), len(self.depth)), dtype=torch.long, device=path.device)
        return none.scatter_add(1, path, asked.long()) > 0


def laid(draft: Int[Tensor, "A T"], begins: Int[Tensor, "A R"], length: int) -> Int[Tensor, "A R L"]:
    """Lines of the draft, from each of these places on; PAD behind its end."""
    places = begins[:, :, None] + torch.arange(length, device=draft.device)
    held = draft[:, None].expand(-1, begins.size(1), -1).gather(2, places.clamp(max=max(0, draft.size(1) - 1)))
    return held.masked_fill(places >= draft.size(1), PAD)


def realigned(draft: Int[Tensor, "A T"], place: Int[Tensor, "A 1"], own: Int[Tensor, "A 1"]) -> Int[Tensor, "A R"]:
    """Where the draft may go on, where the model wrote its own token instead of that at `place`: behind that one, at
    it, or behind the first one of the next REACH that is the model's."""
    reach = place + torch.arange(1, REACH + 1, device=draft.device)  # (A, REACH)
    ahead = laid(draft, place + 1, REACH).squeeze(1)
    same = ahead == own
    first = reach.gather(1, same.long().argmax(dim=1, keepdim=True)) + 1
    found = same.any(dim=1, keepdim=True)
    return torch.cat((place + 1, place, torch.where(found, first, draft.size(1))), dim=1)
