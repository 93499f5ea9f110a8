"""A run that drafts, and the autoregressive run that checks: from text to text, and as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import command, distil, distilled_lines

import nat
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.errors import ConfigError

ODD = ["", "a", "?!", "ß€ 漢字 \u0301", "OK " * 40, "..........", "Ωμέγα save 123 456 <b>x</b>", "the the the the the"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    rows = (line.split("\t")[0] for line in read_lines(embedded_directory() / "lohelp" / "test.tsv.gz"))
    return [row for row in rows if len(row.split()) < 15][:40] + ODD


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "num_candidates": 2}, {"allow_unknown": False}])
def test_translations_are_the_same(options: dict[str, Any], lines: list[str], tiny_runs: dict[str, Path]) -> None:
    teacher, drafter = nat.load(tiny_runs["autoregressive"]), nat.load(tiny_runs["ctc"])
    expected = teacher.candidates(lines, **options)
    for batch_size in (1, 7, 64):
        found = teacher.candidates(lines, batch_size=batch_size, drafter=drafter, **options)
        assert [item.texts for item in found] == [item.texts for item in expected]
        assert [item.truncated for item in found] == [item.truncated for item in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-3)
    assert sum(item.passes for item in found) < sum(item.passes for item in expected)


def test_its_own_drafts_take_one_pass_each(lines: list[str], tiny_runs: dict[str, Path]) -> None:
    teacher = nat.load(tiny_runs["autoregressive"])
    assert {item.passes for item in teacher.candidates(lines, drafter=teacher)} == {0, 1}


def test_what_cannot_draft_is_refused(tiny_runs: dict[str, Path]) -> None:
    teacher, student = nat.load(tiny_runs["autoregressive"]), nat.load(tiny_runs["ctc"])
    with pytest.raises(ConfigError, match="a CTC checkpoint in torch checks no drafts"):
        student.translate(["Open"], drafter=teacher)
    with pytest.raises(ConfigError, match="drafts are checked in greedy search"):
        teacher.translate(["Open"], drafter=student, beam_size=4)
    with pytest.raises(ConfigError, match="their target tokenizers differ"):
        teacher.translate(["Open"], drafter=nat.load("embedded:en-de"))


def test_nat_decode_and_nat_report(tiny_runs: dict[str, Path], tmp_path: Path, lines: list[str]) -> None:
    teacher, drafter = tiny_runs["autoregressive"], tiny_runs["ctc"]
    (tmp_path / "text.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = [f"run_dir={teacher}", f"source={tmp_path}/text.en"]
    assert command(*words, f"output={tmp_path}/plain", "speed=false", name="decode") == 0
    assert command(*words, f"output={tmp_path}/drafted", f"drafter={drafter}", "speed_sentences=2", name="decode") == 0
    assert (tmp_path / "drafted").read_bytes() == (tmp_path / "plain").read_bytes()
    report = json.loads((tmp_path / "drafted.json").read_text(encoding="utf-8"))
    assert report["drafter"] == str(drafter)
    assert report["tokens_per_pass"] > 1
    entries = f"run_dirs=['{teacher}?name=plain','{teacher}?drafter={drafter}&name=drafted']"
    options = ["max_sentences=20", "speed_sentences=2", f"output={tmp_path}/report"]
    assert command(entries, *options, name="report") == 0
    plain, drafted = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert plain["bleu"] == drafted["bleu"]
    assert plain["passes"] > drafted["passes"]


def test_nat_distill(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    words = [f"teacher={tiny_runs['autoregressive']}", "data.limit=40"]
    assert distil(*words, f"output={tmp_path}/plain") == 0
    assert distil(*words, f"output={tmp_path}/drafted", f"drafter={tiny_runs['ctc']}") == 0
    plain, drafted = distilled_lines(tmp_path / "plain"), distilled_lines(tmp_path / "drafted")
    assert [line["de"] for line in drafted] == [line["de"] for line in plain]
    manifest = json.loads((tmp_path / "drafted" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["drafter"] == str(tiny_runs["ctc"])


def test_a_tolerance_needs_a_drafter(tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"run_dir={tiny_runs['autoregressive']}", "decoding.tolerance=1", "split=valid"]
    assert command(*words, name="decode") == 2
    assert "decoding.tolerance: has no effect without drafter=RUN_DIR" in capsys.readouterr().err
