"""nat-train: train a model, or continue a run."""

from __future__ import annotations

import sys
from typing import Any

from nat.cli.main import run_command

HELP = """nat-train: train a translation model.

usage: nat-train [--config-dir FOLDER] [--cfg] [--help] OVERRIDES

  nat-train experiment=tiny model=ctc run_dir=runs/tiny
  nat-train model=autoregressive data=lohelp run_dir=runs/teacher trainer.max_updates=20000
  nat-train data=files data.train=[train.en,train.de] data.valid=valid.tsv run_dir=runs/mine

The same command with the same run_dir resumes. Several ranks: torchrun --nproc-per-node=N -m nat.cli.train ...
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.training.run import RunConfig, train

    summary = train(parse(RunConfig, config))
    if summary["stopped"] is not None:
        print(f"stopped by a signal at update {summary['update']}; saved: the same command resumes", file=sys.stderr)
        return 128 + summary["stopped"]
    if summary["is_main"]:
        print(
            f"done: {summary['update']} updates, {summary['tokens']:,} target tokens, "
            f"{summary['seconds'] / 60:.1f} minutes; best {summary['metric']} {summary['best_value']:.2f}; "
            f"skipped {summary['skipped']}, memory splits {summary['memory_splits']}"
        )
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command("train", HELP, work, arguments, reads_runs=False)


if __name__ == "__main__":
    main()
