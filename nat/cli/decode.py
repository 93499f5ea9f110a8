"""nat-decode: translate a split or a file with a trained run, score it and measure its speed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-decode: translate with a trained run.

usage: nat-decode run_dir=PATH [split=test|valid|train | source=FILE [reference=FILE]] [output=FILE] OVERRIDES

  nat-decode run_dir=runs/ctc output=ctc.de                               the run's own test split
  nat-decode run_dir=runs/ctc source=mine.en reference=mine.de output=mine.ctc.de decoding.batch_size=128
  echo "Click OK." | nat-decode run_dir=runs/ctc source=- speed=false
  nat-decode run_dir=runs/ctc source=-                                    at a terminal: each line is answered at once
  nat-decode run_dir=runs/ctc source=large.en output=large.de shard_size=10000     bounded memory; again: goes on
  nat-decode run_dir=runs/ctc output=ctc.de decoding.beam_size=8 decoding.num_candidates=8 teacher=runs/teacher
  nat-decode run_dir=runs/ctc output=ctc.de decoding.temperature=0.8 decoding.num_candidates=20 choose=mbr_chrf
  nat-decode run_dir=runs/mask_predict output=mp.de history=mp.history.jsonl decoding.max_passes=10
  nat-decode run_dir=runs/levenshtein source=mine.en draft=mine.draft.de constraints=mine.terms output=mine.de

choose=first|own|teacher|mbr_chrf|mbr_bleu picks one of a sentence's candidates: the method's first, the model's own
best by mean log-probability a token, the teacher's best, or the one that agrees most with the others.
FILE gets one translation a line, in input order; FILE.json the scores, the speed and what made them. Without
output=FILE the translations go to standard output and the report to standard error. history=FILE keeps every pass of
every translation, for nat.read_history and the viewer of nat-report.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.evaluation.decode import DecodeConfig, answers, decode
    from nat.evaluation.description import describe
    from nat.evaluation.inputs import standard_input
    from nat.evaluation.large import decode_large, describe_large

    settings = parse(DecodeConfig, config)
    if settings.shard_size is not None:
        for line in describe_large(decode_large(settings)):
            print(line)
        return 0
    if settings.is_interactive:
        for line in answers(settings, standard_input()):
            write_lines([line])
        return 0
    translations, report = decode(settings)
    if settings.output is None:
        write_lines(translations)
    print(describe(report), file=sys.stdout if "report" in settings.outputs else sys.stderr)
    return 0


def write_lines(lines: Sequence[str]) -> None:
    """To standard output, UTF-8 in every locale."""
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
    sys.stdout.buffer.flush()


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("decode", HELP, work), arguments)


if __name__ == "__main__":
    main()
