#!/usr/bin/env bash
# From an empty folder to a first result: teacher, distillation, CTC student, a table of BLEU and speed.
#   bash scripts/quickstart.sh [--raw] [--output FOLDER] [OVERRIDES of nat-train, for example trainer.precision=bf16]
# --raw trains the student on the raw text too. The same command again resumes where it was stopped.
set -euo pipefail
raw="" output=runs/quickstart overrides=()
while [ $# -gt 0 ]; do
  case $1 in
    --raw) raw=yes ;;
    --output) output=${2:?--output needs a folder}; shift ;;
    --help | -h) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *=*) overrides+=("$1") ;;
    *) echo "quickstart: '$1' is neither --raw, --output FOLDER nor an override like trainer.max_updates=20000" >&2; exit 2 ;;
  esac
  shift
done
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" plot
began=$SECONDS

echo "== 1 of 4: the teacher, on $output/teacher"
nat-train experiment=quickstart model=autoregressive run_dir="$output/teacher" "${overrides[@]}"

echo "== 2 of 4: distillation, to $output/distilled"
nat-distill teacher="$output/teacher" output="$output/distilled"

student=(experiment=quickstart model=ctc model.decoder.num_layers=2 init_from="$output/teacher" data.tokenizer.path="$output/teacher/tokenizer")
echo "== 3 of 4: the CTC student, on $output/student"
nat-train "${student[@]}" data.train="$output/distilled/train.jsonl" run_dir="$output/student" "${overrides[@]}"
runs="$output/teacher?name=teacher,$output/student?name=student"
if [ -n "$raw" ]; then
  nat-train "${student[@]}" run_dir="$output/student-raw" "${overrides[@]}"
  runs="$runs,$output/student-raw?name=student-raw"
fi

echo "== 4 of 4: BLEU and speed on the test set, in one process"
nat-report "run_dirs=[$runs]" output="$output"
echo "quickstart: done in $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s of its own work; table and figures: $output/results.json"
