"""Peak memory of a piece of work, counted at torch's allocators."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

MEGABYTE = 1e6


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors took at one time while `work` ran, above those that stood before it.

    CPU: from the profiler's record of every allocation and release, so that tensors saved for the backward pass and the
    inner buffers of torch's kernels count, and what the process held or had kept before does not, as it would in its
    resident size (nor is its release seen). Scratch memory of the BLAS library is not torch's, and is not seen. CUDA:
    `max_memory_allocated`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's library would announce itself on standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = record.profiler.kineto_results.events()  # in the order of time
    changes = (event.nbytes() for event in events if event.name() == "[memory]")  # below 0: a release
    return max(itertools.accumulate(changes, initial=0))
