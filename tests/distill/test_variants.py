"""What is distilled beside the best translation: weighted hypotheses, another model's choice, own targets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import command, distil, distilled_lines, make_run

import nat.distill.counts
import nat.distill.lines
from nat.composition import compose
from nat.config import load_yaml, parse
from nat.data.corpus import DataConfig
from nat.data.lines import read_json_lines
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.data.tokenizer import TokenizerConfig, Tokenizers

SEVERAL = ["decoding.beam_size=4", "decoding.num_candidates=4"]


def made(folder: Path, teacher: Path, *options: str) -> list[dict[str, Any]]:
    assert distil(f"teacher={teacher}", f"output={folder}", "data.limit=40", *options) == 0
    return distilled_lines(folder)


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_weights_are_the_hypotheses_probabilities_among_each_other(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    lines = made(tmp_path / "d", tiny_runs["autoregressive"], *SEVERAL, "weights=true")
    assert [line["rank"] for line in lines] == [0, 1, 2, 3] * 40
    for _, group in groupby(lines, key=lambda line: line["line"]):
        hypotheses = list(group)
        scores = [line["score"] for line in hypotheses]
        total = sum(math.exp(score - scores[0]) for score in scores)
        expected = [math.exp(score - scores[0]) / total for score in scores]
        assert [line["weight"] for line in hypotheses] == pytest.approx(expected, abs=1e-4)
    assert manifest_of(tmp_path / "d")["weights"] is True


def test_an_epoch_has_one_hypothesis_of_each_source_drawn_by_its_weight(tmp_path: Path) -> None:
    """And over many epochs each as often as its weight says."""
    weights = {"save the file": [0.7, 0.3], "open": [1.0], "close the window": [0.25, 0.25, 0.5], "quit": [0.0, 1.0]}
    rows = [
        {"en": source, "de": f"{source} {k}", "line": number, "weight": weight}
        for number, (source, each) in enumerate(weights.items(), 1)
        for k, weight in enumerate(each)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["run_dir=x", "data=files", f"data.train={tmp_path}/train.jsonl", f"data.cache={tmp_path}/cache"]
    config = parse(DataConfig, compose("train", [*words, "data.weights=weight"])["data"])
    texts = [row["en"] for row in rows], [row["de"] for row in rows]
    tokenizers = Tokenizers.train(TokenizerConfig(vocabulary_size=60), *map(list, texts))
    corpus = prepare(config, "train", tokenizers, filtered=False)
    assert isinstance(corpus, TokenizedCorpus)
    seen: Counter[str] = Counter()
    for epoch in range(2000):
        pairs = [pair for update in corpus.updates(1000, seed=1, epoch=epoch) for pair in update]
        targets = tokenizers.target.decode([pair.target for pair in pairs])
        assert sorted(tokenizers.source.decode([pair.source for pair in pairs])) == sorted(weights)
        seen.update(targets)
    for source, each in weights.items():
        shares = [seen[f"{source} {k}"] / 2000 for k in range(len(each))]
        assert shares == pytest.approx(each, abs=0.04)
    again = [pair for update in corpus.updates(1000, seed=1, epoch=7, skip=0) for pair in update]
    assert again == [pair for update in corpus.updates(1000, seed=1, epoch=7) for pair in update]


def test_a_scorer_chooses_among_a_students_candidates(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    student, teacher = tiny_runs["ctc"], tiny_runs["autoregressive"]
    options = ["decoding.beam_size=4", "decoding.num_candidates=4"]
    lines = made(tmp_path / "d", student, *options, f"scorer={teacher}")
    assert [line["rank"] for line in lines] == [0] * 40
    chosen = nat.load(student).candidates(
        [line["en"] for line in lines], beam_size=4, num_candidates=4, allow_unknown=False, teacher=nat.load(teacher)
    )
    assert [line["de"] for line in lines] == [item.best for item in chosen]
    assert any(item.differs for item in chosen)
    for line, item in zip(lines, chosen, strict=True):
        assert item.teacher_scores is not None
        assert line["score"] == pytest.approx(item.teacher_scores[item.chosen], abs=1e-3)
    assert manifest_of(tmp_path / "d")["scorer"] == str(teacher)


@pytest.mark.parametrize("shard_size", [7, 1000])
def test_a_share_keeps_its_own_targets(tiny_runs: dict[str, Path], tmp_path: Path, shard_size: int) -> None:
    teacher, name = tiny_runs["autoregressive"], f"shard_size={shard_size}"
    plain = made(tmp_path / "plain", teacher)
    lines = made(tmp_path / "d", teacher, "raw_share=0.3", name)
    assert [line["line"] for line in lines] == [line["line"] for line in plain]
    raw = [line for line in lines if line.get("raw")]
    assert len(raw) == manifest_of(tmp_path / "d")["num_raw"] == 12
    assert [line for line in lines if "raw" not in line] == [
        line for line, other in zip(plain, lines, strict=True) if "raw" not in other
    ]
    translator = nat.load(teacher)
    corpus = made(tmp_path / "corpus", teacher, "targets=corpus")
    lengths = [max(1, len(ids)) for ids in translator.tokenizers.target.encode([line["de"] for line in corpus])]
    means = np.array([line["score"] / length for line, length in zip(corpus, lengths, strict=True)])
    likeliest = sorted(np.argsort(-means, kind="stable")[:12].tolist())
    assert [corpus[i]["de"] for i in likeliest] == [line["de"] for line in raw]


def test_shards_are_read_once(tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their own targets are judged by was counted when they were made."""
    read: Counter[str] = Counter()

    def noted(path: Path) -> Iterator[Any]:
        read[path.name] += path.name.startswith("shard")
        return read_json_lines(path)

    for module in (nat.distill.lines, nat.distill.counts):
        monkeypatch.setattr(module, "read_json_lines", noted)
    made(tmp_path / "d", tiny_runs["autoregressive"], "raw_share=0.3", "shard_size=7")
    assert sorted(read.values()) == [1] * 6


def test_own_targets_with_weights_and_fertilities(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    options = [*SEVERAL, "weights=true", "raw_share=0.5", "fertilities=attention"]
    lines = made(tmp_path / "d", tiny_runs["autoregressive"], *options)
    blocks = [list(group) for _, group in groupby(lines, key=lambda line: line["line"])]
    assert sorted(map(len, blocks)) == [1] * 20 + [4] * 20
    assert all(sum(line["weight"] for line in block) == pytest.approx(1, abs=1e-4) for block in blocks)
    assert all("fertilities" in line for line in lines)
    manifest = manifest_of(tmp_path / "d")
    assert (manifest["num_lines"], manifest["num_raw"]) == (100, 20)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["weights=true"], "weights=true: has no effect with decoding.num_candidates=1"),
        (["scorer={autoregressive}"], "has no effect with decoding.num_candidates=1 and raw_share=0"),
        (["scorer={ctc}/none", *SEVERAL], "/none"),
        (["raw_share=1.5"], "raw_share=1.5"),
        (["targets=corpus", "raw_share=0.5"], "raw_share=0.5: has no effect with targets=corpus"),
    ],
)
def test_refusals(
    options: list[str], reason: str, tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [option.format(**tiny_runs) for option in options]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path}/d", "data.limit=40", *named) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "d" / "train.jsonl").exists()


def test_a_scorer_that_cannot_score_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tiny_runs["autoregressive"]
    data = load_yaml(teacher / "config.yaml")["data"]
    make_run(tmp_path / "editor", "levenshtein", data, Tokenizers.load(teacher / "tokenizer"))
    options = [f"scorer={tmp_path}/editor", *SEVERAL]
    assert distil(f"teacher={teacher}", f"output={tmp_path}/d", "data.limit=40", *options) == 2
    assert "editor: Levenshtein cannot score given targets" in capsys.readouterr().err


def test_a_student_trains_on_weights(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    teacher = tiny_runs["autoregressive"]
    made(tmp_path / "d", teacher, *SEVERAL, "weights=true")
    words = [f"run_dir={tmp_path}/run", "experiment=tiny", "model=ctc", f"data.train={tmp_path}/d/train.jsonl"]
    words += ["data.weights=weight", f"data.tokenizer.path={teacher}/tokenizer", "trainer.max_updates=2"]
    assert command(*words, name="train") == 0
    assert command(*words[:-1], "data.streaming=true", f"run_dir={tmp_path}/other", name="train") == 2
