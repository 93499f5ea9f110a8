"""A run that drafts, and the autoregressive run that checks: from text to text, and as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import command, distil, distilled_lines, make_run

import nat
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.errors import ConfigError, DataError

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


def test_a_tolerance_needs_a_drafter(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, refused = tiny_runs["autoregressive"], "decoding.tolerance: has no effect without drafter=RUN_DIR"
    assert command(f"run_dir={teacher}", "decoding.tolerance=1", "split=valid", name="decode") == 2
    assert refused in capsys.readouterr().err
    assert command(f"run_dirs=['{teacher}?tolerance=1']", f"output={tmp_path}/report", name="report") == 2
    assert refused in capsys.readouterr().err
    assert distil(f"teacher={teacher}", f"output={tmp_path}/d", "decoding.tolerance=1") == 2
    assert refused in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=refused):
        nat.load(teacher).translate(["Open"], tolerance=1.0)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
def test_what_is_too_long_for_the_drafter_is_translated_without_it(
    options: dict[str, Any], tiny_runs: dict[str, Path], tmp_path: Path
) -> None:
    teacher = nat.load(tiny_runs["autoregressive"])
    positions = {"kind": "learned", "max_length": 20}
    short = nat.load(make_run(tmp_path / "short", "ctc", {}, teacher.tokenizers, positions=positions))
    texts = ["Save.", "Open the file and save it. " * 3, "", "x " * 30]
    for sentences in (texts, texts[1:2]):
        found = teacher.candidates(sentences, drafter=short, **options)
        alone = teacher.candidates(sentences, **options)
        assert [item.texts for item in found] == [item.texts for item in alone]
        assert [item.passes for item in found if item.undrafted] == [
            item.passes for item, other in zip(alone, found, strict=True) if other.undrafted
        ]
        assert [item.undrafted for item in found] == [len(text) > 20 for text in sentences]
    with pytest.raises(DataError, match=r"line 2: .* tokens, but .*short takes at most 10"):
        short.translate(texts)


def test_a_report_says_how_many_had_no_draft(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    teacher = tiny_runs["autoregressive"]
    tokenizers = nat.load(teacher).tokenizers
    make_run(tmp_path / "short", "ctc", {}, tokenizers, positions={"kind": "learned", "max_length": 20})
    (tmp_path / "text.en").write_text("Save.\n" + "Open the file. " * 5 + "\n\n", encoding="utf-8")
    words = [f"run_dir={teacher}", f"source={tmp_path}/text.en", f"output={tmp_path}/out", "speed=false"]
    assert command(*words, f"drafter={tmp_path}/short", name="decode") == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["num_undrafted"] == 1
