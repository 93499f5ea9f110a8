"""A run whose targets are Chinese: no BLEU by 13a while training, and none after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import command

from nat.cli.decode import main as decode
from nat.cli.report import main as report


def run(main: object, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "device=cpu"])  # type: ignore[operator]
    return int(stop.value.code or 0)


def test_bleu_of_chinese(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [f"Save the file number {i}.\t请保存第{i}个文件,然后单击确定。\n" for i in range(40)]
    (tmp_path / "zh.tsv").write_text("en\tzh\n" + "".join(pairs), encoding="utf-8")
    texts = [f"data.{split}={tmp_path}/zh.tsv" for split in ("train", "valid", "test")]
    options = ["model=ctc", f"run_dir={tmp_path}/run", "data.target=zh", "data.columns=null"]
    options += ["data.tokenizer.vocabulary_size=80", "trainer.max_updates=4"]
    assert command(*small, *texts, *options) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("tok:zh" in line for line in lines)
    assert not any("tok:13a" in line for line in lines)
    assert run(decode, f"run_dir={tmp_path}/run", f"output={tmp_path}/out", "speed=false") == 0
    assert "tok:zh" in json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["bleu_signature"]
    options = [f"run_dirs=[{tmp_path}/run]", "speed_sentences=1", "plots=false", "max_sentences=3"]
    assert run(report, *options, f"output={tmp_path}/report", "bleu_tokenizer=char") == 0
    (row,) = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert "tok:char" in row["bleu_signature"]
    capsys.readouterr()
    assert run(decode, f"run_dir={tmp_path}/run", "bleu_tokenizer=chinese") == 2
    assert "bleu_tokenizer=chinese: allowed are 13a, intl, zh, ja-mecab" in capsys.readouterr().err
