"""nat-bench: what parts of nat cost on this machine."""

from __future__ import annotations

import sys
from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-bench: what a part of nat costs beside the same done by torch, or beside the whole, on this machine.

usage: nat-bench BENCHMARK OVERRIDES

  nat-bench alignments
  nat-bench alignments alignments.vocabulary_size=32000 repeats=5 output=alignments.json
  nat-bench dag dag.upsampling=[4] repeats=5 output=dag.json
  nat-bench attention repeats=5 output=attention.json
  nat-bench attention attention.kinds=[local,linear] attention.lengths=[1024,4096] attention.options.local.window=32
  nat-bench attention attention.figures=attention.json attention.picture=kinds.svg attention.accuracy=decoded/KIND.json
  nat-bench training training.baseline=../nat-before repeats=5 output=training.json
  nat-bench engines output=engines.json
  nat-bench feed feed.pairs=1000000 output=feed.json
  nat-bench engines engines.student=runs/fast engines.teacher=runs/teacher
  nat-bench engines engines.dims=[128,256,512,1024] engines.picture=engines.svg
  nat-bench decoding device=cuda decoding.dim=512 decoding.num_layers=6
  nat-bench training device=cuda training.text=synthetic training.tokens_per_update=65536 training.contenders=[ctc]

alignments  the Imputer's constrained marginal and the best alignment, beside torch's CTC loss
edits       the Levenshtein Transformer's expert, beside a training step of experiment=small/levenshtein
dag         a training step of DAG beside CTC's, with peak memory, and its dynamic programs against targets and vertices
attention   every kind of self-attention against the length of its input: time, peak memory, fitted exponents; and the
            picture of speed, score and memory, from scores that nat-decode wrote
training    target tokens a second that each system learns, padding, memory; with training.baseline=FOLDER beside
            another checkout of nat, whose process takes turns with this one's
decoding    milliseconds of a sentence alone and sentences a second in batches: teacher, CTC, Mask-Predict
engines     a single-pass student in ONNX Runtime (int8, float32) and torch beside CTranslate2 with 6+6 and 12+1
            layers (int8, float32), on one core in CPU time; over several widths with a picture, or of two runs
waits       how often the host waits for the GPU in a loss, an update and in decoding, and where
feed        target tokens a second that come from the token store as batches, for one rank and for several
card        the rates that this machine reaches at best: a large matrix product, a copy

Everything takes turns in one process; medians and ratios are printed, and written to `output` as JSON.
"""


def main(arguments: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and not words[0].startswith("-") and "=" not in words[0] else ""

    def work(config: dict[str, Any]) -> int:
        from nat.bench.benchmark import BenchmarkConfig, run_benchmark
        from nat.config import parse

        _, table = run_benchmark(name, parse(BenchmarkConfig, config))
        print(table, end="")
        return 0

    run_command(Command("bench", HELP, work, reads_runs=False), words)


if __name__ == "__main__":
    main()
