"""nat-bench feed at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import command

from nat.bench.feed import FeedSizes, gather, stored
from nat.bench.text import synthetic_table

TINY = ["pairs=400", "vocabulary_size=50", "tokens_per_update=1000", "max_tokens=500", "updates=3"]


def test_rates_of_one_rank_and_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, options = tmp_path / "feed.json", [f"feed.{word}" for word in TINY]
    assert command("feed", *options, "repeats=2", f"output={output}", name="bench") == 0
    rows = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert [row["name"] for row in rows] == ["1 rank", "8 ranks"]
    assert all(
        row["tokens_per_second"] == pytest.approx(number * row["share"])
        for number, row in zip((1, 8), rows, strict=True)
    )
    assert all(row["tokens_per_second"] > 0 and row["plan_seconds"] > 0 for row in rows)
    assert "| 8 ranks |" in capsys.readouterr().out


def test_every_rank_makes_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, made = FeedSizes(), []
    from nat.data import batching

    rectangles = batching.rectangles
    monkeypatch.setattr(batching, "rectangles", lambda table: made.append(table) or rectangles(table))
    table = stored(synthetic_table(50, 2000), tmp_path)
    updates = [np.arange(0, 40), np.arange(40, 80)]
    for rank in range(3):
        assert gather(table, updates, sizes, rank, 3) >= 0
    assert sorted(map(tuple, (ids for part in made for ids in part.target.lists()))) == sorted(
        map(tuple, table.take(np.arange(80)).target.lists())
    )
