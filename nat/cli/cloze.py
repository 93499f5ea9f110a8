"""nat-cloze: both directions and filled gaps of one KERMIT checkpoint."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-cloze: what one KERMIT checkpoint can do: translate both ways, and fill words into gaps.

usage: nat-cloze run_dir=RUN_DIR [split=test] [output=FILE.json] OVERRIDES

  nat-cloze run_dir=runs/kermit
  nat-cloze run_dir=runs/kermit split=valid max_sentences=200 output=cloze.json decoding.end_penalty=1

Prints BLEU and chrF of both directions, and how often the model gives back a word that was taken out of one side of a
held-out pair (zero-shot: all the rest of both sides is given), beside always saying the most frequent word of that
side of the training text. FILE.json holds every gap and answer.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.studies.cloze import ClozeConfig, cloze, describe

    settings = parse(ClozeConfig, config)
    print(describe(cloze(settings), examples=settings.examples))
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("cloze", HELP, work), arguments)


if __name__ == "__main__":
    main()
