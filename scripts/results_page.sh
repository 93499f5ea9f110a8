#!/usr/bin/env bash
# The results page and the README's figures, from run folders that are there; no training. About 20 minutes on a machine
# that does nothing else, for it also times every system.
#   bash scripts/results_page.sh [RUNS] [OVERRIDES of nat-report, for example max_sentences=100]
# RUNS (by default runs) is where the other scripts write: small/ (reproduce_small.sh, compare_systems.sh), quickstart/,
# attention/, multimodality/, and hull/, hull_parallel/ (nat-train experiment=small/pointer and small/pointer_parallel). Of
# what is missing nothing is shown.
# RUNS/page/index.html: the page of every system of the comparison: table, figures, the viewer of how translations were made.
# RUNS/page/whole/: the same of the systems of the whole corpus. RUNS/page/points/: hulls of 10 and of 50 points.
# README.md, docs/results: brought up to date by nat.reporting.published; to be read before they are committed.
set -euo pipefail
runs=${1:-runs}
shift $(($# < 1 ? $# : 1))
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
page=$runs/page teacher=$runs/small/teacher ctc=$runs/small/ctc

for name in hull hull_parallel; do
  if [ -e "$runs/$name/run.json" ]; then
    for n in 10 50; do
      nat-decode run_dir="$runs/$name" "data.test=task:convex_hull?points=$n&pairs=1000&seed=7" output="$page/points/$name-$n.txt"
    done
  fi
done

if [ -e "$ctc/run.json" ]; then
  rows="$teacher?name=teacher greedy,$teacher?beam_size=4&name=teacher beam 4"
  rows+=",$teacher?engine=ctranslate2&name=teacher greedy CTranslate2,$teacher?engine=ctranslate2&beam_size=4&name=teacher beam 4 CTranslate2"
  rows+=",$ctc?name=CTC,$ctc?beam_size=10&name=CTC beam 10"
  nat-report "run_dirs=[$rows]" output="$page/whole" plots=true num_threads=1 "$@"
fi

rows="$teacher?name=teacher greedy,$teacher?beam_size=4&num_candidates=4&name=teacher beam 4"
row() { # RUN OPTIONS& LABEL: a system on each text, where its run is there
  for text in raw distilled; do
    if [ -e "$runs/small/compare/$1-$text/run.json" ]; then rows+=",$runs/small/compare/$1-$text?$2name=$3 $text"; fi
  done
}
rescored="choose=teacher&teacher=$teacher&"
row vanilla "" vanilla
row vanilla "length_beam=5&num_candidates=5&$rescored" "vanilla length beam 5 teacher"
row vanilla_glancing "" "vanilla glancing"
row vanilla_deep "" "vanilla deep"
row fertility "" "fertility argmax"
for n in 10 100; do row fertility "fertilities=sample&num_candidates=$n&$rescored" "fertility NPD $n"; done
row fertility_tuned "" "fertility fine-tuned argmax"
row fertility_tuned "fertilities=sample&num_candidates=10&$rescored" "fertility fine-tuned NPD 10"
for n in 1 5 10; do row refinement "max_passes=$n&" "refinement $n"; done
for n in 1 4 10; do row mask_predict "max_passes=$n&" "Mask-Predict $n"; done
row ctc "" CTC
row ctc "beam_size=10&num_candidates=10&" "CTC beam 10"
row ctc_glancing "" "CTC glancing"
row ctc_deep "" "CTC deep"
row dag "" "DAG lookahead"
row ctc_long "" "CTC 3000 updates"
row ctc_glancing_long "" "CTC glancing 3000 updates"
for n in 1 4 8; do row imputer "max_passes=$n&" "Imputer $n"; done
row insertion "end_penalty=2&" "insertion tree penalty 2"
row insertion "end_penalty=2&parallel=false&" "insertion tree penalty 2 greedy"
row insertion_uniform "end_penalty=2&" "insertion uniform penalty 2"
row levenshtein "" Levenshtein
row edit_flow "" "Edit Flows"
row kermit "end_penalty=2&" "KERMIT penalty 2"
row kermit_long "end_penalty=2&" "KERMIT 9000 updates penalty 2"
if [ -e "$teacher/run.json" ]; then
  nat-report "run_dirs=[$rows]" output="$page" plots=true num_threads=1 data.max_words=12 samples=10 speed_sentences=50 "$@"
fi

python -m nat.reporting.published "$runs" "$page"
echo "$page/index.html"
