"""nat-bench training: how fast each system learns, here and, in turns, in another checkout of nat.

An update is what nat-train does: batches, loss, backward pass, optimiser step. Each code works in a process of its own,
on the same text in its own batches, and waits while another one works.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import torch

from nat.bench import training_worker
from nat.bench.card import matrix_rate
from nat.bench.memory import MEGABYTE
from nat.bench.systems import ModelSizes, unknown_systems
from nat.bench.text import embedded, save, synthetic
from nat.config import option
from nat.errors import ConfigError
from nat.progress import Progress
from nat.runs.precision import Precision
from nat.table import markdown_table, rounded

SYSTEMS = [
    "autoregressive", "vanilla", "ctc", "ctc with glancing", "mask_predict", "refinement", "imputer", "dag",
    "insertion", "levenshtein", "kermit", "fertility",
]  # fmt: skip
HERE, BASELINE = "here", "baseline"


class Text(Enum):
    LOHELP = "lohelp"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True)
class TrainingSizes(ModelSizes):
    contenders: list[str] = option(SYSTEMS, "systems, by the names of configs/model, and `ctc with glancing`")
    baseline: str | None = option(None, "folder of another checkout of nat, measured in turns with this one")
    text: Text = option(Text.LOHELP, "lohelp, or synthetic: made pairs of the lengths of news text")
    tokens_per_update: int = option(2048, "target tokens of an update", minimum=1, maximum=1_000_000_000)
    max_tokens: int = option(8192, "rows x padded canvas of a micro-batch", minimum=1, maximum=1_000_000_000)
    updates: int = option(
        5, "updates of a pass, evenly spread from short to long sentences", minimum=1, maximum=1_000_000
    )
    precision: Precision = option(Precision.BF16, "fp32, bf16 or fp16 (autocast)")
    compile: bool = option(False, "torch.compile the loss")
    seconds: float = option(30.0, "of a system, at most: fewer rounds than repeats", above=0)
    overrides: list[str] = option([], "more options of nat-train, for every system: [model.size.dropout=0]")

    def __post_init__(self) -> None:
        errors = unknown_systems(self.contenders)
        if not self.contenders:
            errors.append("contenders=[]: at least one is needed")
        if self.baseline is not None and not (Path(self.baseline) / "nat" / "__init__.py").is_file():
            errors.append(f"baseline={self.baseline}: no checkout of nat (it has no nat/__init__.py)")
        if errors:
            raise ConfigError("\n".join(errors))


class Worker:
    """A process that trains with the nat of one checkout, one request at a time."""

    def __init__(self, checkout: Path, job: Mapping[str, Any]) -> None:
        threads, elsewhere = str(job["num_threads"]), os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(checkout.resolve()), *([elsewhere] if elsewhere else [])])
        self.process = subprocess.Popen(
            [sys.executable, "-P", training_worker.__file__],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(job)

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `ask` says so

    def ask(self, request: str, name: str) -> dict[str, Any]:
        """The worker's answer; {"error": ...} where it failed or is no more."""
        self.tell({request: name})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return {"error": f"the process that measured it ended with code {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Training:
    """Of one system in one checkout. prepared: what its first pass showed; passes: seconds of each; error: why not."""

    prepared: dict[str, Any]
    passes: list[dict[str, Any]]
    error: str | None = None

    def tokens_per_second(self, clock: str) -> float | None:
        """The median over passes, in target tokens without padding."""
        if self.error is not None or not self.passes:
            return None
        return float(self.prepared["tokens"] / statistics.median(one[f"{clock}_seconds"] for one in self.passes))


def measure_training(
    sizes: TrainingSizes,
    *,
    repeats: int,
    num_threads: int,
    device: torch.device,
    keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> list[dict[str, Any]]:
    """A row of each system. keep: hears of the rows after every round."""
    clock = "wall" if device.type == "cuda" else "cpu"
    rate = matrix_rate(device, sizes.precision)

    def rows_of(trainings: Mapping[str, Mapping[str, Training]]) -> list[dict[str, Any]]:
        return [row_of(name, codes, clock, rate) for name, codes in trainings.items()]

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nat-bench-"))
        job = make_job(sizes, Path(folder), num_threads=num_threads, device=device)
        checkouts = {HERE: Path(__file__).parents[2]}
        checkouts |= {} if sizes.baseline is None else {BASELINE: Path(sizes.baseline)}
        workers = {code: stack.enter_context(Worker(path, job)) for code, path in checkouts.items()}
        with Progress("measure", total=len(sizes.contenders) * (1 + repeats), unit="passes") as progress:
            trainings, rounds = prepare(workers, sizes, repeats)
            progress.advance(sum(1 + repeats - number for number in rounds.values()))
            for number in range(max(rounds.values())):
                for name in (name for name in sizes.contenders if number < rounds[name]):
                    measure_once(workers, name, trainings[name])
                    progress.advance(1, name)
                keep(rows_of(trainings))
    return rows_of(trainings)


def make_job(sizes: TrainingSizes, folder: Path, *, num_threads: int, device: torch.device) -> dict[str, Any]:
    """What a worker must know. Writes the text into `folder`."""
    if sizes.text is Text.LOHELP:
        pairs, size = embedded(sizes.vocabulary_size)
    else:
        size = sizes.vocabulary_size
        pairs = synthetic(size, 2 * sizes.updates * sizes.tokens_per_update)
    save(pairs, folder / "pairs.npz")
    names = ("tokens_per_update", "max_tokens", "updates", "compile")
    return {name: getattr(sizes, name) for name in names} | {
        "pairs": str(folder / "pairs.npz"),
        "vocabulary_size": size,
        "num_threads": num_threads,
        "device": str(device),
        "precision": sizes.precision.value,
        "contenders": {name: [*sizes.options_of(name), *sizes.overrides] for name in sizes.contenders},
    }


Trainings = dict[str, dict[str, Training]]  # system -> code -> what was measured


def prepare(workers: Mapping[str, Worker], sizes: TrainingSizes, repeats: int) -> tuple[Trainings, dict[str, int]]:
    """First passes, and how many rounds of each system then fit into its time."""
    trainings: Trainings = {}
    rounds: dict[str, int] = {}
    for name in sizes.contenders:
        answers = {code: worker.ask("prepare", name) for code, worker in workers.items()}
        trainings[name] = {code: Training(answer, [], answer.get("error")) for code, answer in answers.items()}
        seconds = max((answer.get("seconds", 0.0) for answer in answers.values()), default=0.0)
        rounds[name] = max(1, min(repeats, int(sizes.seconds / max(seconds, 1e-9))))
    return trainings, rounds


def measure_once(workers: Mapping[str, Worker], name: str, trainings: dict[str, Training]) -> None:
    """A pass of one system in each code that still works."""
    for code, worker in workers.items():
        training = trainings[code]
        if training.error is None:
            answer = worker.ask("measure", name)
            if "error" in answer:
                trainings[code] = Training(training.prepared, [], answer["error"])
            else:
                training.passes.append(answer)


def row_of(name: str, codes: Mapping[str, Training], clock: str, rate: float) -> dict[str, Any]:
    """Plain figures of a system. rate: the machine's floating-point operations of a large matrix product a second."""
    here, baseline = codes[HERE], codes.get(BASELINE)
    own = here.tokens_per_second(clock)
    other = None if baseline is None else baseline.tokens_per_second(clock)
    wall = here.tokens_per_second("wall")
    per_token = None if own is None else here.prepared["flops"] / here.prepared["tokens"]
    flops = None if wall is None or per_token is None else per_token * wall
    peaks = [one["peak_bytes"] for one in here.passes if one["peak_bytes"] is not None]
    return {
        "name": name,
        "ratio": None if own is None or other is None else own / other,
        "tokens_per_second": own,
        "baseline_tokens_per_second": other,
        "wall_tokens_per_second": wall,
        "rounds": len(here.passes),
        **{key: here.prepared.get(key) for key in ("padding_source", "padding_canvas", "parameters", "tokens")},
        **{
            f"baseline_{key}": None if baseline is None else baseline.prepared.get(key)
            for key in ("padding_source", "padding_canvas")
        },
        "compile_seconds": here.prepared.get("compile_seconds"),
        "flops_per_token": per_token,
        "teraflops": None if flops is None else flops / 1e12,
        "share_of_matrix_rate": None if flops is None else flops / rate,
        "peak_megabytes": max(peaks) / MEGABYTE if peaks else None,
        "error": here.error,
        "baseline_error": None if baseline is None else baseline.error,
    }


def describe_training(figures: Mapping[str, Any]) -> str:
    """The rows as a table, with what one needs to judge them."""
    sizes, rows = figures["sizes"], figures["results"]
    columns = {
        "new/old": ("ratio", 1.0, 3),
        "tokens/s": ("tokens_per_second", 1.0, 0),
        "baseline": ("baseline_tokens_per_second", 1.0, 0),
        "padding of source, %": ("padding_source", 100.0, 1),
        "of canvas, %": ("padding_canvas", 100.0, 1),
        "of matrix rate, %": ("share_of_matrix_rate", 100.0, 1),
        "peak MB": ("peak_megabytes", 1.0, 0),
    }
    shown = {label: key for label, key in columns.items() if any(row[key[0]] is not None for row in rows)}
    table = markdown_table(
        ["system", *shown],
        [[row["name"], *(rounded(row[key], digits, factor) for key, factor, digits in shown.values())] for row in rows],
    )
    errors = [
        f"{row['name']}{where}: {row[key]}"
        for row in rows
        for key, where in (("error", ""), ("baseline_error", " in the baseline"))
        if row[key]
    ]
    clock = "wall time" if figures["device"] != "cpu" else "CPU time"
    shape = ", ".join(
        f"{name}={sizes[name]}"
        for name in ("text", "vocabulary_size", "num_layers", "dim", "tokens_per_update", "max_tokens", "precision")
    )
    where = f"{figures['device']}, {figures['num_threads']} CPU threads, torch {figures['torch']}"
    return "\n".join(
        [
            table,
            "",
            f"Target tokens a second of {clock}, without padding: medians over at most {figures['repeats']} passes of "
            f"{sizes['updates']} updates, taking turns. Floating-point operations are 2mnk of every matrix product and "
            "attention, forward and backward, with padding (torch.utils.flop_counter). "
            f"{'compiled' if sizes['compile'] else 'eager'}; {shape}; {where}.",
            *errors,
            "",
        ]
    )
