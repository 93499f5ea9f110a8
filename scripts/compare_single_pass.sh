#!/usr/bin/env bash
# What single-pass systems gain by their newer losses and structures, with two seeds each: about two hours on one CPU core
# with AVX-512 bf16. Needs the teacher of scripts/reproduce_small.sh (made here if it is missing).
#   bash scripts/compare_single_pass.sh [FOLDER] [OVERRIDES of nat-train]
# The same command again resumes where it was stopped. Budget: see scripts/budget.sh.
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
. "$(dirname "${BASH_SOURCE[0]}")/budget.sh"
teacher=$output/teacher runs=$output/single
nat-train experiment=small run_dir="$teacher"
nat-distill teacher="$teacher" output="$output/distilled-int8" engine=ctranslate2 decoding.precision=int8
text=(data.train="$output/distilled-int8/train.jsonl")
rows="" claims=""
row() { rows+="${rows:+,}$runs/$1-$seed?$2name=$3 $seed"; }       # RUN OPTIONS& LABEL
claim() { claims+="${claims:+,}'$1 $seed > $2 $seed'"; }
for seed in 1 2; do
  for recipe in ctc dag; do
    train_with_budget $recipe "$teacher" "$runs/$recipe-raw-$seed" seed=$seed "$@"
  done
  for recipe in vanilla vanilla_axe vanilla_oaxe crf ctc dag dag_crf; do
    train_with_budget $recipe "$teacher" "$runs/$recipe-distilled-$seed" seed=$seed "${text[@]}" "$@"
  done
  tune_on_bigrams ctc "$runs/ctc-distilled-$seed" "$runs/ctc_tuned-distilled-$seed" seed=$seed "${text[@]}" "$@"
  row ctc-raw "" "CTC raw"
  row dag-raw "search=greedy&" "DAG greedy raw"
  row dag-raw "" "DAG lookahead raw"
  row vanilla-distilled "" "vanilla distilled"
  row vanilla_axe-distilled "" "vanilla AXE distilled"
  row vanilla_oaxe-distilled "" "vanilla OAXE distilled"
  row crf-distilled "" "CRF distilled"
  row ctc-distilled "" "CTC distilled"
  row ctc_tuned-distilled "" "CTC n-gram tuned distilled"
  row dag-distilled "" "DAG lookahead distilled"
  row dag_crf-distilled "" "DAG CRF distilled"
  claim "DAG lookahead raw" "CTC raw"
  claim "vanilla AXE distilled" "vanilla distilled"
  claim "vanilla OAXE distilled" "vanilla distilled"
  claim "CRF distilled" "vanilla distilled"
  claim "DAG CRF distilled" "DAG lookahead distilled"
  claim "CTC n-gram tuned distilled" "CTC distilled"
done
nat-report "run_dirs=[$rows]" output="$runs/report" num_threads=1 data.max_words=12 speed_sentences=1 "claims=[$claims]"
