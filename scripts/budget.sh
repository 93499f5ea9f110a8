# The budget that systems are compared with: 1500 updates of 512 target tokens on the pairs of at most 12 words a side,
# from the weights of $teacher (or, fine-tuned on bigrams, 200 of 4096 from those of a run). Sourced by other scripts.

train_with_budget() { # RECIPE START RUN_DIR [OVERRIDES of nat-train]
  local recipe=$1 start=$2 run=$3
  shift 3
  nat-train experiment="small/$recipe" run_dir="$run" init_from="$start" data.max_words=12 \
    data.tokenizer.path="$teacher/tokenizer" model.size.dropout=0.0 schedule.warmup=150 \
    trainer.tokens_per_update=512 trainer.max_updates=1500 validation.every=500 validation.max_sentences=200 "$@"
}

tune_on_bigrams() { # RECIPE PARENT RUN_DIR [OVERRIDES of nat-train]
  train_with_budget "$@" stage=ngram_tuning trainer.max_updates=200 trainer.tokens_per_update=4096 \
    schedule.peak=3.0e-4 schedule.warmup=20 validation.every=100
}
