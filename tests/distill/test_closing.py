"""The closing of a distillation: counts of shards that are added, a join that holds a few lines in memory."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from builders import distil, distilled_lines

import nat
from nat.distill import counts as counting
from nat.distill.counts import Counts, recount
from nat.distill.shards import IN_FOLDER, Shards
from nat.scoring.scores import BleuCounts
from nat.scoring.tokenization import BleuTokenizer

Make = Callable[..., Path]


@pytest.fixture
def make(tiny_runs: dict[str, Path], tmp_path: Path) -> Make:
    """Distils rows, each of a source and its targets, into tmp_path/NAME."""

    def made(rows: list[tuple[str, ...]], *options: str, name: str = "d") -> Path:
        columns = ["en", "de", "fr"][: len(rows[0])]
        text = tmp_path / "text.tsv"
        text.write_text("".join("\t".join(row) + "\n" for row in [tuple(columns), *rows]), encoding="utf-8")
        given = [
            f"data.train={text}",
            "data.columns=null",
            "data.max_words=null",
            "data.filters.max_ratio=null",
            f"data.target={'+'.join(columns[1:])}",
            *options,
        ]
        teacher = f"teacher={tiny_runs['autoregressive']}"
        assert distil(teacher, f"output={tmp_path / name}", *given) == 0
        return tmp_path / name

    return made


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("shard_size", [1, 3, 100])
def test_bleu_is_that_of_all_lines_at_once(make: Make, tiny_runs: dict[str, Path], shard_size: int) -> None:
    """A row's pairs may lie in two shards, and are one sentence all the same."""
    sources = [f"Open the file {number}" for number in range(10)]
    texts = nat.load(tiny_runs["autoregressive"]).translate(sources, allow_unknown=False)
    rows = [(sources[i], f"{texts[i]} und", f"{texts[i - 1]} das") for i in range(10)]
    folder = make(rows, f"shard_size={shard_size}")
    outputs = {line["line"]: line["de+fr"] for line in distilled_lines(folder)}
    kept = [rows[number - 2] for number in sorted(outputs)]  # line 1 is the header
    expected = sacrebleu.corpus_bleu(
        [outputs[number] for number in sorted(outputs)], [[row[1] for row in kept], [row[2] for row in kept]]
    )
    assert len(distilled_lines(folder)) == 2 * len(kept) >= 12
    assert manifest(folder)["bleu_against_original"] == expected.score > 10
    assert manifest(folder)["bleu_signature"].startswith("nrefs:2|case:mixed|eff:no|tok:13a")


def test_the_script_of_all_targets_decides_even_where_a_shard_has_another(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BleuTokenizer | None] = []

    def seen(*arguments: Any) -> Counts:
        asked.append(arguments[2] if len(arguments) > 2 else None)
        return recount(*arguments)

    monkeypatch.setattr(counting, "recount", seen)
    targets = ["请保存第3个文件,然后单击确定按钮。", "打开帮助页面。", "Datei", "打开菜单。", "文件"]
    folder = make([("Open the file", target) for target in targets], "shard_size=1")
    outputs = [line["de"] for line in distilled_lines(folder)]
    expected = sacrebleu.corpus_bleu(outputs, [targets], tokenize="zh")
    assert manifest(folder)["bleu_against_original"] == expected.score
    assert "tok:zh" in manifest(folder)["bleu_signature"]
    assert asked == [BleuTokenizer.CHINESE]


def test_the_mean_score_is_exact(make: Make) -> None:
    folder = make([(f"Open file {i}", "Datei") for i in range(9)], "shard_size=2")
    scores = [line["score"] for line in distilled_lines(folder)]
    assert manifest(folder)["mean_score"] == pytest.approx(np.mean(scores), rel=1e-14)


def test_counts_of_pieces_add_up() -> None:
    outputs, references = ["a b c d e", "", "b c d e"], ["a b c d f", "x", "b c d e"]
    whole = BleuCounts.of(outputs, references, BleuTokenizer.MTEVAL)
    pieces = [BleuCounts.of([o], [r], BleuTokenizer.MTEVAL) for o, r in zip(outputs, references, strict=True)]
    assert sum(pieces, BleuCounts()) == whole == BleuCounts() + whole
    mixed = dataclasses.replace(whole, num_references=2) + whole
    assert "nrefs:var" in mixed.bleu(BleuTokenizer.MTEVAL)[1]


# --- shards ----------------------------------------------------------------------------------------


def test_no_folder_holds_more_than_a_thousand_files(tmp_path: Path) -> None:
    shards = Shards(tmp_path, total=100_000_000, size=8192)
    paths = [shards.path(shard) for shard in range(len(shards))] + [shards.about(s) for s in range(len(shards))]
    assert len(set(paths)) == 2 * 12208
    folders = [path.parent for path in paths]
    assert max(folders.count(folder) for folder in set(folders)) == 2 * IN_FOLDER == 1000
    assert shards.path(12207) == tmp_path / "024" / "shard-012207.jsonl"


def test_shards_of_an_earlier_nat_are_gone_on_with(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept them in one folder, without counts."""
    rows = [(f"Open file {i}", "Datei") for i in range(9)]
    whole = make(rows, "shard_size=3", name="whole")
    lines = (whole / "train.jsonl").read_text().splitlines(keepends=True)
    make(rows, "shard_size=3", name="old")
    old = tmp_path / "old"
    for name in ("train.jsonl", "manifest.json"):
        (old / name).unlink()
    (old / "parts").mkdir()
    for shard in (0, 2):
        (old / "parts" / f"shard-{shard:06d}.jsonl").write_text("".join(lines[3 * shard : 3 * shard + 3]))
    made: list[int] = []
    write = Shards.write
    monkeypatch.setattr(Shards, "write", lambda self, shard, *rest: made.append(shard) or write(self, shard, *rest))
    make(rows, "shard_size=3", name="old")
    assert made == [1]
    assert (old / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()
    differing = {key for key, value in manifest(old).items() if value != manifest(whole)[key]}
    assert differing <= {"date", "seconds_of_last_run"}


CLOSING = """
import json, sys, time
from nat.composition import compose
from nat.config import parse
from nat.distill.job import DistillConfig, prepare_job
from nat.distill.run import join
from nat.runs.lock import FolderLock
from nat.training.distributed import Ranks

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

config = parse(DistillConfig, compose("distill", sys.argv[2:]))
job = prepare_job(config, FolderLock(__import__("pathlib").Path(config.output), "output"))
for shard in range(len(job.shards)):
    path = job.shards.path(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        for i in job.shards.items(shard):
            texts = {"en": f"w{i % 97} and some more words in it {i}", "de": f"v{i % 97} und einige Wörter darin"}
            line = texts | {"score": i % 7 / -8, "line": i + 2, "rank": 0}
            file.write(json.dumps(line, ensure_ascii=False) + "\\n")
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
began = time.process_time()
manifest = join(job, 0.0, Ranks())
print(json.dumps({"lines": manifest["num_lines"], "before": before, "peak": memory("VmHWM"),
                  "seconds": time.process_time() - began}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory cannot be set back")
def test_closing_holds_a_few_lines_in_memory(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    """However many there are, and even where all are counted anew, as those of an earlier nat."""
    num_lines, text = int(os.environ.get("NAT_TEST_LINES", "100000")), tmp_path / "text.tsv"
    with open(text, "w", encoding="utf-8") as file:
        file.write("en\tde\n")
        for i in range(num_lines):
            file.write(f"w{i % 97} and some more words in it {i}\tv{i % 97} und einige Wörter da\n")
    options = [f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", f"data.train={text}"]
    options += ["data.columns=null", "data.max_words=null", "data.limit=null", "data.filters.max_tokens=1000"]
    command = [sys.executable, "-c", CLOSING, "--", *options, f"data.cache={tmp_path / 'cache'}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    print(found)
    assert found["lines"] == num_lines
    assert found["peak"] - found["before"] < 60, found
