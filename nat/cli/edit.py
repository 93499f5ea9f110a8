"""nat-edit: how well a run edits."""

from __future__ import annotations

import sys

from nat.cli.main import run_command

HELP = """nat-edit: post-editing of spoiled drafts, and terms that must stay: how good is a run at them?

usage: nat-edit run_dir=RUN_DIR teacher=RUN_DIR [output=FILE] OVERRIDES

  nat-edit run_dir=runs/levenshtein teacher=runs/teacher data.max_words=12

Drafts are the teacher's translations with a share of their words dropped or replaced (noise=0.2): prints their BLEU and
that of what the run makes of them. Then keeps random terms in num_cases=1000 translations and counts them, and terms of
each sentence's own reference, which should not lower BLEU. To edit your own text: nat-decode draft=... constraints=...
  --config-dir FOLDER  more YAML files; --cfg  print the resolved configuration and stop
"""


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments

    def work(config: dict[str, object]) -> int:
        from nat.config import parse
        from nat.evaluation.inputs import refuse_tokenizer
        from nat.studies.editing import EditStudyConfig, describe_study, edit_study

        refuse_tokenizer(words)
        settings = parse(EditStudyConfig, {key: value for key, value in config.items() if value != "???"})
        print(describe_study(edit_study(settings)))
        return 0

    run_command("edit", HELP, work, words)


if __name__ == "__main__":
    main()
