"""nat-bench training: processes of two checkouts take turns, and what is made of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_model

from nat.bench.text import LONGEST, save, synthetic, with_fertilities
from nat.bench.training import (
    BASELINE,
    HERE,
    Text,
    Training,
    TrainingSizes,
    describe_training,
    measure_training,
    row_of,
)
from nat.bench.training_worker import chosen_updates, read_pairs
from nat.config import to_plain
from nat.data.vocabulary import NUM_SYMBOLS

SMALL: dict[str, Any] = {
    "vocabulary_size": 300, "num_layers": 1, "dim": 16, "num_heads": 2, "ffn_dim": 16, "tokens_per_update": 200,
    "updates": 2,
}  # fmt: skip


@pytest.mark.slow
def test_two_checkouts_take_turns() -> None:
    sizes = TrainingSizes(
        contenders=["ctc with glancing", "kermit"],
        baseline=str(Path(__file__).parents[2]),
        text=Text.SYNTHETIC,
        overrides=["model.tasks.source=0.0"],  # CTC has no tasks: it fails, the other goes on
        **SMALL,
    )
    failed, row = measure_training(sizes, repeats=2, num_threads=1, device=torch.device("cpu"))
    assert "model.tasks" in failed["error"] and failed["baseline_error"] == failed["error"]
    assert failed["ratio"] is failed["tokens_per_second"] is None
    assert (row["name"], row["rounds"], row["error"]) == ("kermit", 2, None)
    assert row["ratio"] == row["tokens_per_second"] / row["baseline_tokens_per_second"] > 0
    assert 0 < row["padding_source"] < 1 and row["padding_source"] == row["baseline_padding_source"]
    assert 300 < row["tokens"] < 500 and row["flops_per_token"] > 6 * 300 * 16


def passes(*seconds: float) -> list[dict[str, Any]]:
    return [{"cpu_seconds": one, "wall_seconds": 2 * one, "peak_bytes": 5_000_000} for one in seconds]


def test_the_median_pass_counts() -> None:
    here = Training({"tokens": 100, "flops": 1000, "padding_source": 0.25}, passes(1.0, 2.0, 40.0))
    before = Training({"tokens": 90, "padding_source": 0.5}, passes(3.0, 3.0, 3.0))
    row = row_of("ctc", {HERE: here, BASELINE: before}, "cpu", 1000.0)
    assert list(row)[:4] == ["name", "ratio", "tokens_per_second", "baseline_tokens_per_second"]
    assert (row["tokens_per_second"], row["baseline_tokens_per_second"], row["ratio"]) == (50.0, 30.0, 50 / 30)
    assert (row["padding_source"], row["baseline_padding_source"], row["peak_megabytes"]) == (0.25, 0.5, 5.0)
    assert row["share_of_matrix_rate"] == 10.0 * 25.0 / 1000.0
    figures = {
        "sizes": to_plain(TrainingSizes()), "device": "cpu", "num_threads": 1, "torch": "2", "repeats": 3,
        "results": [row, row_of("vanilla", {HERE: Training({}, [], "RuntimeError: no")}, "cpu", 1.0)],
    }  # fmt: skip
    lines = describe_training(figures).split("\n")
    assert lines[0].startswith("| system | new/old | tokens/s | baseline |")
    assert lines[2].startswith("| ctc | 1.667 | 50 | 30 | 25.0 | 25.0 | 5 |")
    assert lines[3].startswith("| vanilla | - | - | - |") and "vanilla: RuntimeError: no" in lines


def test_updates_are_spread_from_short_to_long() -> None:
    pairs = synthetic(300, 20_000)
    updates = chosen_updates(make_model("autoregressive"), pairs, 500, 3)
    means = [np.mean([len(pair.target) for pair in update]) for update in updates]
    assert means == sorted(means) and means[2] > 2 * means[0]
    assert all(400 < sum(len(pair.target) + 1 for pair in update) < 600 for update in updates)


def test_what_a_model_cannot_learn_from_is_left_out() -> None:
    long = synthetic(300, 2000)
    pairs = [with_fertilities(pair.source[:1], pair.target) for pair in long]  # no canvas for such a target
    model = make_model("ctc")
    kept = [pair for update in chosen_updates(model, long + pairs, 300, 2) for pair in update]
    assert kept and all(len(pair.source) > 1 for pair in kept if len(pair.target) > 5)


def test_synthetic_text_has_the_lengths_of_news(tmp_path: Path) -> None:
    pairs = synthetic(8000, 100_000)
    assert pairs == synthetic(8000, 100_000) != synthetic(8000, 100_000, seed=2)
    lengths = np.array([[len(pair.source), len(pair.target)] for pair in pairs])
    assert lengths.mean(axis=0) == pytest.approx([25.0, 25.0], rel=0.05) and lengths.max() <= LONGEST
    assert np.corrcoef(np.log(lengths.T))[0, 1] > 0.9
    tokens = np.concatenate([pair.target for pair in pairs])
    assert tokens.min() == NUM_SYMBOLS and tokens.max() < 8000 and (tokens == NUM_SYMBOLS).mean() > 0.02
    assert all(sum(pair.fertilities or []) == len(pair.target) for pair in pairs)
    save(pairs, tmp_path / "pairs.npz")
    assert read_pairs(str(tmp_path / "pairs.npz")) == pairs
