"""nat-report: several runs side by side on the same text."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-report: compare runs: quality, speed, samples.

usage: nat-report run_dirs=[RUN_DIR,...] output=FOLDER [split=test] OVERRIDES

  nat-report run_dirs=[runs/teacher,runs/ctc] output=reports/first
  nat-report 'run_dirs=[runs/teacher?beam_size=4&name=beam 4,runs/ctc]' output=reports/beam
  nat-report 'run_dirs=[runs/teacher,runs/teacher?engine=ctranslate2,runs/ctc]' output=reports/engine
  nat-report 'run_dirs=[runs/ctc,runs/ctc?temperature=1&num_candidates=9&teacher=runs/teacher&name=9]' output=reports/9

The text is the first run's split; data.* options change it. A run with options, FOLDER?option=value&option=value
(in quotes, for the shell), is decoded with them; name= labels its row. The same run may come several times.
engine=ctranslate2 computes an autoregressive run with that package, engine=onnx most of the others with onnxruntime,
with precision=int8 in 8-bit integers (pip install 'nat-translation[ctranslate2,onnx]'). An export is taken like a run.
teacher=RUN_DIR and choose=first|own|teacher|mbr_chrf|mbr_bleu are those of nat-decode; the choice is timed too.
claims='["A > B"]' tests whether the system named A has a higher BLEU than B, by paired bootstrap resampling.
Writes index.html, a page that opens offline: the table, the figures (drawn where matplotlib is, pip install
'nat-translation[plot]'; plots=true asks for it, plots=false leaves them out) and how each system made the sentences of
samples.txt, pass by pass. Beside it results.json, figures.json, figures/, histories/, table.md, samples.txt and
outputs/NAME.txt; prints table and samples.
"""


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments

    def work(config: dict[str, Any]) -> int:
        from nat.config import parse
        from nat.reporting.report import ReportConfig, report

        _, table, samples = report(parse(ReportConfig, config), command=shlex.join(["nat-report", *words]))
        print(f"{table}\n{samples}", end="")
        return 0

    run_command(Command("report", HELP, work), words)


if __name__ == "__main__":
    main()
