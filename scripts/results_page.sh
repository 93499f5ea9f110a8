#!/usr/bin/env bash
# The results page, OUTPUT/index.html, from run folders that are there (scripts/reproduce_small.sh and
# scripts/compare_systems.sh make them): table, figures and the viewer of how translations were made, with the machine,
# the date, the seeds and the command in it. Some minutes on one core; no training.
#   bash scripts/results_page.sh [FOLDER of runs] [OUTPUT] [OVERRIDES of nat-report, for example max_sentences=100]
set -euo pipefail
runs=$(realpath "${1:-runs/small}") output=$(realpath -m "${2:-$runs/page}")
shift $(($# < 2 ? $# : 2))
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
teacher=$runs/teacher
rows="$teacher?name=teacher greedy,$teacher?beam_size=4&num_candidates=4&name=teacher beam 4"
row() { # RUN OPTIONS& LABEL: a system, where its run is there
  if [ -e "$runs/compare/$1/run.json" ]; then rows+=",$runs/compare/$1?$2name=$3"; fi
}
row vanilla-raw "" "vanilla raw"
row vanilla-distilled "" "vanilla"
row vanilla-distilled "length_beam=5&num_candidates=5&choose=teacher&teacher=$teacher&" "vanilla length beam 5"
row fertility-distilled "" "fertility"
row fertility-distilled "fertilities=sample&num_candidates=10&choose=teacher&teacher=$teacher&" "fertility NPD 10"
row refinement-distilled "" "refinement"
row mask_predict-distilled "max_passes=4&num_candidates=5&" "Mask-Predict 4"
row mask_predict-distilled "max_passes=10&num_candidates=5&" "Mask-Predict 10"
row ctc-raw "" "CTC raw"
row ctc-distilled "" "CTC"
row ctc-distilled "beam_size=10&num_candidates=10&" "CTC beam 10"
row ctc_glancing-distilled "" "CTC glancing"
row imputer-distilled "max_passes=4&" "Imputer 4"
row insertion-distilled "" "Insertion Transformer"
row kermit-distilled "" "KERMIT"
row levenshtein-distilled "" "Levenshtein"
nat-report "run_dirs=[$rows]" output="$output" plots=true data.max_words=12 samples=10 "$@"
echo "$output/index.html"
