"""CUDA graphs: the static part of a single pass is recorded once for sources of a size, and replayed for each batch.

A sentence alone keeps a GPU busy for less time than the host needs to ask it for each of some hundred kernels; a replay
asks once for all of them. A graph serves one shape, so that batches are padded to one of a few (`Bucket`), and reads
and writes the same memory each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from nat.data.batch import Source
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError
from nat.models.contract import StaticPass, Translation, TranslationModel
from nat.models.options import DecodingOptions
from nat.rows import Rows

MOST_GRAPHS = 32  # that are kept; the one that has served least recently goes first
MOST_TOKENS = 8192  # rows x length of a bucket: from there on kernels take longer than it takes to ask for them
SHORTEST = 8  # tokens
WARM_UPS = 3  # calls before a recording, in which libraries choose and allocate what they need


Replay = Callable[[], Rows]  # runs what was recorded; its results lie where those of every replay lie


class Recorder(Protocol):
    """What makes a graph of work that reads tensors where they stay."""

    def record(self, work: Callable[[], Rows]) -> Replay: ...


class CudaRecorder:
    """`torch.cuda.CUDAGraph`. The graphs of one recorder share their memory: no two of them run at once."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Rows]) -> Replay:
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # a graph must not read rounded weights that someone else will free
        try:
            return self._record(work)
        finally:
            torch.set_autocast_cache_enabled(cached)

    def _record(self, work: Callable[[], Rows]) -> Replay:
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            results = work()

        def replay() -> Rows:
            graph.replay()
            return results

        return replay


@dataclass(frozen=True)
class Bucket:
    """The shape that batches of about this size are padded to."""

    rows: int
    length: int

    @classmethod
    def of(cls, source: Source, *, limit: int | None) -> Self:
        """limit: the longest source that the model takes."""
        rows, length = source.tokens.shape
        wide = rounded_up(max(length, SHORTEST))
        return cls(rounded_up(rows), wide if limit is None else max(length, min(wide, limit)))


def rounded_up(number: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: at most a third of it is padding."""
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if number <= power * 3 // 4 else power


class Recorded:
    """A static pass over sources of one bucket. model: its weights and tables stay in memory as long as this does, for
    a graph knows no more of them than where they lie."""

    def __init__(
        self, static: StaticPass, bucket: Bucket, model: TranslationModel, recorder: Recorder, device: torch.device
    ) -> None:
        shape = bucket.rows, bucket.length
        self.source = Source(
            torch.full(shape, int(Symbol.PAD), device=device), torch.zeros(shape, dtype=torch.bool, device=device)
        )
        self.source.valid[:, 0] = True
        self.replay = recorder.record(lambda: static.compute(self.source))
        self.kept: list[Tensor] = [*model.parameters(), *model.buffers()]

    def __call__(self, source: Source) -> Rows:
        """What is computed of these rows, of all columns of the bucket; it lasts until the next call."""
        tokens, valid = self.source.tokens, self.source.valid
        rows, length = source.tokens.shape
        tokens.fill_(int(Symbol.PAD))
        valid.zero_()
        valid[rows:, 0] = True  # rows of padding have something to look at
        tokens[:rows, :length] = source.tokens
        valid[:rows, :length] = source.valid
        return self.replay().map(lambda t: t[:rows])


class GraphedDecoder:
    """Decodes as its model does, with what is static of it replayed. The weights must stay as and where they are."""

    def __init__(self, model: TranslationModel, recorder: Recorder, *, most_graphs: int = MOST_GRAPHS) -> None:
        self.model, self.recorder, self.most_graphs = model, recorder, most_graphs
        self.turn = threading.Lock()  # threads share what a graph reads and writes
        self.static: dict[DecodingOptions, StaticPass | None] = {}
        self.recorded: OrderedDict[tuple[Bucket, DecodingOptions, torch.dtype | None], Recorded] = OrderedDict()

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        """See `TranslationModel.decode`. Batches that ask for more than a translation, or are large, are decoded
        without a graph."""
        if decoding not in self.static:
            self.static[decoding] = self.model.static_pass(decoding)
        static, bucket = self.static[decoding], Bucket.of(source, limit=self.model.max_source_length)
        plain = source.draft is None and source.phrases is None and bucket.rows * bucket.length <= MOST_TOKENS
        if static is None or not plain:
            return self.model.decode(source, decoding=decoding)
        with self.turn:
            key = bucket, decoding, multiplied_in(source.device)
            if key not in self.recorded:
                if len(self.recorded) >= self.most_graphs:
                    self.recorded.popitem(last=False)
                self.recorded[key] = Recorded(static, bucket, self.model, self.recorder, source.device)
            self.recorded.move_to_end(key)
            return static.finish(self.recorded[key](source))


def multiplied_in(device: torch.device) -> torch.dtype | None:
    """What autocast rounds the factors of products to, where it does."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def check_graphs(model: TranslationModel, decoding: DecodingOptions, device: torch.device) -> None:
    """Raises ConfigError where there is nothing to record, or nothing that records."""
    if device.type != "cuda":
        raise ConfigError("decoding.cuda_graphs=true: needs a GPU, device=cuda")
    if model.static_pass(decoding) is None:
        raise ConfigError(
            f"decoding.cuda_graphs=true: {type(model).__name__} with these options has no part that can be recorded; "
            "the best path of CTC has"
        )
