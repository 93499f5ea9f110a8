"""nat-lm: an n-gram language model for the beam search of a run."""

from __future__ import annotations

import sys

from nat.cli.main import run_command

HELP = """nat-lm: train an n-gram language model of the target side, for the beam search of CTC.

usage: nat-lm run_dir=RUN_DIR output=FILE [order=3] [text=FILE] OVERRIDES

  nat-lm run_dir=runs/ctc output=runs/ctc/lm.arpa
  nat-lm run_dir=runs/ctc output=runs/ctc/lm.arpa data=lohelp order=4
  nat-decode run_dir=runs/ctc decoding.beam_size=10 decoding.language_model=runs/ctc/lm.arpa

Without data=... or text=... it learns from the run's own training targets, in the tokens of the run's tokenizer.
Needs NLTK: pip install 'nat-translation[lm]'; decoding does not.
  --config-dir FOLDER  more YAML files; --cfg  print the resolved configuration and stop
"""


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments

    def work(config: dict[str, object]) -> int:
        from nat.config import parse
        from nat.evaluation.inputs import refuse_tokenizer
        from nat.studies.ngrams import LMConfig, estimate

        refuse_tokenizer(words)
        settings = parse(LMConfig, {key: value for key, value in config.items() if value != "???"})
        found = estimate(settings)
        counts = ", ".join(f"{count} {order}-grams" for order, count in enumerate(found.num_ngrams, 1))
        told = "" if found.perplexity is None else f", perplexity {found.perplexity:.2f} on the valid split"
        print(f"done: {settings.output}: {counts} from {found.num_sentences} sentences{told}")
        return 0

    run_command("lm", HELP, work, words)


if __name__ == "__main__":
    main()
