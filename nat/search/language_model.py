"""An n-gram language model of target tokens, looked up in tensors, and its fusion into a search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import DataError
from nat.search.arpa import HEADER, TOKENS, Arpa, Section, read_arpa

ROOT = 0  # the state without context
TABLES = ("keys", "log_probs", "next_states", "backoffs", "shorter")


@dataclass(frozen=True, eq=False)
class NgramModel:
    """The n-grams as an automaton: a state is a context, the longest known end of what has been read.

    order: of the longest n-grams. num_tokens: V, ids are below it. tokenizer: fingerprint, None where unknown.
    keys: (E,) state * V + token of every n-gram, ascending. log_probs: (E,) of its last token, natural logarithm.
    next_states: (E,) the state after it. backoffs: (S,) weight of a state's context, natural logarithm.
    shorter: (S,) the state that a state backs off to, without the first token.
    """

    order: int
    num_tokens: int
    tokenizer: str | None
    keys: Int[Tensor, " E"]
    log_probs: Float[Tensor, " E"]
    next_states: Int[Tensor, " E"]
    backoffs: Float[Tensor, " S"]
    shorter: Int[Tensor, " S"]

    def to(self, device: torch.device) -> NgramModel:
        return replace(self, **{name: getattr(self, name).to(device) for name in TABLES})

    def find(self, states: Int[Tensor, "..."], tokens: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """The entry of each n-gram, and whether there is one."""
        keys = (states * self.num_tokens + tokens).contiguous()
        entries = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return entries, self.keys[entries] == keys

    def step(self, states: Int[Tensor, "..."], tokens: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """log p(token | state), and the states after the tokens."""
        entries, known = self.find(states, tokens)
        total = torch.zeros_like(known, dtype=torch.double)
        for _ in range(self.order - 1):  # that often can a context be shortened; ROOT knows every token
            total = total + self.backoffs[states].masked_fill(known, 0.0)
            states = self.shorter[states]
            shorter_entries, shorter_known = self.find(states, tokens)
            entries, known = entries.where(known, shorter_entries), known | shorter_known
        return total + self.log_probs[entries], self.next_states[entries]

    def states(self, prefixes: Int[Tensor, "B K L"], lengths: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The state after <s> and each prefix. Its last order - 1 tokens are all that counts."""
        states = torch.full_like(lengths, ROOT)
        for back in range(self.order - 1, 0, -1):
            place = lengths - back  # -1 is where <s> stands
            tokens = prefixes.gather(2, place.clamp(min=0)[:, :, None]).squeeze(2).where(place >= 0, int(Symbol.BOS))
            states = self.step(states, tokens)[1].where(place >= -1, states)
        return states

    def score(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """log p of whole targets, their ends included."""
        bos, eos = (torch.full_like(lengths, int(symbol)) for symbol in (Symbol.BOS, Symbol.EOS))
        states = self.step(torch.full_like(lengths, ROOT), bos)[1]
        total = torch.zeros_like(lengths, dtype=torch.double)
        for place in range(tokens.size(1) + 1):
            following = eos if place == tokens.size(1) else tokens[:, place].where(place < lengths, eos)
            gain, states = self.step(states, following)
            total = total + gain.masked_fill(place > lengths, 0.0)
        return total


@dataclass(frozen=True, eq=False)
class Fusion:
    """Shallow fusion, a prior for `nat.ops.ctc`: weight * log p_lm(y) + bonus * |y| (Hannun et al. 2014,
    https://arxiv.org/abs/1408.2873, equation 3, over tokens). p_lm knows the end of y; |y| does not count it.
    """

    model: NgramModel
    weight: float
    bonus: float

    @property
    def most(self) -> float:
        return self.bonus  # a log-probability adds nothing

    def extension(
        self, prefixes: Int[Tensor, "B K L"], lengths: Int[Tensor, "B K"], tokens: Int[Tensor, "B K M"]
    ) -> Float[Tensor, "B K M"]:
        states = self.model.states(prefixes, lengths)[:, :, None].expand_as(tokens)
        return self.weight * self.model.step(states, tokens)[0] + self.bonus

    def ending(self, prefixes: Int[Tensor, "B K L"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        states = self.model.states(prefixes, lengths)
        return self.weight * self.model.step(states, torch.full_like(states, int(Symbol.EOS)))[0]


def open_language_model(path: str, *, num_tokens: int, device: torch.device) -> NgramModel:
    """The model of an ARPA file over the V = num_tokens ids; read again only where the file has changed.
    Raises DataError if it is missing or damaged, or has no probability for some token."""
    try:
        about = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return _open(path, num_tokens, device, (about.st_mtime_ns, about.st_size))


def check_language_model(path: str, *, num_tokens: int, tokenizer: str) -> None:
    """Raises DataError if the file cannot be used with the tokenizer of this fingerprint."""
    trained_with = open_language_model(path, num_tokens=num_tokens, device=torch.device("cpu")).tokenizer
    if trained_with is None:
        raise DataError(f"{path}: does not say whose token ids it has (a line `{HEADER}{tokenizer}` at its top would)")
    if trained_with != tokenizer:
        raise DataError(f"{path}: was trained with another tokenizer than the run's; make one with nat-lm run_dir=RUN")


@lru_cache(maxsize=4)
def _open(path: str, num_tokens: int, device: torch.device, version: tuple[int, int]) -> NgramModel:
    if device.type != "cpu":
        return _open(path, num_tokens, torch.device("cpu"), version).to(device)
    try:
        return build(read_arpa(Path(path)), num_tokens=num_tokens)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def build(arpa: Arpa, *, num_tokens: int) -> NgramModel:
    """The automaton. Raises ValueError if an id is not below num_tokens, lacks a probability though there is no
    <unk>, or an n-gram is there twice or without its context."""
    for section in arpa.sections:
        if (section.tokens >= num_tokens).any():
            raise ValueError(f"has token {section.tokens.max()}, but the ids are below {num_tokens}")
    model, longest = _unigrams(arpa, num_tokens), len(arpa.sections)
    for order, section in enumerate(arpa.sections[1:], 2):
        model = _extend(model, section, order < longest)
    return model


def _unigrams(arpa: Arpa, num_tokens: int) -> NgramModel:
    """States ROOT and 1 + token. Tokens without a probability get that of <unk>."""
    first = arpa.sections[0]
    tokens = first.tokens.squeeze(1)
    if len(tokens.unique()) < len(tokens):
        raise ValueError("has an n-gram of order 1 twice")
    for word, symbol in TOKENS.items():
        if word != "<unk>" and symbol not in tokens:
            raise ValueError(f"has no {word}")
    known = torch.zeros(num_tokens, dtype=torch.bool).index_fill(0, tokens, True)
    if not known[Symbol.UNK] and not known[NUM_SYMBOLS:].all():
        lacking = NUM_SYMBOLS + int((~known[NUM_SYMBOLS:]).nonzero()[0])
        raise ValueError(f"has no probability for token {lacking}, and none for <unk>")
    log_probs = torch.zeros(num_tokens, dtype=torch.double).index_copy(0, tokens, first.log_probs)
    backoffs = torch.zeros(num_tokens + 1, dtype=torch.double).index_copy(0, tokens + 1, first.backoffs)
    ids = torch.arange(num_tokens)
    return NgramModel(
        order=1,
        num_tokens=num_tokens,
        tokenizer=arpa.tokenizer,
        keys=ids,
        log_probs=log_probs.where(known, log_probs[Symbol.UNK]),
        next_states=ids + 1 if len(arpa.sections) > 1 else torch.full_like(ids, ROOT),
        backoffs=backoffs,
        shorter=torch.full((num_tokens + 1,), ROOT),
    )


def _extend(model: NgramModel, section: Section, are_contexts: bool) -> NgramModel:
    """The model with the next order's n-grams; they are states if longer ones follow."""
    contexts = _contexts(model, section.tokens)
    keys, order = (contexts * model.num_tokens + section.tokens[:, -1]).sort()
    if (keys[1:] == keys[:-1]).any():
        raise ValueError(f"has an n-gram of order {model.order + 1} twice")
    _, ends = model.step(model.shorter[contexts[order]], section.tokens[order, -1])
    num_states = len(model.shorter)
    grown = replace(
        model,
        order=model.order + 1,
        keys=torch.cat([model.keys, keys]),  # ascending, for contexts of this order are the last states
        log_probs=torch.cat([model.log_probs, section.log_probs[order]]),
        next_states=torch.cat([model.next_states, num_states + torch.arange(len(keys)) if are_contexts else ends]),
    )
    if not are_contexts:
        return grown
    backoffs = torch.cat([model.backoffs, section.backoffs[order]])
    return replace(grown, backoffs=backoffs, shorter=torch.cat([model.shorter, ends]))


def _contexts(model: NgramModel, tokens: Tensor) -> Tensor:
    """The state of each n-gram's context."""
    states = torch.full((len(tokens),), ROOT)
    for token in tokens[:, :-1].unbind(1):
        entries, known = model.find(states, token)
        if not known.all():
            ngram = " ".join(map(str, tokens[int((~known).nonzero()[0])].tolist()))
            raise ValueError(f"has the n-gram {ngram} without its context")
        states = model.next_states[entries]
    return states
