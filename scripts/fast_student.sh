#!/usr/bin/env bash
# The fast student on the whole embedded corpus, beside its teacher in CTranslate2 int8: about two hours and a half on one
# CPU core with AVX-512 bf16. Teacher, distillation in int8, student, export, scores and speed.
#   bash scripts/fast_student.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
nat-train experiment=small run_dir="$output/teacher" "$@"
nat-distill teacher="$output/teacher" output="$output/distilled" engine=ctranslate2 decoding.precision=int8
nat-train experiment=small/ctc_fast run_dir="$output/fast" data.train="$output/distilled/train.jsonl" \
  data.tokenizer.path="$output/teacher/tokenizer" init_from="$output/teacher" trainer.max_updates=11000 "$@"
for precision in fp32 int8; do
  nat-export run_dir="$output/fast" output="$output/fast-$precision" format=onnx precision=$precision overwrite=true
done
t=$output/teacher
rows="$t?name=teacher greedy,$t?engine=ctranslate2&precision=int8&name=teacher greedy CTranslate2 int8"
rows+=",$t?engine=ctranslate2&precision=int8&beam_size=4&name=teacher beam 4 CTranslate2 int8"
rows+=",$output/fast?name=student,$output/fast-fp32?name=student ONNX,$output/fast-int8?name=student ONNX int8"
nat-report "run_dirs=[$rows]" output="$output/fast-report" num_threads=1
nat-bench engines engines.student="$output/fast" engines.teacher="$t" output="$output/fast-engines.json" overwrite=true
nat-bench engines engines.dims=[128,256,512,1024] repeats=7 output="$output/engines.json" overwrite=true \
  engines.picture="$output/engines.svg"
