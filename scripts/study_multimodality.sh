#!/usr/bin/env bash
# The study of multi-modality (Gu et al. 2018; Zhou et al. 2020): English to German, French and Spanish at once without
# saying which. Trains every system on raw and on distilled text, then tells how much each mixes languages inside
# sentences: tables, the simplex, complexity and faithfulness of both texts. About two hours on one CPU core with
# AVX-512 bf16, minutes on a GPU.
#   bash scripts/study_multimodality.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
# The same command again resumes where it was stopped. Budget: 6000 updates of 1024 target tokens for the teacher, 1500 of
# 512 for each system, on the pairs of at most 12 words a side; all start from the teacher's weights, the Imputer from
# those of its CTC parent, with as many updates again. Overrides are for all of them; TEACHER="..." for the teacher alone.
# The result: FOLDER/study/study.md, simplex.png, simplex.svg, study.json and every translation.
set -euo pipefail
output=${1:-runs/multimodality}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
teacher=$output/teacher distilled=$output/distilled
read -ra teacher_overrides <<<"${TEACHER:-}"
text=(data=lohelp4_multitarget data.max_words=12)

nat-train experiment=small/autoregressive "${text[@]}" run_dir="$teacher" trainer.max_updates=6000 "$@" "${teacher_overrides[@]}"
# one translation for all targets of a source: each of its pairs gets a copy, so that the text keeps its size
nat-distill teacher="$teacher" output="$distilled" decoding.beam_size=4

train() { # RECIPE TEXT START [OVERRIDES]: a run in $output/RECIPE-TEXT
  local recipe=$1 kind=$2 start=$3 train=embedded:lohelp4/train.tsv.gz
  shift 3
  if [ "$kind" = distilled ]; then train=$distilled/train.jsonl; fi
  nat-train experiment="small/$recipe" "${text[@]}" data.train="$train" run_dir="$output/$recipe-$kind" init_from="$start" \
    data.tokenizer.path="$teacher/tokenizer" model.size.dropout=0.0 schedule.warmup=150 trainer.tokens_per_update=512 \
    trainer.max_updates=1500 validation.every=500 validation.max_sentences=200 "$@"
}
for kind in raw distilled; do
  for recipe in vanilla mask_predict; do train $recipe $kind "$teacher" "$@"; done
  # 3 slots a source token (Libovicky & Helcl 2018): 2 are too few for 6 % of these pairs, French ones above all
  train ctc $kind "$teacher" model.upsampling=3 "$@"
  train imputer $kind "$output/ctc-$kind" model.upsampling=3 "$@"
done

rows="$teacher?name=autoregressive greedy,$teacher?beam_size=4&name=autoregressive beam 4"
claims=""
claim() { claims+="${claims:+,}'$1 > $2'"; } # the first mixes more
for kind in raw distilled; do
  row() { rows+=",$output/$1-$kind?$2name=$3 $kind"; } # RUN OPTIONS& LABEL
  row vanilla "" vanilla
  row ctc "" CTC
  for n in 1 4 10; do row mask_predict "max_passes=$n&" "Mask-Predict $n"; done
  for n in 1 4; do row imputer "max_passes=$n&" "Imputer $n"; done
  for system in vanilla CTC "Mask-Predict 4" "Imputer 4"; do claim "$system $kind" "autoregressive greedy"; done
  for system in CTC "Mask-Predict 4" "Imputer 4"; do claim "vanilla $kind" "$system $kind"; done
  claim "Mask-Predict 1 $kind" "Mask-Predict 10 $kind"
done
for system in vanilla CTC "Mask-Predict 4" "Imputer 4"; do claim "$system raw" "$system distilled"; done
nat-modes "run_dirs=[$rows]" "claims=[$claims]" output="$output/study" plots=true alignments=true
