"""Does it learn: synthetic languages whose translation is known exactly, under a seed that differs from day to day."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import MODELS

WORDS = [a + b for a in "bdfgklmnp" for b in "aeiou"]


def copy_with_fertility(words: list[str]) -> list[str]:
    """Every word once, and those in -a and -e twice, the second time in another form."""
    return [form for word in words for form in ([word, word + "s"] if word[-1] in "ae" else [word])]


def reverse(words: list[str]) -> list[str]:
    return words[::-1]


def sort(words: list[str]) -> list[str]:
    return sorted(words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", [copy_with_fertility, reverse, sort])
@pytest.mark.parametrize("model", MODELS)
def test_learns(
    model: str, task: Callable[[list[str]], list[str]], tmp_path: Path, nat_train: Callable[..., int]
) -> None:
    seed = int(time.time()) // 86400
    draw = random.Random(seed)
    for split, count in (("train", 6000), ("valid", 200)):
        pairs = [draw.sample(WORDS, draw.randint(3, 7)) for _ in range(count)]
        lines = (f"{' '.join(words)}\t{' '.join(task(words))}\n" for words in pairs)
        (tmp_path / f"{split}.tsv").write_text("".join(lines))
    code = nat_train(
        "experiment=tiny",
        f"model={model}",
        f"run_dir={tmp_path / 'run'}",
        f"data.train={tmp_path / 'train.tsv'}",
        f"data.valid={tmp_path / 'valid.tsv'}",
        "data.max_words=null",
        "data.limit=null",
        "data.tokenizer.vocabulary_size=120",
        "encoder.num_layers=2",
        "model.decoder.num_layers=2",
        "trainer.max_updates=2500",
        "trainer.tokens_per_update=1024",
        "schedule.peak=2.0e-3",
        "schedule.warmup=200",
        "validation.every=500",
        "validation.max_sentences=200",
        f"seed={seed}",
    )
    assert code == 0
    best = json.loads((tmp_path / "run" / "run.json").read_text())["best"]["value"]
    assert best >= 98, f"{best} BLEU with seed {seed}"
