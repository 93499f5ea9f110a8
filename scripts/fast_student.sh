#!/usr/bin/env bash
# The fast student on the whole embedded corpus, beside its teacher in CTranslate2 int8: about four hours on one CPU core
# with AVX-512 bf16. Teacher, distillation in int8, student, export, scores and speed; and what each step to it gives.
#   bash scripts/fast_student.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
t=$output/teacher
nat-train experiment=small run_dir="$t" "$@"
int8="engine=ctranslate2 decoding.precision=int8"
nat-distill teacher="$t" output="$output/distilled-int8" $int8
nat-distill teacher="$t" output="$output/distilled-best" $int8 decoding.beam_size=4 decoding.num_candidates=4
train() { nat-train run_dir="$output/$1" data.train="$output/$2/train.jsonl" data.tokenizer.path="$t/tokenizer" "${@:3}"; }
train fast-first distilled-int8 experiment=small/ctc_fast init_from="$t" trainer.max_updates=11000 "$@"
more=(init_from="$output/fast-first" trainer.max_updates=4000 schedule.peak=1e-3 model.glancing.start=0.3
  model.size.dropout=0.2 validation.every=1000)
train steps/more distilled-best experiment=small/ctc_fast "${more[@]}" "$@"
train fast distilled-best experiment=small/ctc_fast encoder.num_layers=5 "${more[@]}" "$@"
short=(init_from="$t" trainer.max_updates=1200)
train steps/ctc distilled-int8 experiment=small/ctc "${short[@]}" "$@"
train steps/late distilled-int8 experiment=small/ctc_fast "${short[@]}" model.glancing.start=0 model.glancing.end=0 "$@"
train steps/glancing distilled-int8 experiment=small/ctc_fast "${short[@]}" "$@"
for precision in fp32 int8; do
  nat-export run_dir="$output/fast" output="$output/fast-$precision" format=onnx precision=$precision overwrite=true
done
rows="$t?name=teacher greedy,$t?engine=ctranslate2&precision=int8&name=teacher greedy CTranslate2 int8"
rows+=",$t?engine=ctranslate2&precision=int8&beam_size=4&name=teacher beam 4 CTranslate2 int8"
rows+=",$output/fast?name=student,$output/fast-fp32?name=student ONNX,$output/fast-int8?name=student ONNX int8"
nat-report "run_dirs=[$rows]" output="$output/fast-report" num_threads=1
onnx="engine=onnx&precision=int8"
rows="$output/steps/ctc?$onnx&name=CTC of 3+3 layers"
rows+=",$output/steps/late?$onnx&name=late upsampling and a factored blank of 6+2 layers"
rows+=",$output/steps/glancing?$onnx&name=glancing,$output/fast-first?$onnx&name=11000 updates instead of 1200"
rows+=",$output/steps/more?$onnx&name=4000 more with 4 targets a source and dropout 0.2"
rows+=",$output/fast?$onnx&name=the same with one encoder layer less"
nat-report "run_dirs=[$rows]" output="$output/fast-steps" num_threads=1
nat-bench engines engines.student="$output/fast" engines.teacher="$t" output="$output/fast-engines.json" overwrite=true
nat-bench engines engines.dims=[128,256,512,1024] repeats=3 output="$output/engines.json" overwrite=true \
  engines.contenders=[student-onnx-int8,ctranslate2-int8-6+6,ctranslate2-int8-12+1] engines.picture="$output/engines.svg"
