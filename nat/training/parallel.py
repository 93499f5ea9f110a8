"""How ranks share the training of one model: each computes the gradient of its share of an update, then all are summed.

While a rank computes, it waits for nobody: it may cut its share into micro-batches of its own, have no share at all,
or run out of memory and start its share again. `Parallel` is a rank alone, see `nat.training.replicas` and
`nat.training.shards` for many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor, nn

from nat.models.contract import TranslationModel
from nat.runs.weights import write_tensors
from nat.training.averaging import SwappedWeights
from nat.training.distributed import Ranks


class Parallelism(Enum):
    DDP = "ddp"
    FSDP = "fsdp"


class Parallel:
    """A rank alone.

    Each update: `begin`; then micro-batches are accumulated, `before_last_backward` before the backward pass of the
    last one; `restart` where all of that begins anew; then `reduce`. All ranks call all methods but `restart`, `reader`
    and `before_last_backward`.
    """

    def __init__(self, model: TranslationModel, ranks: Ranks | None = None) -> None:
        self.model, self.ranks = model, ranks or Ranks()
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]

    def begin(self) -> None:
        """No gradient is there."""
        self.restart()

    def restart(self) -> None:
        """Forget what was accumulated since `begin`."""
        for parameter in self.parameters:
            parameter.grad = None

    def before_last_backward(self) -> None:
        """From now on a gradient that is complete may be sent."""

    def reduce(self) -> None:
        """Each gradient of `parameters` is the sum over ranks; None where no rank has one."""

    def clip(self, largest: float) -> float:
        """Scale all gradients so that their common norm is at most `largest`; the norm as it was."""
        return float(nn.utils.clip_grad_norm_(self.parameters, largest))

    def gather(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        """What is to be written, or given to `reader`: whole tensors, for the main rank. None: the model's own weights,
        and None again where `reader` needs no copy of them."""
        return None if tensors is None else dict(tensors)

    def keep(self, parts: Mapping[str, Mapping[str, Tensor]], folder: Path) -> Callable[[Path], None]:
        """Copy tensors, by the file that they belong to. What is given back writes them, in a thread, into a folder of
        the main rank's; the others call it, too. folder: what ranks write together until then."""
        if not self.ranks.is_main:
            return lambda part: None
        copies = {file: {name: copy_of(tensor) for name, tensor in part.items()} for file, part in parts.items()}

        def write(part: Path) -> None:
            for file, tensors in copies.items():
                write_tensors(tensors, part / file)

        return write

    def spread(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole tensors this rank's part, as of the tensors of these names in `like`."""
        return dict(tensors)

    @contextlib.contextmanager
    def reader(self, weights: dict[str, Tensor] | None) -> Iterator[TranslationModel]:
        """The model with these weights (from `gather`), to be decoded with by the main rank."""
        with SwappedWeights(self.model, weights):
            yield self.model


def copy_of(tensor: Tensor) -> Tensor:
    """On the CPU, and not changed by what follows."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def drop_unused(parameters: list[nn.Parameter], used: list[bool], ranks: Ranks) -> None:
    """No gradient where no rank used the parameter, as for a rank alone: an optimiser leaves such a one as it is."""
    counts = torch.tensor(used, dtype=torch.float)
    ranks.sum_tensors([counts])
    for parameter, count in zip(parameters, counts.tolist(), strict=True):
        if not count:
            parameter.grad = None
