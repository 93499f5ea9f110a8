"""nat-doctor: what is likely wrong with a run."""

from __future__ import annotations

import sys

from nat.cli.main import run_command

HELP = """nat-doctor: say what is likely wrong with a run, the worst first.

usage: nat-doctor run_dir=RUN_DIR [decode=OUTPUT.json] [output=FILE.json] OVERRIDES

  nat-doctor run_dir=runs/ctc                                     translates 200 validation sentences
  nat-doctor run_dir=runs/ctc split=test sentences=500 output=doctor.json
  nat-doctor run_dir=runs/mask_predict decoding.max_passes=10 data.max_words=12
  nat-doctor run_dir=runs/ctc decode=ctc.de.json                  a report that nat-decode wrote

Looks at the options, the curves, the training text (distilled or not, lengths, vocabulary, filters, overlap with the
held-out text) and at translations. Each finding has its figure, the limit that it is judged by and where that comes
from, and an option to try. What could not be looked at is said. Exit code 0, whatever is found.
  --config-dir FOLDER  more YAML files; --cfg  print the resolved configuration and stop
"""


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments

    def work(config: dict[str, object]) -> int:
        from nat.config import parse
        from nat.doctor.command import DoctorConfig, describe, doctor
        from nat.evaluation.inputs import refuse_tokenizer

        refuse_tokenizer(words)
        given = {key: value for key, value in config.items() if value != "???"}
        print(describe(doctor(parse(DoctorConfig, given))[1]))
        return 0

    run_command("doctor", HELP, work, words)


if __name__ == "__main__":
    main()
