"""nat-report: several runs side by side on the same text."""

from __future__ import annotations

import re
import shlex
import sys

from nat.cli.main import run_command

HELP = """nat-report: compare runs: quality, speed, samples.

usage: nat-report run_dirs=[RUN_DIR,...] output=FOLDER [split=test] OVERRIDES

  nat-report run_dirs=[runs/teacher,runs/ctc] output=reports/first
  nat-report 'run_dirs=[runs/teacher?beam_size=4&name=beam 4,runs/ctc]' output=reports/beam
  nat-report 'run_dirs=[runs/teacher,runs/teacher?engine=ctranslate2,runs/ctc]' output=reports/engine
  nat-report 'run_dirs=[runs/ctc,runs/ctc?temperature=1&num_candidates=9&teacher=runs/teacher&name=9]' output=reports/9

The text is the first run's split; data.* options change it. A run with options, FOLDER?option=value&option=value
(in quotes, for the shell), is decoded with them; name= labels its row. The same run may come several times.
engine=ctranslate2 decodes an autoregressive run with that package (pip install 'nat-translation[ctranslate2]').
teacher=RUN_DIR and choose=first|own|teacher|mbr_chrf|mbr_bleu are those of nat-decode; the choice is timed too.
claims='["A > B"]' tests whether the system named A has a higher BLEU than B, by paired bootstrap resampling.
Writes index.html, a page that opens offline: the table, the figures (drawn where matplotlib is, pip install
'nat-translation[plot]'; plots=true asks for it, plots=false leaves them out) and how each system made the sentences of
samples.txt, pass by pass. Beside it results.json, figures.json, figures/, histories/, table.md, samples.txt and
outputs/NAME.txt; prints table and samples.
  --config-dir FOLDER  more YAML files; --cfg  print the resolved configuration and stop
"""


def main(arguments: list[str] | None = None) -> None:
    typed = sys.argv[1:] if arguments is None else arguments
    words = [quote_entries(word) for word in typed]

    def work(config: dict[str, object]) -> int:
        from nat.config import parse
        from nat.evaluation.inputs import refuse_tokenizer
        from nat.reporting.report import ReportConfig, report

        refuse_tokenizer(words)
        given = {key: value for key, value in config.items() if value != "???"}
        _, table, samples = report(parse(ReportConfig, given), command=shlex.join(["nat-report", *typed]))
        print(f"{table}\n{samples}", end="")
        return 0

    run_command("report", HELP, work, words)


def quote_entries(word: str) -> str:
    """Quotes for the entries of run_dirs=[...] that have options: Hydra takes = and & only in quotes."""
    if not word.startswith("run_dirs="):
        return word
    return re.sub(r"(?<=[\[,=])([^\[\],'\"]*\?[^\[\],'\"]*)(?=[\],]|$)", r"'\1'", word)


if __name__ == "__main__":
    main()
