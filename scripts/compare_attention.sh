#!/usr/bin/env bash
# Every kind of self-attention in the encoder: learnt on a long-input task, timed against the length, in one picture of
# speed, score and memory. About two hours on one CPU core: about five minutes of training for each kind, then the benchmark.
#   bash scripts/compare_attention.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2 or trainer.max_updates=2000]
# KINDS="full local linear" chooses kinds. The same command again resumes where it was stopped.
# FOLDER/KIND: the runs. FOLDER/decoded: answers and scores. FOLDER/attention.json, kinds.svg, table.md: the figures.
# BLEU on page-long inputs is a second panel where FOLDER/pages/KIND.txt.json is given (nat-decode of runs on data=pages).
set -euo pipefail
output=${1:-runs/attention}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
kinds=${KINDS:-"full local strided global longformer bigbird reformer routing sinkhorn linformer compressed linear efficient random_feature performer synthesizer_dense synthesizer_random"}

for kind in $kinds; do
  if [ ! -f "$output/decoded/$kind.txt.json" ]; then
    echo "== $kind"
    nat-train experiment=small/long_input attention="$kind" run_dir="$output/$kind" "$@"
    nat-decode run_dir="$output/$kind" output="$output/decoded/$kind.txt" speed=false
  fi
done

if [ ! -f "$output/attention.json" ]; then
  nat-bench attention "attention.kinds=[${kinds// /,}]" repeats=5 output="$output/attention.json"
fi
scores=("attention.accuracy=$output/decoded/KIND.txt.json")
if compgen -G "$output/pages/*.txt.json" >/dev/null; then
  scores+=("attention.bleu=$output/pages/KIND.txt.json")
fi
nat-bench attention attention.figures="$output/attention.json" attention.picture="$output/kinds.svg" "${scores[@]}" | tee "$output/table.md"
