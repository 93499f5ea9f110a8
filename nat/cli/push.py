"""nat-push: a model to the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-push: a run or an export becomes a repository of the Hugging Face hub, with a model card.

usage: nat-push run_dir=FOLDER repo=USER/NAME OVERRIDES

  nat-decode run_dir=runs/ctc output=ctc.de
  nat-push run_dir=runs/ctc repo=me/en-de-ctc report=ctc.de.json languages=[en,de] licence=apache-2.0
  nat-push run_dir=exports/ctc repo=me/en-de-ctc-int8 output=look            writes the folder, sends nothing
  nat-decode run_dir=hub:me/en-de-ctc source=mine.en                         whoever wants to

Checkpoints, logs and paths of this machine stay here. The token is that of `hf auth login`, or HF_TOKEN.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.evaluation.push import PushConfig, push

    print(f"done: {push(parse(PushConfig, config))}")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("push", HELP, work), arguments)


if __name__ == "__main__":
    main()
