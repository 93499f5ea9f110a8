"""Options of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from nat.config import option
from nat.errors import ConfigError
from nat.runs.precision import Precision
from nat.training.distributed import TIMEOUT
from nat.training.parallel import Parallelism


@dataclass(frozen=True)
class TrainerConfig:
    max_updates: int = option(100_000, "length of the run in optimiser updates", minimum=1, maximum=1_000_000_000)
    max_minutes: float | None = option(None, "stop and save after so many minutes of training; null: no limit", above=0)
    tokens_per_update: int = option(
        65536, "reference target tokens per update, over all ranks and micro-batches", minimum=1, maximum=1_000_000_000
    )
    max_tokens: int = option(
        8192,
        "memory: rows x padded canvas of one micro-batch on one rank; accumulation does the rest",
        minimum=1,
        maximum=1_000_000_000,
    )
    precision: Precision = option(Precision.FP32, "fp32, bf16 or fp16 (autocast; weights stay fp32)")
    device: str = option("auto", "auto (a GPU if there is one), cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1, maximum=1024)
    parallel: Parallelism = option(
        Parallelism.DDP, "several ranks: ddp (the whole model on each) or fsdp (each keeps a part of it)"
    )
    rank_timeout: float = option(
        TIMEOUT, "several ranks: minutes that one waits for the others within an update", above=0, maximum=100_000
    )
    clip_norm: float | None = option(1.0, "largest gradient norm; null: no clipping", above=0)
    moving_average: float = option(0.0, "decay of the moving average of weights; 0: none", minimum=0, below=1)
    average_best: bool = option(True, "offer the average of the best checkpoints if it validates better than the best")
    compile: bool = option(False, "torch.compile the loss (needs a C++ compiler on CPU)")
    activation_checkpointing: bool = option(
        False, "memory for time: layers keep their input alone and are computed again for the gradient"
    )
    deterministic: bool = option(
        False, "on a GPU: operators whose sums have one order, slower ones; the same run then gives the same bits"
    )
    log_every: int = option(
        50, "updates between lines of metrics.jsonl and TensorBoard", minimum=1, maximum=1_000_000_000
    )
    save_every: int = option(1000, "updates between saved training states", minimum=1, maximum=1_000_000_000)
    keep_states: int = option(
        1, "the last n training states stay, so that a bad stretch can be rolled back", minimum=1, maximum=10_000
    )
    max_skipped: int = option(
        20, "updates in a row with a non-finite gradient before the run gives up", minimum=1, maximum=1_000_000_000
    )

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={self.device}: allowed are auto, cpu, cuda")
