"""Honest speed: text in, text out, with tokenizers and the choice among candidates.

Alone (batch 1): every sentence by itself on one CPU thread, after a warm-up, as a median and a 95th percentile, so
that one slow moment of the machine cannot make the number. Several systems take turns of a few sentences: what else
the machine does at that moment hits all alike, and caches hold the model that translates, as they do where it is the
only one. Together: all sentences in batches, with all threads.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch

from nat.decoding.batch_options import ALONE, BatchOptions
from nat.decoding.candidates import Candidates
from nat.decoding.requests import Sentence
from nat.evaluation.system import System
from nat.threads import num_processors

Item = TypeVar("Item")
WARM_UP = 3  # sentences that every system translates before the clock counts
TURN = 10  # sentences of a system's turn


@dataclass(frozen=True)
class Speed:
    """ms_per_sentence_p50, ms_per_sentence_p95: milliseconds of a sentence alone, on one CPU thread (or the GPU);
    median and 95th percentile over `num_alone` sentences. sentences_per_second: of `num_sentences` sentences in
    batches of `batch_size`, on `num_threads` CPU threads (or the GPU)."""

    ms_per_sentence_p50: float
    ms_per_sentence_p95: float
    sentences_per_second: float
    batch_size: int
    num_sentences: int
    num_alone: int
    num_threads: int
    device: str

    @classmethod
    def of(
        cls, milliseconds: Sequence[float], *, seconds: float, num_sentences: int, batch_size: int, device: torch.device
    ) -> Self:
        """From the times of sentences alone, and the seconds of `num_sentences` together."""
        p50, p95 = np.percentile(np.asarray(milliseconds), [50, 95]).tolist()
        return cls(
            ms_per_sentence_p50=p50,
            ms_per_sentence_p95=p95,
            sentences_per_second=num_sentences / max(seconds, 1e-9),
            batch_size=batch_size,
            num_sentences=num_sentences,
            num_alone=len(milliseconds),
            num_threads=torch.get_num_threads(),
            device=device_name(device),
        )


@dataclass(frozen=True)
class Timed:
    """Candidates of sentences in input order, and the seconds that they and the choice took."""

    candidates: list[Candidates]
    seconds: float


def translate_timed(
    system: System,
    sentences: Sequence[Sentence],
    *,
    batches: BatchOptions | None = None,
    advance: Callable[[int], None] = lambda sentences: None,
) -> Timed:
    """All sentences in batches (None: the system's own), from text to text; `advance` hears of every decoded
    batch's size."""
    synchronize(system.translator.device)
    began = time.perf_counter()
    candidates = system.translate(sentences, batches=batches, advance=advance)
    synchronize(system.translator.device)
    return Timed(candidates, time.perf_counter() - began)


def time_alone(
    systems: Sequence[System],
    sentences: Sequence[Sentence],
    *,
    advance: Callable[[int], None] = lambda sentences: None,
) -> list[list[float]]:
    """Milliseconds that each system (rows) takes for each sentence by itself, on one CPU thread.

    The systems take turns: TURN sentences by the first, by the second ..., then the next ones. A turn begins with one
    that is not counted, for the caches hold another system's weights.
    """
    milliseconds: list[list[float]] = [[] for _ in systems]
    with threads(1):
        for system in systems:
            recording = system.translator.graphs is not None  # at the first sentence of about a length
            for sentence in sentences if recording else spread(sentences, WARM_UP):
                translate_timed(system, [sentence], batches=ALONE)
        for start in range(0, len(sentences), TURN):
            turn = sentences[start : start + TURN]
            for times, system in zip(milliseconds, systems, strict=True):
                translate_timed(system, turn[:1], batches=ALONE)
                times += [1000.0 * translate_timed(system, [one], batches=ALONE).seconds for one in turn]
            advance(len(turn))
    return milliseconds


def measure_speed(system: System, sentences: Sequence[Sentence], *, num_alone: int = 100) -> Speed:
    """Both speeds of one system on non-empty sentences; alone, at most `num_alone` spread evenly over them."""
    assert sentences
    (milliseconds,) = time_alone([system], spread(sentences, num_alone))
    timed = translate_timed(system, sentences)  # the above warmed it up
    return Speed.of(
        milliseconds,
        seconds=timed.seconds,
        num_sentences=len(sentences),
        batch_size=system.batches.batch_size,
        device=system.translator.device,
    )


def spread(sentences: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the sentences, evenly spread from the first to the last, always the same ones."""
    return [sentences[i] for i in spread_indices(len(sentences), count)]


def spread_indices(total: int, count: int) -> list[int]:
    """At most `count` different indices below `total`, evenly spread, ascending."""
    return [i * total // min(total, count) for i in range(min(total, count))]


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done what it was given; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def machine_name() -> str:
    """The processor and how many cores of it there are."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux has the name of the product here
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {num_processors()} cores"


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch works on so many CPU threads inside, on as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
