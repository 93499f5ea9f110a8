"""Data parallelism: the whole model on each rank."""

from __future__ import annotations

import functools

import torch.distributed as dist
from torch import Tensor, nn

from nat.models.contract import TranslationModel
from nat.training.distributed import Ranks
from nat.training.parallel import Parallel, drop_unused

BUCKET_BYTES = 25 << 20  # of a message, as of torch's DistributedDataParallel: large ones are quick, small ones early


class Bucket:
    """Parameters whose gradients lie side by side and are sent as one message. missing: how many of them are not yet
    complete. sum: the message on its way, or arrived."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.missing = parameters, len(parameters)
        self.flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
        parts = self.flat.split([parameter.numel() for parameter in parameters])
        self.views = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
        self.sum: dist.Work | None = None

    def attach(self) -> None:
        """Gradients are accumulated here."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def clear(self) -> None:
        self.flat.zero_()
        self.missing = len(self.parameters)
        self.attach()

    def detach(self) -> None:
        """Gradients are accumulated elsewhere, and lost."""
        for parameter in self.parameters:
            parameter.grad = None


class Replicas(Parallel):
    """The whole model on each rank. A bucket of gradients is sent as soon as the last backward pass
    has completed it, while that goes on to the layers below; on all ranks in the same order.

    Not torch's DistributedDataParallel, which cannot go on where a rank runs out of memory in the last backward pass:
    some buckets are on their way then. Here they stay sent, for they were complete, and the others follow when this
    rank has computed them anew.
    """

    def __init__(self, model: TranslationModel, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        self.num_sent, self.sending, self.may_send = 0, False, True
        self.used = [False] * len(self.parameters)
        self.buckets = [Bucket(parameters) for parameters in bucketed(self.parameters[::-1])]
        numbers = {parameter: number for number, parameter in enumerate(self.parameters)}
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                arrived = functools.partial(self._arrived, numbers[parameter], bucket)
                parameter.register_post_accumulate_grad_hook(arrived)

    def begin(self) -> None:
        self.num_sent, self.sending, self.may_send = 0, False, True
        self.used = [False] * len(self.parameters)
        for bucket in self.buckets:
            bucket.clear()

    def restart(self) -> None:
        self.sending = self.may_send = False
        for bucket in self.buckets[: self.num_sent]:
            bucket.detach()
        for bucket in self.buckets[self.num_sent :]:
            bucket.clear()

    def before_last_backward(self) -> None:
        self.sending = self.may_send

    def reduce(self) -> None:
        self.sending = False
        while self.num_sent < len(self.buckets):
            self._send_next()
        for bucket in self.buckets:
            assert bucket.sum is not None
            self.ranks.finish_sum(bucket.sum)
            bucket.attach()
        drop_unused(self.parameters, self.used, self.ranks)

    def _arrived(self, number: int, bucket: Bucket, parameter: Tensor) -> None:
        """A backward pass has added all that it has to this parameter's gradient."""
        self.used[number] = True
        if not self.sending:
            return
        bucket.missing -= 1
        while self.num_sent < len(self.buckets) and self.buckets[self.num_sent].missing == 0:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self.buckets[self.num_sent]
        bucket.sum = self.ranks.start_sum(bucket.flat)
        self.num_sent += 1


def bucketed(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Runs of parameters of one type, each of about BUCKET_BYTES."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        size += parameter.nbytes
        if not buckets or size > BUCKET_BYTES or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = parameter.nbytes
        buckets[-1].append(parameter)
    return buckets
