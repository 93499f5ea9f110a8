"""Slow and plain versions of what the library does fast: enumeration and recomputation from scratch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import Literal, make_batch
from torch import Tensor

from nat.data.batch import Batch, Source, Target
from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.models.autoregressive import Autoregressive
from nat.nn.transformer import Memory
from nat.search.insertion import Contents

BOS, EOS, PAD = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.PAD)
NextLogProbs = Callable[[tuple[int, ...]], Tensor]  # tokens so far -> (V,) log-probabilities


@dataclass(frozen=True)
class TableState:
    """State of `TableModel`: the tokens of every hypothesis so far, [sentence][hypothesis]."""

    sentences: tuple[int, ...]
    histories: tuple[tuple[tuple[int, ...], ...], ...]

    def select(self, rows: Tensor) -> TableState:
        chosen = rows.tolist()
        return TableState(tuple(self.sentences[i] for i in chosen), tuple(self.histories[i] for i in chosen))

    def reorder(self, origin: Tensor) -> TableState:
        histories = tuple(
            tuple(history[k] for k in row) for history, row in zip(self.histories, origin.tolist(), strict=True)
        )
        return TableState(self.sentences, histories)


class TableModel:
    """A `NextToken` that knows nothing of tensors: the log-probabilities are a function of sentence and history.

    It checks what it is fed: positions in order, and every hypothesis followed by its own last token.
    """

    def __init__(self, table: Callable[[int, tuple[int, ...]], Tensor]) -> None:
        self.table = table
        self.calls = 0

    def start(self, num_sentences: int) -> TableState:
        return TableState(tuple(range(num_sentences)), tuple(((),) for _ in range(num_sentences)))

    def __call__(self, tokens: Tensor, position: int, state: TableState) -> tuple[Tensor, TableState]:
        assert tokens.shape == (len(state.sentences), len(state.histories[0]))
        self.calls += 1
        rows, histories = [], []
        for sentence, old, last in zip(state.sentences, state.histories, tokens.tolist(), strict=True):
            new = tuple((*history, token) for history, token in zip(old, last, strict=True))
            assert all(len(history) == position + 1 and history[0] == BOS for history in new)
            rows.append(torch.stack([self.table(sentence, history[1:]) for history in new]))
            histories.append(new)
        return torch.stack(rows), TableState(state.sentences, tuple(histories))


def random_table(seed: int, vocabulary: int) -> Callable[[int, tuple[int, ...]], Tensor]:
    """Normalised log-probabilities that are a fixed function of (sentence, history). PAD, BOS and other symbols
    below EOS are impossible."""

    def table(sentence: int, history: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, sentence, history)) % (2**31))
        logits = torch.randn(vocabulary, generator=generator, dtype=torch.float64) * 1.5
        logits[:EOS] = -math.inf
        return logits.log_softmax(0)

    return table


def all_sequences(next_log_probs: NextLogProbs, max_length: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every token sequence of at most max_length tokens that is possible, with its log-probability, EOS included."""
    frontier: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for length in range(max_length + 1):
        following = []
        for tokens, score in frontier:
            log_probs = next_log_probs(tokens).tolist()
            if log_probs[EOS] > -math.inf:
                yield tokens, score + log_probs[EOS]
            if length < max_length:
                following += [
                    ((*tokens, token), score + value)
                    for token, value in enumerate(log_probs)
                    if token != EOS and value > -math.inf
                ]
        frontier = following


def penalised(score: float, length: int, alpha: float) -> float:
    """Wu et al. 2016, equation 14; `length` without EOS."""
    return score / ((5 + length + 1) / 6) ** alpha


def plain_beam_search(
    next_log_probs: NextLogProbs, max_length: int, *, beam_size: int, alpha: float
) -> list[tuple[tuple[int, ...], float]]:
    """Beam search of one sentence over lists, by the rule of `nat.search.beam`: of the 2K best continuations those
    among the first K that end are finished, the best K that do not end live on, K finished ones stop the search.
    Returns the finished hypotheses and their log-probabilities, by length-penalised score."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[tuple[int, ...], float]] = []
    for position in range(max_length + 1):
        candidates = []
        for tokens, score in live:
            for token, value in enumerate(next_log_probs(tokens).tolist()):
                if value > -math.inf and (position < max_length or token == EOS):
                    candidates.append((score + value, tokens, token))
        candidates.sort(key=lambda item: -item[0])
        ended += [(tokens, score) for score, tokens, token in candidates[:beam_size] if token == EOS]
        live = [((*tokens, token), score) for score, tokens, token in candidates[: 2 * beam_size] if token != EOS]
        live = live[:beam_size]
        if len(ended) >= beam_size or not live:
            break
    return sorted(ended, key=lambda item: -penalised(item[1], len(item[0]), alpha))[:beam_size]


@torch.no_grad()
def uncached_next(model: Autoregressive, source: Sequence[int]) -> NextLogProbs:
    """The teacher's next-token log-probabilities for one source, each time by a full teacher-forced pass."""
    memory = model.net.encode(Source.from_lists([source]))

    @torch.no_grad()
    def next_log_probs(tokens: tuple[int, ...]) -> Tensor:
        log_probs, _, _ = model.log_probs(memory, Target.from_lists([list(tokens)]))
        return log_probs[0, len(tokens)]

    return next_log_probs


def uncached_greedy(model: Autoregressive, source: Sequence[int], limit: int) -> tuple[list[int], float, bool]:
    """Tokens, log-probability with EOS, and whether the limit ended it."""
    following, score = uncached_next(model, source), 0.0
    tokens: tuple[int, ...] = ()
    while True:
        log_probs = following(tokens)
        best = int(log_probs.argmax())
        if best == EOS or len(tokens) == limit:
            return list(tokens), score + log_probs[EOS].item(), best != EOS
        tokens, score = (*tokens, best), score + log_probs[best].item()


def collapse_path(path: Sequence[int], blank: int) -> list[int]:
    """Merge repeats, then drop blanks."""
    return [token for token, _ in itertools.groupby(path) if token != blank]


def ctc_log_likelihood(log_probs: Tensor, target: Sequence[int], blank: int) -> float:
    """Log of the summed probability of every canvas (A, V) that collapses to the target; only the blank and the
    target's own tokens can stand in such a canvas."""
    symbols = sorted({blank, *target})
    total = 0.0
    for path in itertools.product(symbols, repeat=len(log_probs)):
        if collapse_path(path, blank) == list(target):
            total += math.exp(sum(log_probs[slot, token].item() for slot, token in enumerate(path)))
    return math.log(total) if total else -math.inf


def pairs_of(batch: Batch) -> list[Pair]:
    """The pairs of a batch, with their fertilities where it has some."""
    sources, targets = batch.source.to_lists(), batch.target.to_lists()
    if batch.fertilities is None:
        return [Pair(source, target) for source, target in zip(sources, targets, strict=True)]
    fertilities = [row[keep].tolist() for row, keep in zip(batch.fertilities, batch.source.valid, strict=True)]
    return [Pair(*row) for row in zip(sources, targets, fertilities, strict=True)]


def rows_of(batch: Batch) -> list[Batch]:
    """Each pair as a batch of its own, without padding."""
    return [collate([pair]) for pair in pairs_of(batch)]


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Softmax attention (B, H, N, E) with all scores at once; seen: (B, H, N, K), or one head. 0 where none is."""
    scores = (queries @ keys.transpose(2, 3) / math.sqrt(queries.size(-1))).masked_fill(~seen, -1e30)
    return scores.softmax(dim=-1).masked_fill(~seen, 0.0) @ values


def random_states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def assert_same_where_valid(found: Tensor, expected: Tensor, lengths: Tensor, inputs: Sequence[Tensor]) -> None:
    """Values (B, H, N, E) at the positions before each length, and gradients of a weighted sum of them."""
    valid = (torch.arange(found.size(2)) < lengths[:, None])[:, None, :, None]
    weight = torch.sin(torch.arange(found.numel(), dtype=found.dtype)).view_as(found) * valid
    torch.testing.assert_close(found * valid, expected * valid)
    ours = torch.autograd.grad((found * weight).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs, retain_graph=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


# --- what is said of slots, as one table ---------------------------------------------------------------


def joint_log_probs(logits: Tensor, slots: Tensor) -> Tensor:
    """log p(c, l), (B, G, V): one softmax over all contents of all slots (B, G) together; -inf where there is none."""
    possible = logits.masked_fill(~slots[:, :, None], -torch.inf)
    return F.log_softmax(possible.flatten(1), dim=1).view_as(possible)


def factored_log_probs(logits: Tensor, slot_logits: Tensor, slots: Tensor) -> Tensor:
    """log p(c, l) = log p(c | l) + log p(l), each a softmax of its own."""
    where = F.log_softmax(slot_logits.masked_fill(~slots, -torch.inf), dim=1)
    return F.log_softmax(logits, dim=2) + where[:, :, None]


def contents_of(log_probs: Tensor, slots: Tensor) -> Contents:
    """Of such a table."""
    where = log_probs.logsumexp(dim=2)
    return Contents(log_probs[slots], slots, where[slots], where.masked_fill(~slots, 0.0))


def table_of(contents: Contents) -> Tensor:
    """The table again."""
    given_slot = contents.logits - contents.normaliser[:, None]
    table = torch.full((*contents.asked.shape, given_slot.size(1)), -torch.inf, dtype=given_slot.dtype)
    table[contents.asked] = given_slot
    return table + contents.where.masked_fill(~contents.asked, 0.0)[:, :, None]


# --- canvases of masks ------------------------------------------------------------------------------

CANVAS_TARGETS = [[7, 8, 9, 10], [11], [12, 12, 7, 8, 9, 13, 10], [9, 10, 11]]


def canvas_oracle(
    model: Any, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor, Tensor, Memory], Tensor], *, rank: int
) -> Source:
    """The model's decoder becomes `answer`, its memory the row's number, its length model one that finds the right
    length of CANVAS_TARGETS `rank`-th best. Returns their sources."""
    lengths = torch.tensor([len(target) for target in CANVAS_TARGETS])
    source = make_batch([(3, 1)] * len(CANVAS_TARGETS)).source

    def encode(net: Any, source: Source) -> tuple[Memory, Tensor]:
        offsets = torch.arange(-256, 257)
        distance = (offsets - (lengths - 3)[:, None]).abs() + 0.1 * (offsets > (lengths - 3)[:, None])
        scores = -distance.double()
        scores[distance == 0] = {1: 0.0, 3: -1.5}[rank]  # its neighbours have -1 and -1.1
        rows = torch.arange(len(CANVAS_TARGETS))[:, None, None].expand(-1, 3, 16).double()
        return Memory(rows, source.valid), scores.log_softmax(dim=1)

    monkeypatch.setattr(model.length, "encode", encode)
    monkeypatch.setattr(model, "states", answer)
    monkeypatch.setattr(model.net, "head", lambda memory: Literal())
    return source


def probability_of(tokens: Tensor, share: Tensor) -> Tensor:
    """(B, L, V): `share` for these tokens, the rest evenly for the others."""
    size = NUM_SYMBOLS + 13
    rest = ((1 - share) / (size - 1))[:, :, None].expand(-1, -1, size)
    return rest.scatter(2, tokens[:, :, None], share[:, :, None]).log()


def right(tokens: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """CANVAS_TARGETS of these rows on canvases as wide as `tokens` (B, L), and their lengths (B,)."""
    rows = memory.states[:, 0, 0].long().repeat_interleave(memory.copies).tolist()
    width = tokens.size(1)
    table = torch.tensor([(CANVAS_TARGETS[row] + [NUM_SYMBOLS] * width)[:width] for row in rows])
    return table, torch.tensor([len(CANVAS_TARGETS[row]) for row in rows])
