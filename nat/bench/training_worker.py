"""Updates on command: the process in which `nat-bench training` measures one checkout of nat.

`training.py` starts it with PYTHONPATH at the checkout, this one or an older one, so it imports only what both have.
It reads a line of JSON at a time: first the job, then requests `{"prepare": NAME}` and `{"measure": NAME}`, and answers
each with a line; in between it waits on the pipe and costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

HOMES = {  # modules in which a name may stand, in this nat and in earlier ones
    "Component": ("nat.config",),
    "compose": ("nat.composition", "nat.config"),
    "parse": ("nat.config",),
    "Pair": ("nat.data.pairs", "nat.data.batching"),
    "collate": ("nat.data.batching",),
    "plan_updates": ("nat.data.batching",),
    "Vocabularies": ("nat.data.vocabulary",),
    "Ranks": ("nat.training.distributed",),
    "Precision": ("nat.runs.precision", "nat.training.step"),
    "UpdateStep": ("nat.training.step",),
}
READ_AT_ONCE = 1000  # pairs that are looked at together
LEARNING_RATE = 1e-4


def named(name: str) -> Any:
    """The thing of this name in the checkout. Raises ImportError."""
    for module in HOMES[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(f"{name} is in none of {', '.join(HOMES[name])}")


class Contender:
    """A model that learns the same few updates again and again, each with loss, backward pass and optimiser step."""

    def __init__(self, overrides: Sequence[str], job: Mapping[str, Any], pairs: Sequence[Any]) -> None:
        self.device = torch.device(job["device"])
        plain = named("compose")("train", ["run_dir=unused", *overrides])
        component, size = named("Component"), job["vocabulary_size"]
        torch.manual_seed(1)
        model = named("parse")(component, plain["model"], "model").build(
            vocabularies=named("Vocabularies")(size, size, shared=True)
        )
        self.updates = chosen_updates(model, pairs, job["tokens_per_update"], job["updates"])
        self.tokens = sum(len(pair.target) for pairs in self.updates for pair in pairs)
        self.model = model.to(self.device).train()
        optimizer = named("parse")(component, plain["optimizer"], "optimizer").build(parameters=model.parameters())
        self.batches: list[Any] = []
        self.step = named("UpdateStep")(
            self.model,
            optimizer,
            ranks=named("Ranks")(),
            device=self.device,
            precision=named("Precision")(job["precision"]),
            max_tokens=job["max_tokens"],
            clip_norm=1.0,
            seed=1,
        )
        self.compiled = job["compile"]

    def prepare(self) -> dict[str, Any]:
        """A first pass, to warm up, and what it shows: floating-point operations, padding, seconds."""
        plain = self.step.loss

        def recording(batch: Any, *, update: int) -> Any:
            self.batches.append(batch)
            return plain(batch, update=update)

        self.step.loss = recording
        with FlopCounterMode(display=False) as counter:
            self.run()
        self.step.loss = torch.compile(plain, dynamic=True) if self.compiled else plain
        compile_seconds = self.timed_run() if self.compiled else None
        return {
            "tokens": self.tokens,
            "flops": counter.get_total_flops(),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "compile_seconds": compile_seconds,
            "seconds": self.timed_run(),
            **self.padding(),
        }

    def padding(self) -> dict[str, float]:
        """The shares of source and canvas positions that the batches of a pass had beyond their sentences."""
        shapes = np.zeros((2, 2))
        for batch in self.batches:
            source, target = batch.source.lengths.cpu().numpy(), batch.target.lengths.cpu().numpy()
            for row, lengths in zip(shapes, (source, self.model.canvas_length(source, target)), strict=True):
                row += lengths.sum(), len(lengths) * lengths.max()
        self.batches.clear()
        source_share, canvas_share = (1.0 - shapes[:, 0] / shapes[:, 1]).tolist()
        return {"padding_source": source_share, "padding_canvas": canvas_share}

    def measure(self) -> dict[str, Any]:
        """One pass: seconds by the wall and of this process, and the peak of the GPU's memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.run()
        seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return seconds | {"peak_bytes": peak}

    def timed_run(self) -> float:
        began = time.perf_counter()
        self.run()
        return time.perf_counter() - began

    def run(self) -> None:
        for pairs in self.updates:
            self.step(pairs, update=1, learning_rate=LEARNING_RATE)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def chosen_updates(model: Any, pairs: Sequence[Any], tokens_per_update: int, count: int) -> list[list[Any]]:
    """`count` updates of an epoch as this nat plans it for the model, evenly spread from short to long sentences."""
    kept: list[Any] = []
    for start in range(0, len(pairs), READ_AT_ONCE):
        chunk = pairs[start : start + READ_AT_ONCE]
        learnable = model.learnable(named("collate")(chunk)).tolist()
        kept += [pair for pair, fits in zip(chunk, learnable, strict=True) if fits]
    source_lengths = np.array([len(pair.source) for pair in kept])
    target_lengths = np.array([len(pair.target) for pair in kept])
    plan_updates: Callable[..., Any] = named("plan_updates")
    by_canvas = "canvas_length" in inspect.signature(plan_updates).parameters
    options = {"canvas_length": model.canvas_length} if by_canvas else {}
    plan = plan_updates(source_lengths, target_lengths, tokens_per_update, seed=(1, 0), **options)
    order = np.argsort([target_lengths[update].mean() for update in plan], kind="stable")
    middles = [(2 * i + 1) * len(plan) // (2 * count) for i in range(count)]
    return [[kept[i] for i in plan[order[middle]]] for middle in middles]


def read_pairs(path: str) -> list[Any]:
    """The pairs that `text.save` wrote: token ids of both sides and fertilities, flat, with the pairs' lengths."""
    with np.load(path) as arrays:
        sources, targets, fertilities = (
            np.split(arrays[name], np.cumsum(arrays[lengths])[:-1])
            for name, lengths in (
                ("source", "source_lengths"),
                ("target", "target_lengths"),
                ("fertilities", "source_lengths"),
            )
        )
    pair = named("Pair")
    return [pair(*(part.tolist() for part in row)) for row in zip(sources, targets, fertilities, strict=True)]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed on the way is no answer
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["num_threads"])
    pairs = read_pairs(job["pairs"])
    contenders: dict[str, Contender] = {}
    for line in sys.stdin:
        (request, name), *_ = json.loads(line).items()
        try:
            if request == "prepare":
                contenders[name] = Contender(job["contenders"][name], job, pairs)
                answer = contenders[name].prepare()
            else:
                answer = contenders[name].measure()
        except Exception as error:  # the other contenders go on
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
