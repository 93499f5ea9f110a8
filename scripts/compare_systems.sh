#!/usr/bin/env bash
# Every system, with one budget, raw and distilled, in two tables: about six hours on one CPU
# core with AVX-512 bf16, minutes on a GPU. Needs the teacher of scripts/reproduce_small.sh (made here if it is missing).
#   bash scripts/compare_systems.sh [FOLDER] [OVERRIDES of nat-train, for example seed=2]
# The same command again resumes where it was stopped. Budget: that of scripts/budget.sh; the Imputer starts from the
# weights of its CTC parent, with as many updates again; the fine-tuning of the fertility model takes 500 more.
set -euo pipefail
output=${1:-runs/small}
shift || true
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
. "$(dirname "${BASH_SOURCE[0]}")/budget.sh"
teacher=$output/teacher distilled=$output/distilled runs=$output/compare

nat-train experiment=small run_dir="$teacher"
nat-distill teacher="$teacher" output="$distilled"
# the same two texts with a column of fertilities, from a word aligner
nat-distill teacher="$teacher" output="$runs/text-distilled" targets=corpus fertilities=aligner data.train="$distilled/train.jsonl" data.max_words=12
nat-distill teacher="$teacher" output="$runs/text-raw" targets=corpus fertilities=aligner data.max_words=12

train() { # RECIPE TEXT START [OVERRIDES]: a run in $runs/RECIPE-TEXT
  train_with_budget "$1" "$3" "$runs/$1-$2" data.train="$runs/text-$2/train.jsonl" "${@:4}"
}
for text in distilled raw; do
  for recipe in vanilla vanilla_glancing vanilla_deep vanilla_axe vanilla_oaxe crf fertility refinement mask_predict diffusion ctc ctc_glancing ctc_deep dag; do
    train $recipe $text "$teacher" "$@"
  done
  train imputer $text "$runs/ctc-$text" "$@"
  for recipe in ctc dag; do
    tune_on_bigrams $recipe "$runs/$recipe-$text" "$runs/${recipe}_tuned-$text" data.train="$runs/text-$text/train.jsonl" "$@"
  done
  for recipe in insertion insertion_uniform levenshtein edit_flow kermit; do
    train $recipe $text "$teacher" "$@"
  done
done
# five tasks at once take longer: six times the budget
train kermit raw "$teacher" trainer.max_updates=9000 validation.every=1500 run_dir="$runs/kermit_long-raw" "$@"
# does glancing need a longer run? twice the budget
for recipe in ctc ctc_glancing; do
  train $recipe distilled "$teacher" trainer.max_updates=3000 run_dir="$runs/${recipe}_long-distilled" "$@"
done
train fertility distilled "$runs/fertility-distilled" stage=fertility_tuning stage.teacher="$teacher" trainer.max_updates=500 schedule.peak=3.0e-4 run_dir="$runs/fertility_tuned-distilled" "$@"

rows="$teacher?name=teacher greedy,$teacher?beam_size=4&name=teacher beam 4"
row() { rows+=",$runs/$1-$text?$2name=$3 $text"; } # RUN OPTIONS& LABEL
npd="fertilities=sample&choose=teacher&teacher=$teacher&num_candidates"
for text in raw distilled; do
  row vanilla "" vanilla
  row vanilla "length_beam=5&" "vanilla length beam 5"
  row vanilla "length_beam=5&num_candidates=5&choose=teacher&teacher=$teacher&" "vanilla length beam 5 teacher"
  row vanilla_glancing "" "vanilla glancing"
  row vanilla_deep "" "vanilla deep"
  row vanilla_axe "" "vanilla AXE"
  row vanilla_oaxe "" "vanilla OAXE"
  row crf "" CRF
  row fertility "" "fertility argmax"
  row fertility "fertilities=average&" "fertility average"
  row fertility "$npd=10&" "fertility NPD 10"
  for n in 1 2 5 10; do row refinement "max_passes=$n&" "refinement $n"; done
  for n in 1 4 10; do row mask_predict "max_passes=$n&" "Mask-Predict $n"; done
  for n in 1 4 10; do row diffusion "max_passes=$n&" "diffusion $n"; done
  row diffusion "sampler=remasking&" "diffusion remasking 10"
  row diffusion "length_beam=5&num_candidates=5&choose=mbr_chrf&" "diffusion 10 MBR"
  row ctc "" CTC
  row ctc "beam_size=10&" "CTC beam 10"
  row ctc "temperature=1.0&num_candidates=10&choose=mbr_chrf&" "CTC 10 samples MBR"
  row ctc_glancing "" "CTC glancing"
  row ctc_deep "" "CTC deep"
  row ctc_tuned "" "CTC n-gram tuned"
  row dag "search=greedy&" "DAG greedy"
  row dag "" "DAG lookahead"
  row dag_tuned "" "DAG n-gram tuned"
  row dag "search=viterbi&" "DAG joint Viterbi"
  row dag "beam_size=5&" "DAG beam 5"
  for n in 1 2 4 8; do row imputer "max_passes=$n&" "Imputer $n"; done
done
row fertility "$npd=100&" "fertility NPD 100"
row ctc_long "" "CTC 3000 updates"
row ctc_glancing_long "" "CTC glancing 3000 updates"
row fertility_tuned "" "fertility fine-tuned argmax"
row fertility_tuned "$npd=10&" "fertility fine-tuned NPD 10"
claims=""
claim() { claims+="${claims:+,}'$1 > $2'"; }
for system in vanilla "vanilla glancing" "vanilla deep" "fertility argmax" CTC "CTC glancing" "CTC deep" "DAG lookahead"; do
  claim "$system distilled" "$system raw"
done
for text in distilled raw; do
  claim "Mask-Predict 4 $text" "Mask-Predict 1 $text"
  claim "diffusion 10 $text" "Mask-Predict 10 $text"
  claim "Imputer 4 $text" "CTC $text"
  claim "fertility NPD 10 $text" "fertility argmax $text"
  claim "CTC glancing $text" "CTC $text"
  claim "DAG lookahead $text" "CTC $text"
  claim "vanilla glancing $text" "vanilla $text"
  claim "vanilla AXE $text" "vanilla $text"
  claim "vanilla OAXE $text" "vanilla $text"
  claim "CRF $text" "vanilla $text"
  claim "CTC n-gram tuned $text" "CTC $text"
  claim "DAG n-gram tuned $text" "DAG lookahead $text"
  claim "refinement 5 $text" "refinement 1 $text"
done
claim "CTC glancing 3000 updates distilled" "CTC 3000 updates distilled"
claim "fertility fine-tuned argmax distilled" "fertility argmax distilled"
nat-report "run_dirs=[$rows]" "claims=[$claims]" output="$runs/report" data.max_words=12 speed_sentences=50 samples=5

# the systems that insert and delete: their own table, with passes against length as a picture
rows="$teacher?name=teacher greedy" claims=""
for text in raw distilled; do
  row ctc "" CTC
  row insertion "" "insertion tree"
  row insertion_uniform "" "insertion uniform"
  # the penalty with the highest BLEU on valid, of 0, 1, 2, 3, 4
  row insertion "end_penalty=2&" "insertion tree penalty 2"
  row insertion "end_penalty=2&parallel=false&" "insertion tree penalty 2 greedy"
  row insertion_uniform "end_penalty=2&" "insertion uniform penalty 2"
  row insertion_uniform "end_penalty=2&parallel=false&" "insertion uniform penalty 2 greedy"
  row levenshtein "" Levenshtein
  row edit_flow "" "Edit Flows"
  row kermit "" KERMIT
  row kermit "end_penalty=2&" "KERMIT penalty 2"
  claim "insertion tree $text" "insertion uniform $text"
  claim "insertion tree penalty 2 $text" "insertion uniform penalty 2 $text"
  claim "Edit Flows $text" "Levenshtein $text"
done
for system in "insertion tree penalty 2" "insertion uniform penalty 2" Levenshtein "Edit Flows"; do
  claim "$system distilled" "$system raw"
done
text=raw
row kermit_long "" "KERMIT 9000 updates"
row kermit_long "end_penalty=2&" "KERMIT 9000 updates penalty 2"
nat-report "run_dirs=[$rows]" "claims=[$claims]" output="$runs/report_editing" data.max_words=12 speed_sentences=50 samples=5
# passes against length, of a few of them, as a picture
rows="$teacher?name=teacher greedy" text=distilled
row insertion "end_penalty=2&parallel=false&" "insertion tree greedy"
row insertion_uniform "end_penalty=2&" "insertion uniform"
row insertion "end_penalty=2&" "insertion tree"
row levenshtein "" Levenshtein
row edit_flow "" "Edit Flows"
nat-report "run_dirs=[$rows]" output="$runs/report_passes" data.max_words=12 speed_sentences=1 samples=0 plots=true
# drafts of which 20 % of the words were dropped or replaced; random and right constraints
for recipe in levenshtein edit_flow insertion kermit mask_predict diffusion; do
  nat-edit run_dir="$runs/$recipe-distilled" teacher="$teacher" data.max_words=12 output="$runs/report_editing/edit_$recipe.json"
done
# one checkpoint, both directions, and words in gaps
nat-cloze run_dir="$runs/kermit_long-raw" data.max_words=12 output="$runs/report_editing/cloze.json"
