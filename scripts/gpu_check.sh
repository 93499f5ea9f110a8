#!/bin/bash
# What only a GPU can show, in at most 8 minutes and without a network: do the tests pass on it, how fast does nat learn
# and translate there, how much memory does it take, where does the host wait.
#
#   scripts/gpu_check.sh [FIGURES.json [OVERRIDES]]
#
# FIGURES.json (gpu_check.json) is written anew after each part, FIGURES.log has what the parts printed. A part that
# fails or takes too long stops no other. OVERRIDES are options of nat-bench that come last in every part: a rehearsal
# on a CPU is  scripts/gpu_check.sh check.json device=cpu training.dim=16 ...
set -u
cd "$(dirname "$0")/.."
figures=${1:-gpu_check.json}
overrides=("${@:2}")
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$PWD
rm -f "$figures" "${figures%.json}.log"

part() { # NAME SECONDS COMMAND ...
  python3 -m nat.bench.part "$figures" 480 "$@"
}
bench() { # NAME SECONDS BENCHMARK OVERRIDES ...
  part "$1" "$2" python3 -m nat.cli.bench "${@:3}" device=cuda output=RESULT "${overrides[@]}"
}
# the field's base size; updates of 65,536 target tokens of made text with the lengths of WMT's
base=(vocabulary_size=32000 num_layers=6 dim=512 num_heads=8 ffn_dim=2048)
training=("${base[@]/#/training.}" training.text=synthetic training.tokens_per_update=65536 training.max_tokens=32768
  training.updates=2 training.seconds=8 repeats=5)

bench "card" 40 card
part "gpu tests" 150 python3 -m pytest -v -m gpu -n 6 --tb=short -rfE -p no:cacheprovider \
  tests/test_gpu.py tests/ops/test_window.py
bench "training" 90 training "${training[@]}" "training.contenders=[autoregressive,mask_predict,ctc,ctc with glancing]"
bench "decoding" 60 decoding "${base[@]/#/decoding.}" decoding.sentences=20
bench "CUDA graphs" 40 decoding "${base[@]/#/decoding.}" "decoding.contenders=[ctc,ctc graphs]" decoding.sentences=50
bench "waits" 60 waits
compiled() { # SYSTEM; one each, for compiling one may take all its time
  bench "$1, compiled" 100 training "${training[@]}" training.compile=true "training.contenders=[$1]"
}
compiled autoregressive
bench "attention" 80 attention attention.dim=512 attention.num_heads=8 attention.bf16=true attention.seconds=2 \
  attention.gigabytes=40 "attention.lengths=[1024,4096,16384,65536]" repeats=5
compiled mask_predict
compiled ctc
compiled "ctc with glancing"
