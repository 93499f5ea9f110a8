"""nat-train: train a model, or continue a run."""

from __future__ import annotations

import sys
from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-train: train a translation model.

usage: nat-train [--config-dir FOLDER] [--cfg] [--help] OVERRIDES

  nat-train experiment=tiny model=ctc run_dir=runs/tiny
  nat-train model=autoregressive data=lohelp run_dir=runs/teacher trainer.max_updates=20000
  nat-train data=files data.train=[train.en,train.de] data.valid=valid.tsv run_dir=runs/mine

  nat-train --multirun model=ctc,vanilla seed=1,2 run_dir=runs/sweep    runs/sweep/model=ctc,seed=1 and so on

The same command with the same run_dir resumes. Several ranks: torchrun --nproc-per-node=N -m nat.cli.train ...
  --multirun           train every combination of values, each in a folder that is named by them; hydra/launcher=NAME
                       and hydra/sweeper=NAME choose how
"""


def work(config: dict[str, Any]) -> int:
    summary = run(config)
    return 0 if summary["stopped"] is None else 128 + summary["stopped"]


def job(config: dict[str, Any]) -> float:
    """One run of a sweep: its best validation score."""
    summary = run(config)
    if summary["stopped"] is not None:  # the others are not to be started
        sys.exit(128 + summary["stopped"])
    return float(summary["best_value"])


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and say how it ended."""
    from nat.config import parse
    from nat.training.run import RunConfig, train

    summary = train(parse(RunConfig, config))
    if summary["stopped"] is not None:
        print(f"stopped by a signal at update {summary['update']}; saved: the same command resumes", file=sys.stderr)
    elif summary["is_main"]:
        print(
            f"done: {summary['update']} updates, {summary['tokens']:,} target tokens, "
            f"{summary['seconds'] / 60:.1f} minutes; best {summary['metric']} {summary['best_value']:.2f}; "
            f"skipped {summary['skipped']}, memory splits {summary['memory_splits']}",
            flush=True,
        )
    return summary


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("train", HELP, work, job, reads_runs=False), arguments)


if __name__ == "__main__":
    main()
