"""A blank that is decided apart from the words: p(blank) = sigmoid(g), p(w) = (1 - sigmoid(g)) softmax(w).

An exact distribution of a CTC slot. Where sigmoid(g) >= 1/2 no word can be more probable than the blank, so that the
best token of such a slot, about every second one, is known without the product over the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.data.vocabulary import Symbol
from nat.nn.head import Head
from nat.ops.precision import at_least_float32

BLANK = int(Symbol.BLANK)


def blank_gate(dim: int) -> nn.Linear:
    """State (D) -> g. It begins with an even chance of blank and word."""
    gate = nn.Linear(dim, 1)
    nn.init.zeros_(gate.weight)
    nn.init.zeros_(gate.bias)
    return gate


@dataclass(frozen=True, kw_only=True)
class FactoredHead(Head):
    """gate: of the blank; to the output layer, which tells of words alone, the blank is forbidden. What a banned word
    had goes to the other words, not to the blank."""

    gate: nn.Linear

    @property
    def words(self) -> Head:
        """What is said of words alone."""
        return Head(self.output, self.embedding, self.copying, self.source, self.banned)

    @property
    def forbidden(self) -> list[int]:
        return [symbol for symbol in super().forbidden if symbol != BLANK]

    def odds(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """g, the log of p(blank) / p(any word), in float32 at least."""
        return at_least_float32(self.gate(states)).squeeze(-1)

    def scores(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Logits of words, and a logit of the blank that a softmax over all turns into sigmoid(g)."""
        words = at_least_float32(self.words.scores(states))
        blank = self.odds(states) + words.logsumexp(dim=-1)
        return torch.cat((words[..., :BLANK], blank[..., None], words[..., BLANK + 1 :]), dim=-1)

    def full(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L V"]:
        return F.log_softmax(self.scores(states), dim=-1)

    def argmax(self, states: Float[Tensor, "B L D"]) -> Int[Tensor, "B L"]:
        with torch.no_grad():
            return self.best(states)[0]

    def best(
        self, states: Float[Tensor, "B L D"], where: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        odds = self.odds(states)
        undecided = odds < 0 if where is None else (odds < 0) & where
        tokens, log_probs = self.words.best(states, undecided)
        log_probs, blank = log_probs + F.logsigmoid(-odds), F.logsigmoid(odds)
        is_word = undecided & (log_probs > blank)
        return tokens.where(is_word, BLANK), log_probs.where(is_word, blank)

    def columns(
        self, states: Float[Tensor, "B L D"], tokens: Int[Tensor, "B K"], *, with_mean: bool = False
    ) -> tuple[Float[Tensor, "B L K"], Float[Tensor, "B L"]]:
        columns, mean = self.words.columns(states, tokens, with_mean=with_mean)
        odds = self.odds(states)
        blank, word = F.logsigmoid(odds), F.logsigmoid(-odds)  # (B, L)
        columns = torch.where((tokens == BLANK)[:, None], blank[:, :, None], columns + word[:, :, None])
        count = self.embedding.num_embeddings - len(self.words.forbidden)
        return columns, (count * (mean + word) + blank) / (count + 1)

    def glanced(
        self, states: Float[Tensor, "B L D"], tokens: Int[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B L K"], Int[Tensor, "B L"]]:
        with torch.no_grad():  # two products: the second one is of words where the gate leaves it open, alone
            return self.columns(states, tokens)[0], self.argmax(states)
