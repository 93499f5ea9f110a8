"""nat-distill: translate a corpus with a teacher, for students to learn from."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-distill: replace a corpus's targets by a teacher's translations.

usage: nat-distill teacher=RUN_DIR output=FOLDER [data=NAME] [decoding.beam_size=N] OVERRIDES

  nat-distill teacher=runs/teacher output=runs/distilled
  nat-distill teacher=runs/teacher data=files data.train=[a.en,a.de] output=runs/distilled decoding.beam_size=4

  nat-distill teacher=runs/teacher output=runs/fertile fertilities=attention
  nat-distill teacher=runs/teacher output=runs/raw targets=corpus fertilities=aligner

Without data=... it is the teacher's own training corpus. The same command with the same output resumes, also
after a kill. Several ranks: torchrun --nproc-per-node=N -m nat.cli.distill ...
To train on the result: nat-train data.train=FOLDER/train.jsonl data.tokenizer.path=RUN_DIR/tokenizer ...
With fertilities: also data.fertilities=fertilities
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.distill.job import CORPUS, DistillConfig
    from nat.distill.run import distill, outcome

    settings = parse(DistillConfig, config)
    manifest = distill(settings)
    if manifest:  # the other ranks have nothing to say
        print(f"done: {settings.output}/{CORPUS}: {outcome(manifest, settings.output)}")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("distill", HELP, work, reads_runs=False), arguments)


if __name__ == "__main__":
    main()
