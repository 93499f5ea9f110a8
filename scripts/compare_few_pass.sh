#!/usr/bin/env bash
# Systems of a few passes, with two seeds each, and how they mend spoiled drafts: about an hour on one CPU core with
# AVX-512 bf16. Needs the teacher of scripts/reproduce_small.sh (made here if it is missing).
#   bash scripts/compare_few_pass.sh [FOLDER] [OVERRIDES of nat-train]
# The same command again resumes where it was stopped. Budget: see scripts/budget.sh.
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
. "$(dirname "${BASH_SOURCE[0]}")/budget.sh"
teacher=$output/teacher runs=$output/few
nat-train experiment=small run_dir="$teacher"
nat-distill teacher="$teacher" output="$output/distilled-int8" engine=ctranslate2 decoding.precision=int8
text=(data.train="$output/distilled-int8/train.jsonl")
rows="" claims=""
row() { rows+="${rows:+,}$runs/$1-$seed?$2name=$3 distilled $seed"; }       # RUN OPTIONS& LABEL
claim() { claims+="${claims:+,}'$1 distilled $seed > $2 distilled $seed'"; }
edit() { # RECIPE [DECODING OPTIONS]
  nat-edit run_dir="$runs/$1-$seed" teacher="$teacher" data.max_words=12 decoding.max_passes=10 \
    output="$runs/edit/$1-$seed.json" "${@:2}"
}
for seed in 1 2; do
  for recipe in mask_predict diffusion levenshtein edit_flow; do
    train_with_budget $recipe "$teacher" "$runs/$recipe-$seed" seed=$seed "${text[@]}" "$@"
  done
  for passes in 4 10; do
    row mask_predict "max_passes=$passes&" "Mask-Predict $passes"
    row diffusion "max_passes=$passes&" "diffusion $passes"
  done
  row levenshtein "max_passes=10&" "Levenshtein 10"
  row edit_flow "max_passes=10&" "Edit Flows 10"
  claim "diffusion 10" "Mask-Predict 10"
  claim "Edit Flows 10" "Levenshtein 10"
  edit levenshtein
  edit edit_flow decoding.threshold=0.5 # a draft is changed where that is surer than in what was just written
done
nat-report "run_dirs=[$rows]" output="$runs/report" num_threads=1 data.max_words=12 speed_sentences=1 "claims=[$claims]"
