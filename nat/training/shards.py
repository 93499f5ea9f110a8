"""Training a model that is too large for its optimiser to be whole on each rank."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nat.models.contract import TranslationModel
from nat.training.distributed import Ranks
from nat.training.parallel import Parallel, drop_unused
from nat.training.shard_files import start_writing


class Shards(Parallel):
    """Sharded data parallelism (Rajbhandari et al. 2020, "ZeRO", https://arxiv.org/abs/1910.02054, stage 2): each rank
    keeps a part of every parameter, of its optimiser state and of its moving average, by torch's `fully_shard`, in
    groups of a layer. For an update the parameters are gathered, and until it is computed they and their gradients are
    whole: 8 bytes each, and 12 or (with the average) 16 more over the number of ranks; `Replicas` has 16 or 20.

    To gather layer by layer would take less, but ranks that pass the layers together could not cut their shares
    differently, and where one ran out of memory the others would wait in vain. So it is not the layers that are
    wrapped, but holders of them, which the model does not call.
    """

    def __init__(self, model: TranslationModel, ranks: Ranks, device: torch.device) -> None:
        self.device = device
        self.whole = copy.deepcopy(model).cpu() if ranks.is_main else None  # decodes
        mesh = init_device_mesh(device.type, (ranks.num_ranks,))
        layers = [Holder(layer) for layer in layers_of(model)]
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        held = {parameter for layer in layers for parameter in layer.parameters()}
        self.root = Holder(model, *layers)
        fully_shard(self.root, mesh=mesh, ignored_params=held)
        for group in self._groups():
            group.set_gradient_divide_factor(1.0)  # sums, not means
            group.set_force_sum_reduction_for_comms(True)
        super().__init__(model, ranks)
        self.writers = dist.new_group(backend="gloo")  # of threads, beside what training says
        self.root()  # torch prepares its groups at the first call
        for group in self._groups():
            group.reshard()

    def begin(self) -> None:
        for gathered in [group.unshard(async_op=True) for group in self._groups()]:
            if gathered is not None:
                gathered.wait()
        self.restart()

    def restart(self) -> None:
        for parameter in self._gathered():
            parameter.grad = None

    def reduce(self) -> None:
        gathered = self._gathered()
        used = [parameter.grad is not None for parameter in gathered]
        for parameter in gathered:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for parameter in self.parameters:
            parameter.grad = None
        self.root().backward()  # of nothing: what was accumulated is summed, and each rank keeps its part
        drop_unused(self.parameters, used, self.ranks)

    def _groups(self) -> list[FSDPModule]:
        return [module for module in self.root.modules() if isinstance(module, FSDPModule)]

    def _gathered(self) -> list[nn.Parameter]:
        """Between `begin` and `reduce`: the whole parameters, in the order of `parameters`."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def clip(self, largest: float) -> float:
        norm = nn.utils.clip_grad_norm_(self.parameters, largest)
        return float(whole(norm))

    def gather(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        """All ranks gather; others than the main one get {}."""
        found: dict[str, Tensor] = {}
        for name, tensor in (self.model.state_dict() if tensors is None else tensors).items():
            full = whole(tensor)
            if self.ranks.is_main:
                found[name] = full.detach().cpu()
        return found

    def keep(self, parts: Mapping[str, Mapping[str, Tensor]], folder: Path) -> Callable[[Path], None]:
        if self.ranks.is_main:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
        self.ranks.barrier()
        written = start_writing(parts, folder, self.writers)

        def write(part: Path) -> None:
            written()
            if self.ranks.is_main:
                for file in folder.iterdir():
                    file.rename(part / file.name)
                folder.rmdir()

        return write

    def spread(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part_of(tensor, like[name]) for name, tensor in tensors.items()}

    @contextlib.contextmanager
    def reader(self, weights: dict[str, Tensor] | None) -> Iterator[TranslationModel]:
        assert self.whole is not None
        assert weights is not None
        self.whole.load_state_dict(weights)
        try:
            yield self.whole.to(self.device)
        finally:
            self.whole.cpu()


class Holder(nn.Module):
    """Modules whose parameters are a group of `fully_shard`."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self) -> Tensor:
        """0, which depends on a parameter: its backward pass is that of no data."""
        smallest = min((p for p in self.parameters() if p.requires_grad), key=lambda parameter: parameter.numel())
        return smallest.sum() * 0.0


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's stacks that share no parameter with other parts of it."""

    def uses(part: nn.Module) -> Counter[nn.Parameter]:
        return Counter(parameter for _, parameter in part.named_parameters(remove_duplicate=False))

    def stacked(part: nn.Module) -> Iterator[nn.Module]:
        for child in part.children():
            yield from child if isinstance(child, nn.ModuleList) else stacked(child)

    in_all = uses(model)
    return [layer for layer in stacked(model) if (own := uses(layer)) and all(own[p] == in_all[p] for p in own)]


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that ranks have parts of; they all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, model: Tensor) -> Tensor:
    """This rank's part of a whole tensor, cut as `model` is. A single number, which optimisers keep, is no part."""
    if not isinstance(model, DTensor) or tensor.dim() == 0:
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
