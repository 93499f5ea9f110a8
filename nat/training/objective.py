"""The only place that divides: sums over an update become its objective, sums over many become curves."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from nat.models.contract import LossTerm


def objective(terms: Mapping[str, LossTerm], num_tokens: int) -> Tensor:
    """A micro-batch's share of the update's objective: the weighted totals over the reference tokens of the
    WHOLE update, all ranks and micro-batches. Gradients of the shares therefore add up to the gradient of one
    big batch, however it was cut."""
    shares = [term.total * (term.weight / max(1, num_tokens)) for term in terms.values() if term.weight]
    return torch.stack(shares).sum()


class Totals:
    """Running totals and counts of loss terms, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, LossTerm]) -> None:
        for name, term in terms.items():
            both = torch.stack((term.total.detach().double(), term.count.detach().double().to(term.total.device)))
            self._sums[name] = self._sums[name] + both if name in self._sums else both

    def update(self, other: Totals) -> None:
        for name, both in other._sums.items():
            self._sums[name] = self._sums[name] + both if name in self._sums else both

    def tensors(self) -> list[Tensor]:
        """(2,) tensors of total and count, in order of name: what ranks exchange."""
        return [self._sums[name] for name in sorted(self._sums)]

    def means(self) -> dict[str, float]:
        """total / count of every term; 0 where nothing was counted."""
        values = {name: both.tolist() for name, both in self._sums.items()}
        return {name: total / count if count else 0.0 for name, (total, count) in values.items()}

    def counts(self) -> dict[str, tuple[float, float]]:
        return {name: (both[0].item(), both[1].item()) for name, both in self._sums.items()}


class Window:
    """Losses and tokens since it was made, and the seconds for which the data were `waited` for: of a line of the
    training curves."""

    def __init__(self) -> None:
        self.totals, self.tokens, self.waited, self.began = Totals(), 0, 0.0, time.monotonic()

    def add(self, totals: Totals, tokens: int) -> None:
        self.totals.update(totals)
        self.tokens += tokens

    def leave_out(self, seconds: float) -> None:
        """The last `seconds` went into other work."""
        self.began += seconds

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.began)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def data_wait(self) -> float:
        """The share of the time in which nothing was computed, since no data was there."""
        return self.waited / self.seconds
