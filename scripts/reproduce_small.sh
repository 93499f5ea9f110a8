#!/usr/bin/env bash
# The results page's figures on the whole embedded corpus: about an hour and a half on one CPU core with AVX-512 bf16.
#   bash scripts/reproduce_small.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
nat-train experiment=small run_dir="$output/teacher" "$@"
nat-distill teacher="$output/teacher" output="$output/distilled"
nat-train experiment=small model=ctc run_dir="$output/ctc" data.train="$output/distilled/train.jsonl" \
  data.tokenizer.path="$output/teacher/tokenizer" init_from="$output/teacher" trainer.max_updates=6000 "$@"
t=$output/teacher c=$output/ctc
nat-report "run_dirs=[$t?name=teacher greedy,$t?beam_size=4&name=teacher beam 4,$t?engine=ctranslate2&name=teacher greedy CTranslate2,$t?engine=ctranslate2&beam_size=4&name=teacher beam 4 CTranslate2,$c?name=CTC best path,$c?beam_size=10&name=CTC beam 10]" output="$output/report"
