"""Statistics that a module learns beside the gradient, such as the centroids of clusters.

A gradient is summed over micro-batches and ranks and applied once an update. What a module makes of the values that
pass through it must be treated alike, or it would depend on how an update is cut: so a module adds up sums while it
is trained, and `nat.training.step` settles them, when and only when it applies the update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_unobserved = 0  # contexts that are open


@contextmanager
def unobserved() -> Iterator[None]:
    """Inside, values pass that have been seen already: layers that are computed again for their gradient."""
    global _unobserved
    _unobserved += 1
    try:
        yield
    finally:
        _unobserved -= 1


class Running(nn.Module, ABC):
    """A module with sums over the values of an update, and buffers that are made of them.

    In `forward`, a subclass calls `observe` where `observing`; `absorb` turns the sums into its buffers. An update
    begins with sums of zero, so that they are no part of a checkpoint; the buffers are.
    """

    def __init__(self, **sums: tuple[int, ...]) -> None:
        """sums: name and shape of each."""
        super().__init__()
        self.names = list(sums)
        for name, shape in sums.items():
            self.register_buffer(f"sum_of_{name}", torch.zeros(shape), persistent=False)

    @property
    def observing(self) -> bool:
        """Whether what passes is learnt from: neither evaluation nor a pass without gradient leaves a trace."""
        return self.training and torch.is_grad_enabled()

    def observe(self, **values: Tensor) -> None:
        """Add to the sums of these names; each value is a sum over what passes, for the first time."""
        assert self.observing
        if _unobserved:
            return
        for name, value in values.items():
            self.sum_of(name).add_(value.detach())

    def sum_of(self, name: str) -> Tensor:
        return self.get_buffer(f"sum_of_{name}")

    @property
    def sums(self) -> list[Tensor]:
        """To be summed over ranks, in place."""
        return [self.sum_of(name) for name in self.names]

    def restart(self) -> None:
        """Forget the sums."""
        for total in self.sums:
            total.zero_()

    @torch.no_grad()
    def settle(self) -> None:
        """Learn from the sums of one update, and forget them."""
        self.absorb()
        self.restart()

    @abstractmethod
    def absorb(self) -> None:
        """Change the buffers by what `sum_of` gives for the whole update; it may be nothing at all."""
