"""nat-doctor: what is likely wrong with a run."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-doctor: say what is likely wrong with a run, the worst first.

usage: nat-doctor run_dir=RUN_DIR [decode=OUTPUT.json] [output=FILE.json] OVERRIDES

  nat-doctor run_dir=runs/ctc                                     translates 200 validation sentences
  nat-doctor run_dir=runs/ctc split=test sentences=500 output=doctor.json
  nat-doctor run_dir=runs/mask_predict decoding.max_passes=10 data.max_words=12
  nat-doctor run_dir=runs/ctc decode=ctc.de.json                  a report that nat-decode wrote

Looks at the options, the curves, the training text (distilled or not, lengths, vocabulary, filters, overlap with the
held-out text) and at translations. Each finding has its figure, the limit that it is judged by and where that comes
from, and an option to try. What could not be looked at is said. Exit code 0, whatever is found.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.doctor.command import DoctorConfig, describe, doctor

    print(describe(doctor(parse(DoctorConfig, config))[1]))
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("doctor", HELP, work), arguments)


if __name__ == "__main__":
    main()
