"""nat-bench waits: how often the host waits for the GPU in a loss, in a whole update and in decoding, and where."""

from __future__ import annotations

import collections
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import nat
from nat.bench.systems import ModelSizes, text_systems, unknown_systems
from nat.bench.text import synthetic
from nat.config import option
from nat.data.batching import collate
from nat.decoding.batched import decode_batch
from nat.errors import ConfigError
from nat.runs.precision import Precision
from nat.table import markdown_table
from nat.training.parallel import Parallel
from nat.training.step import UpdateStep

WORDS = "synchronizing CUDA operation"  # of torch's warning
TOKENS = 400  # target tokens of the batch


@dataclass(frozen=True, kw_only=True)
class WaitsSizes(ModelSizes):
    contenders: list[str] = option([], "systems, by the names of configs/model; []: all that translate text")
    num_layers: int = option(2, "layers of the encoder, and as many of the decoder", minimum=1, maximum=1024)
    dim: int = option(64, "width D of the states", minimum=1, maximum=65536)
    ffn_dim: int = option(128, "width of the feed-forward layers", minimum=1, maximum=2**20)

    def __post_init__(self) -> None:
        if errors := unknown_systems(self.contenders):
            raise ConfigError("\n".join(errors))


@contextmanager
def counted(places: collections.Counter[str]) -> Iterator[None]:
    """Inside, every wait for the GPU is counted at the line of nat that asks for it."""

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if WORDS in str(message):
            places[asking_line()] += 1

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def asking_line() -> str:
    """The innermost line of nat's that is being worked on, but for this file's."""
    package = Path(nat.__file__).parent
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(package) and path != Path(__file__):
            return f"{path.relative_to(package)}:{frame.lineno}"
    return "elsewhere"


def measure_waits(
    sizes: WaitsSizes,
    device: torch.device,
    keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> list[dict[str, Any]]:
    """A row of each system. keep: hears of the rows so far. Raises ConfigError on a CPU, which has nothing to wait
    for."""
    if device.type != "cuda":
        raise ConfigError("device=cpu: waits for a GPU are counted; device=cuda is needed")
    rows: list[dict[str, Any]] = []
    for name in sizes.contenders or text_systems():
        rows.append(row_of(name, sizes, device))
        keep(rows)
    return rows


def row_of(name: str, sizes: WaitsSizes, device: torch.device) -> dict[str, Any]:
    """Counts of each piece of work, after one that is not counted, and the lines that wait."""
    model = sizes.build(name).to(device)
    pairs = synthetic(sizes.vocabulary_size, TOKENS)
    batch = collate(pairs).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    step = UpdateStep(
        Parallel(model),
        optimizer,
        device=device,
        precision=Precision.BF16,
        max_tokens=100 * TOKENS,
        clip_norm=1.0,
        seed=1,
    )

    def decode() -> None:
        with torch.inference_mode():
            options = type(model.eval()).Decoding()
            found = decode_batch(model, batch.source, options)
            row["passes"] = max(one.passes for one in found)

    work: dict[str, Callable[[], object]] = {
        "loss": lambda: model.train().loss(batch, update=1),
        "update": lambda: step(pairs, update=1, learning_rate=0.0),
        "decode": decode,
    }
    row: dict[str, Any] = {"name": name, "passes": None}
    for label, run in work.items():
        places: collections.Counter[str] = collections.Counter()
        try:
            run()
            with counted(places):
                run()
        except Exception as error:  # the others are still of interest
            row |= {label: None, f"{label}_error": f"{type(error).__name__}: {error}"[:500]}
        else:
            row |= {label: sum(places.values()), f"{label}_places": dict(places.most_common())}
    return row


def describe_waits(figures: Mapping[str, Any]) -> str:
    """The counts as a table, and where a loss waits."""
    labels = ("loss", "update", "decode", "passes")
    rows = [
        [row["name"], *("-" if row[label] is None else str(row[label]) for label in labels)]
        for row in figures["results"]
    ]
    lines = [markdown_table(["waits of the host in", *labels], rows), ""]
    for row in figures["results"]:
        if row.get("loss_places"):
            told = ", ".join(f"{where} x{count}" for where, count in list(row["loss_places"].items())[:6])
            lines.append(f"loss of {row['name']}: {told}")
        lines += [f"{row['name']}, {label}: {row[f'{label}_error']}" for label in labels if row.get(f"{label}_error")]
    lines.append("the one wait of decoding for all results of a batch is not counted")
    return "\n".join([*lines, f"{figures['device']}, torch {figures['torch']}", ""])
