"""nat-modes: does a system choose one language for a sentence, or mix several?"""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-modes: the study of multi-modality: systems that may translate to any of several languages.

usage: nat-modes run_dirs=[RUN_DIR,...] output=FOLDER [split=test] OVERRIDES

  nat-modes run_dirs=[runs/teacher,runs/vanilla-raw,runs/vanilla-distilled] output=runs/modes
  nat-modes 'run_dirs=[runs/teacher?beam_size=4&name=teacher,runs/mask_predict?max_passes=4]' output=runs/modes

The runs were trained with several target columns, data=lohelp4_multitarget or data.target=de+fr+es, the first of
them on the original text: there, the words of each language are counted. The others may have been trained on what
nat-distill made of it. Says of each system how much it mixes languages inside sentences, with the standard error and
what the references themselves score, its BLEU against the reference in the language that it chose and against all
references, its languages, its repetition; how well languages are told; complexity and faithfulness of the training
texts (Zhou et al. 2020). claims='["A > B"]' tests whether A mixes more than B, by paired bootstrap resampling.
Writes study.json, study.md, simplex.png, simplex.svg, outputs/ and languages/; prints the tables. Entries of run_dirs
are those of nat-report. scripts/study_multimodality.sh trains all that the study of the literature needs.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.studies.modes.study import ModesConfig, study

    _, tables = study(parse(ModesConfig, config))
    print(tables, end="")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("modes", HELP, work), arguments)


if __name__ == "__main__":
    main()
