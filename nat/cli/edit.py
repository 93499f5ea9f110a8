"""nat-edit: how well a run edits."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-edit: post-editing of spoiled drafts, and terms that must stay: how good is a run at them?

usage: nat-edit run_dir=RUN_DIR teacher=RUN_DIR [output=FILE] OVERRIDES

  nat-edit run_dir=runs/levenshtein teacher=runs/teacher data.max_words=12

Drafts are the teacher's translations with a share of their words dropped or replaced (noise=0.2): prints their BLEU and
that of what the run makes of them. Then keeps random terms in num_cases=1000 translations and counts them, and terms of
each sentence's own reference, which should not lower BLEU. To edit your own text: nat-decode draft=... constraints=...
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.studies.editing import EditStudyConfig, describe_study, edit_study

    settings = parse(EditStudyConfig, config)
    print(describe_study(edit_study(settings)))
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("edit", HELP, work), arguments)


if __name__ == "__main__":
    main()
