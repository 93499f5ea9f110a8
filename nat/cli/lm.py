"""nat-lm: an n-gram language model for the beam search of a run."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-lm: train an n-gram language model of the target side, for the beam search of CTC.

usage: nat-lm run_dir=RUN_DIR output=FILE [order=3] [text=FILE] OVERRIDES

  nat-lm run_dir=runs/ctc output=runs/ctc/lm.arpa
  nat-lm run_dir=runs/ctc output=runs/ctc/lm.arpa data=lohelp order=4
  nat-decode run_dir=runs/ctc decoding.beam_size=10 decoding.language_model=runs/ctc/lm.arpa

Without data=... or text=... it learns from the run's own training targets, in the tokens of the run's tokenizer.
Needs NLTK: pip install 'nat-translation[lm]'; decoding does not.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.studies.ngrams import LMConfig, estimate

    settings = parse(LMConfig, config)
    model = estimate(settings)
    counts = ", ".join(f"{count} {order}-grams" for order, count in enumerate(model.num_ngrams, 1))
    perplexity = "" if model.perplexity is None else f", perplexity {model.perplexity:.2f} on the valid split"
    print(f"done: {settings.output}: {counts} from {model.num_sentences} sentences{perplexity}")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("lm", HELP, work), arguments)


if __name__ == "__main__":
    main()
