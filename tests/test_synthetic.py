"""Does it learn: synthetic languages whose translation is known exactly, under a seed that differs from day to day."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import MODELS, even_fertilities, vocabularies_of

from nat.config import parse
from nat.data.tokenizer import TokenizerConfig, Tokenizers

WORDS = [a + b for a in "bdfgklmnp" for b in "aeiou"]
SIZES = {"train": 6000, "valid": 200}


# A task gives the target's words, each with the index of the source word that it translates.
Task = Callable[[list[str]], list[tuple[str, int]]]


def copy_with_fertility(words: list[str]) -> list[tuple[str, int]]:
    """Every word once, and those in -a and -e twice, the second time in another form."""
    both = [(form, i) for i, word in enumerate(words) for form in (word, word + "s")]
    return [(form, i) for form, i in both if form == words[i] or words[i][-1] in "ae"]


def reverse(words: list[str]) -> list[tuple[str, int]]:
    return [(word, i) for i, word in enumerate(words)][::-1]


def sort(words: list[str]) -> list[tuple[str, int]]:
    return sorted((word, i) for i, word in enumerate(words))


def write_corpus(folder: Path, task: Task, seed: int) -> None:
    """train.jsonl with fertilities, valid.tsv and the tokenizer that the fertilities count for."""
    draw = random.Random(seed)
    splits = {name: [draw.sample(WORDS, draw.randint(3, 7)) for _ in range(n)] for name, n in SIZES.items()}
    texts = {name: [(" ".join(s), " ".join(w for w, _ in task(s))) for s in rows] for name, rows in splits.items()}
    tokenizers = Tokenizers.train(
        parse(TokenizerConfig, {"vocabulary_size": 120}), *map(list, zip(*texts["train"], strict=True))
    )
    tokenizers.save(folder / "tokenizer")
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for words, (source, target) in zip(splits["train"], texts["train"], strict=True):
            numbers = fertilities_of(words, task(words), tokenizers)
            file.write(json.dumps({"en": source, "de": target, "fertilities": numbers}) + "\n")
    (folder / "valid.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in texts["valid"]))


def fertilities_of(words: list[str], target: list[tuple[str, int]], tokenizers: Tokenizers) -> list[int]:
    """Of each source token: those of a word share the tokens of its translation."""
    num_pieces = [0] * len(words)
    for ids, (_, origin) in zip(tokenizers.target.encode([word for word, _ in target]), target, strict=True):
        num_pieces[origin] += len(ids)
    sources = tokenizers.source.encode(words)
    return [f for ids, number in zip(sources, num_pieces, strict=True) for f in even_fertilities(len(ids), number)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", [copy_with_fertility, reverse, sort])
@pytest.mark.parametrize("model", [name for name in MODELS if not vocabularies_of(name).points])
def test_learns(model: str, task: Task, tmp_path: Path, nat_train: Callable[..., int]) -> None:
    seed = int(time.time()) // 86400
    write_corpus(tmp_path, task, seed)
    code = nat_train(
        "experiment=tiny",
        f"model={model}",
        f"run_dir={tmp_path / 'run'}",
        f"data.train={tmp_path / 'train.jsonl'}",
        "data.fertilities=fertilities",
        f"data.valid={tmp_path / 'valid.tsv'}",
        "data.max_words=null",
        "data.limit=null",
        f"data.tokenizer.path={tmp_path / 'tokenizer'}",
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
