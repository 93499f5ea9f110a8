#!/usr/bin/env bash
# A fast student that writes German, French and Spanish from English, as its source's first word says, and its teacher: about
# three hours on one CPU core with AVX-512 bf16.
#   bash scripts/four_languages.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
set -euo pipefail
output=${1:-runs/four}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
text=(data=lohelp4_tagged)
nat-train experiment=small "${text[@]}" run_dir="$output/teacher" "$@"
nat-distill teacher="$output/teacher" output="$output/distilled" engine=ctranslate2 decoding.precision=int8
student() { # RUN START UPDATES [OVERRIDES of nat-train]
  nat-train experiment=small/ctc_fast encoder.num_layers=5 "${text[@]}" data.train="$output/distilled/train.jsonl" \
    data.tokenizer.path="$output/teacher/tokenizer" run_dir="$output/$1" init_from="$output/$2" trainer.max_updates=$3 "${@:4}"
}
student student-first teacher 8500 "$@"
student student student-first 3500 schedule.peak=1e-3 model.glancing.start=0.3 "$@"
nat-export run_dir="$output/student" output="$output/student-int8" format=onnx precision=int8 overwrite=true
t=$output/teacher s=$output/student
for target in de fr es; do
  rows="$t?name=teacher,$s?name=student,$output/student-int8?name=student ONNX int8"
  nat-report "run_dirs=[$rows]" data.target=$target output="$output/report-$target" num_threads=1
done
