#!/usr/bin/env bash
# Every kind of self-attention in the encoder: learnt on a long-input task, timed against the length, in one picture of
# speed, score and memory. About an hour on one CPU core: full attention learns the task from nothing, each kind goes on
# from its weights with a fifth of its updates, and the benchmark, which needs a machine that does nothing else.
#   bash scripts/compare_attention.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
# KINDS="full local linear" chooses kinds. The same command again resumes where it was stopped.
# CTC=RUN_DIR, a run of small/ctc on sentences (scripts/compare_systems.sh makes runs/small/compare/ctc-distilled), adds
# BLEU on page-long inputs: two to eight minutes of training more for each kind, from that run's weights.
# FOLDER/KIND, FOLDER/pages/KIND: the runs. FOLDER/decoded, FOLDER/pages/KIND.txt.json: answers and scores.
# FOLDER/attention.json, kinds.svg, table.md: the figures.
set -euo pipefail
output=${1:-runs/attention}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
kinds=${KINDS:-"full local strided global longformer bigbird reformer routing sinkhorn linformer compressed linear efficient random_feature performer synthesizer_dense synthesizer_random"}

for kind in full ${kinds/full/}; do
  if [ ! -f "$output/decoded/$kind.txt.json" ]; then
    echo "== $kind"
    start=(init_from="$output/full" data.tokenizer.path="$output/full/tokenizer" trainer.max_updates=600 schedule.peak=1.5e-3 validation.every=200)
    if [ "$kind" = full ]; then start=(); fi
    nat-train experiment=small/long_input attention="$kind" run_dir="$output/$kind" "${start[@]}" "$@"
    nat-decode run_dir="$output/$kind" output="$output/decoded/$kind.txt" speed=false
  fi
done

if [ -n "${CTC:-}" ]; then
  for kind in $kinds; do
    if [ ! -f "$output/pages/$kind.txt.json" ]; then
      echo "== $kind, pages"
      case "$kind" in # kinds that are made for a longest sequence: canvases are twice as long as pages
        linformer | synthesizer_dense) longest=(attention.max_length=4096) ;;
        synthesizer_random) longest=(attention.max_length=4096 attention.rank=64) ;; # whole matrices: 400 M parameters
        *) longest=() ;;
      esac
      nat-train experiment=small/pages attention="$kind" "${longest[@]}" init_from="$CTC" data.tokenizer.path="$CTC/tokenizer" run_dir="$output/pages/$kind" "$@"
      nat-decode run_dir="$output/pages/$kind" output="$output/pages/$kind.txt" speed=false
    fi
  done
fi

mkdir -p "$output"
if [ ! -f "$output/attention.json" ]; then
  # compressed: its factor grows with the length from 768 tokens on, for 256 keys at most
  nat-bench attention "attention.kinds=[${kinds// /,}]" attention.options.compressed.max_keys=256 repeats=5 output="$output/attention.json"
fi
scores=("attention.accuracy=$output/decoded/KIND.txt.json")
if compgen -G "$output/pages/*.txt.json" >/dev/null; then
  scores+=("attention.bleu=$output/pages/KIND.txt.json")
fi
nat-bench attention attention.figures="$output/attention.json" attention.picture="$output/kinds.svg" "${scores[@]}" | tee "$output/table.md"
